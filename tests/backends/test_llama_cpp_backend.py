"""llama.cpp runs what we wrote, computes what schemes say, refuses what is wrong."""

from __future__ import annotations

import dataclasses
import json
import os
import socket
import subprocess
import sys

import numpy as np
import pytest

from harness.backends import (
    llama_cpp_engine,
    llama_cpp_file,
    llama_cpp_library,
)
from harness.backends.llama_cpp_backend import LlamaCppBackend
from harness.backends.llama_cpp_file import DIGEST, inputs_of, write_model
from harness.backends.llama_cpp_observe import product
from harness.backends.protocol import Request
from harness.backends.registry import load_registry
from harness.backends.torch_backend import TorchBackend
from harness.compare.explained import Explained
from harness.errors import BackendError, CasesError, UnsupportedError
from harness.execution.metamorphic import ask_again
from harness.models.load import load_model
from harness.models.types import Case
from harness.schemes.apply import quantize_weight
from harness.schemes.catalogue import scheme_by_name, scheme_from_table
from harness.schemes.types import Scheme, TensorScheme
from tests.models.tiny_gguf import write_gguf
from tests.models.tiny_language import cached_in

pytest.importorskip("xllamacpp", reason="needs the extra llamacpp")
gguf = pytest.importorskip("gguf", reason="needs the extra llamacpp")

TEXT = "hello, what is 2 + 2? Numbers in fewer bits."
ASK = {"format": "int8", "granularity": "block", "block": 32, "rule": "ggml"}
WEIGHTS = {
    "Q8_0": ASK,
    "Q4_0": {**ASK, "format": "int4"},
    "MXFP4": {"format": "mxfp4", "rule": "ggml"},
}
#: Products of float32 in another order, inputs and values of attention in FP16.
NEAR_FP16 = 2e-3


def scheme(kind, **more):
    """The GGUF type with inputs as llama.cpp rounds them."""
    table = {"weights": WEIGHTS[kind], "activations": ASK, "keep": ["lm_head"]}
    return scheme_from_table(kind.lower(), {**table, **more})


@pytest.fixture(scope="module", autouse=True)
def folder(tmp_path_factory):
    with cached_in(tmp_path_factory.mktemp("tiny"), threads="1") as found:
        yield found


@pytest.fixture(scope="module")
def model(folder):
    write_gguf(folder / "tiny.gguf", seed=3, inner=64)
    return load_model("tiny.gguf", folder)


@pytest.fixture(scope="module")
def reference(model):
    session = LlamaCppBackend("fp32").load(model, None)
    yield session
    session.close()


@pytest.fixture(scope="module")
def quantized(model):
    session = LlamaCppBackend().load(model, scheme("Q8_0"))
    yield session
    session.close()


def inputs(model, text=TEXT, positions=(0, 3, -1)):
    """One row of tokens, logits wanted at some of them."""
    ids = np.array([model.prompt_tokens({"text": text})])
    where = np.array([[p % ids.shape[1] for p in positions]])
    return {"input_ids": ids, "attention_mask": np.ones_like(ids), "positions": where}


def relative(found, wanted):
    return np.linalg.norm(found - wanted) / np.linalg.norm(wanted)


def linears(model):
    return [o.name for o in model.operators() if o.name != "lm_head"]


def test_it_computes_what_torch_computes(model, reference):
    """Weights, rotary embeddings, norms, positions: all found their place."""
    asked = inputs(model)
    wanted = TorchBackend("fp32").load(model, None).run(asked)["logits"]

    assert relative(reference.run(asked)["logits"], wanted) < NEAR_FP16


@pytest.mark.parametrize("kind", WEIGHTS)
def test_every_product_is_the_scheme_s(model, kind):
    """Each operator's output is the oracle's on its own input, within roundings.

    The same without quantized inputs, which is what the file says, is far off.
    """
    asked, names = inputs(model), linears(model)
    by_name = {operator.name: operator for operator in model.operators()}
    session = LlamaCppBackend().load(model, scheme(kind))
    found = session.run(asked, capture=names)
    residuals = {}
    for said in (scheme(kind), scheme(kind, activations=False)):
        explained = Explained(said, session.arithmetic(), calls=1)
        for name in names:
            explained.add(by_name[name], found[f"{name}/input"], found[name])
        entries = explained.result()
        residuals[said.activations] = [
            entry.residual_sq / entry.explained_sq for entry in entries
        ]
    session.close()

    assert 14 == len(residuals[None])
    assert max(residuals[inputs_of(kind)]) < 1
    assert min(residuals[None]) > 1000


@pytest.mark.parametrize("kind", WEIGHTS)
def test_the_file_is_what_llama_cpp_would_write(model, kind):
    """Bytes are those of ggml's reference code, in the gguf package."""
    written = write_model(model, scheme(kind), "fp16")
    tensors = {t.name: t for t in gguf.GGUFReader(written.file).tensors}
    operator = next(o for o in model.operators() if o.name.endswith("up_proj"))
    stored = tensors[written.names[operator.name]]
    wanted = gguf.quants.quantize(
        np.float32(operator.weight), gguf.GGMLQuantizationType[kind]
    )

    assert stored.tensor_type.name == kind
    assert np.array_equal(np.asarray(stored.data), wanted)


def test_the_artifact_is_read_back(model, quantized):
    """Every linear's codes, heads put back in order; inputs are quantized too."""
    found = quantized.artifact()
    for operator in model.operators():
        if operator.name == "lm_head":
            continue
        exact = quantize_weight(operator, scheme("Q8_0")).dequantize()
        assert np.array_equal(found.weights[operator.name].decoded, exact)

    assert set(found.activations) == set(linears(model))
    assert "210" not in quantized.arithmetic().detail
    assert "14 products of q8_0" in quantized.arithmetic().detail
    assert quantized.arithmetic().execution == "native"


def test_ways_to_ask_the_same(model, quantized):
    """Again, beside padding, before other tokens: the same bits; in pieces: near."""
    asked = inputs(model)
    case = Case(id="a", inputs=asked)
    first = quantized.run(asked)["logits"]
    found = ask_again(quantized, [case])

    assert np.array_equal(quantized.run(asked)["logits"], first)
    assert np.array_equal(found["padding"]["a"]["logits"], first)
    assert relative(found["what follows"]["a"]["logits"], first) < 0.05
    assert relative(found["cache"]["a"]["logits"], first) < 0.05


def test_rows_of_a_batch_and_order_of_positions(model, reference):
    """Two rows in one call are the rows alone; logits come in the order asked for."""
    one, two = inputs(model), inputs(model, TEXT.replace("2 + 2", "3 + 4"))
    both = {name: np.concatenate([one[name], two[name]]) for name in one}
    found = reference.run(both)["logits"]
    back = reference.run({**one, "positions": one["positions"][:, ::-1]})["logits"]

    for row, asked in enumerate((one, two)):
        assert relative(found[row], reference.run(asked)["logits"][0]) < NEAR_FP16
    assert np.array_equal(back[:, ::-1], reference.run(one)["logits"])


def requests(model, **more):
    return [
        Request(
            name=text,
            tokens=np.array(model.prompt_tokens({"text": text})),
            longest=9,
            **more,
        )
        for text in ("hello", "h", "what is 2 + 2?")
    ]


def test_greedy_replies_are_the_likeliest_tokens(model, reference):
    """Token by token, by running the whole sequence anew."""
    for request, found in zip(
        requests(model),
        reference.generate(requests(model), batch=1).values(),
        strict=True,
    ):
        ids = [*request.tokens.tolist(), *found.tokens.tolist()]
        asked = {
            "input_ids": np.array([ids]),
            "attention_mask": np.ones((1, len(ids)), np.int64),
            "positions": np.arange(len(request.tokens) - 1, len(ids) - 1)[None],
        }
        logits = reference.run(asked)["logits"][0]
        # Another order of sums may turn a tie.
        chosen = np.take_along_axis(logits, found.tokens[:, None], axis=1)[:, 0]
        assert (logits.max(axis=1) - chosen < 0.02).all()
        assert found.ended == (found.tokens[-1] == model.end)


def test_sampling_is_seeded_and_drawn_as_on_torch(model, reference):
    """The same seed is the same reply, beside others too; torch draws alike."""
    asked = requests(model, temperature=0.7, seed=4)
    alone = reference.generate(asked, batch=1)
    beside = reference.generate(asked, batch=3)
    other = reference.generate(requests(model, temperature=0.7, seed=5), batch=3)
    torch_replies = TorchBackend("fp32").load(model, None).generate(asked, batch=3)

    def tokens(found):
        return {name: reply.tokens.tolist() for name, reply in found.items()}

    assert tokens(alone) == tokens(beside) == tokens(torch_replies)
    assert tokens(alone) != tokens(other)


_SERVER = """
import json, sys, xllamacpp
p = xllamacpp.CommonParams()
p.model.path, ids = sys.argv[1], json.loads(sys.argv[2])
p.n_ctx, p.n_parallel, p.port, p.warmup = 256, 1, int(sys.argv[3]), False
p.cpuparams.n_threads = 1
asked = {"prompt": ids, "n_predict": 1, "n_probs": 20, "cache_prompt": False}
answer = xllamacpp.Server(p).handle_completions({**asked, "temperature": 0})
tops = answer["choices"][0]["logprobs"]["content"][0]["top_logprobs"]
print("ANSWER", json.dumps([[t["id"], t["logprob"]] for t in tops]))
"""


def test_llama_cpp_s_own_server_says_the_same(model, quantized):
    """Its server's log-probabilities are those of the logits that we read."""
    file = write_model(model, scheme("Q8_0"), "fp16").file
    # After all of it the likeliest token is the end, of which the server says nothing.
    text = TEXT[:11]
    ids = model.prompt_tokens({"text": text})
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    done = subprocess.run(
        [sys.executable, "-c", _SERVER, str(file), json.dumps(ids), str(port)],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr[-400:]
    line = next(x for x in done.stdout.splitlines() if x.startswith("ANSWER "))
    answer = json.loads(line.removeprefix("ANSWER "))
    logits = quantized.run(inputs(model, text, (-1,)))["logits"][0, 0]
    wide = logits.astype(np.float64)
    log_p = wide - np.log(np.exp(wide - wide.max()).sum()) - wide.max()

    assert 20 == len(answer)
    assert [i for i, _ in answer] == np.argsort(-log_p, kind="stable")[:20].tolist()
    for token, value in answer:
        assert abs(log_p[token] - value) < 1e-5


@pytest.mark.parametrize(
    ("said", "message"),
    [
        (scheme_by_name("fp8_e4m3"), "no GGUF type"),
        (scheme_by_name("int4"), 'rule = "ggml"'),
        (
            Scheme(
                name="k",
                weights=None,
                kv_cache=TensorScheme(format="int8", granularity="head"),
            ),
            "only schemes of weights",
        ),
        (
            dataclasses.replace(
                scheme("Q8_0"),
                activations=TensorScheme(format="fp8_e4m3", granularity="row"),
            ),
            "multiplies Q8_0 with inputs as",
        ),
        (
            scheme_from_table(
                "n",
                {"weights": {"format": "nvfp4", "rule": "ggml"}, "activations": ASK},
            ),
            "no blocks of 64",
        ),
    ],
)
def test_schemes_that_no_file_holds(model, said, message):
    """The reason says what would do."""
    found = LlamaCppBackend().supports(model, said)

    assert not found.supported
    assert message in found.reason


def test_only_language_models(folder):
    """A model without a tokenizer is not for llama.cpp."""
    found = LlamaCppBackend().supports(object.__new__(_Plain), scheme("Q8_0"))

    assert "no language model" in found.reason


class _Plain:
    name = "plain"


def test_a_prompt_longer_than_the_context(model, quantized):
    """256 tokens is all that this model has: a sentence, no crash."""
    ids = np.zeros((1, 257), np.int64)
    asked = {
        "input_ids": ids,
        "attention_mask": np.ones_like(ids),
        "positions": np.array([[3]]),
    }

    with pytest.raises(BackendError, match=r"257 tokens.*context is 256"):
        quantized.run(asked)
    with pytest.raises(BackendError, match="context is 256"):
        quantized.generate([Request(name="a", tokens=ids[0, :250], longest=7)], batch=1)


def test_a_closed_session(model):
    """Says so; closing twice does nothing."""
    session = LlamaCppBackend().load(model, scheme("Q8_0"))
    session.close()
    session.close()

    with pytest.raises(BackendError, match="closed"):
        session.run(inputs(model))


@pytest.fixture
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("QUANTHARNESS_CACHE", str(tmp_path))


def test_a_model_without_a_chat_template(folder, own_cache):
    """It runs on texts; a prompt, which would need the template, is refused."""
    write_gguf(folder / "bare.gguf", seed=3, inner=64, template=None)
    bare = load_model("bare.gguf", folder)
    session = LlamaCppBackend().load(bare, scheme("Q8_0"))
    logits = session.run(inputs(bare))["logits"]
    texts = session.handshake.texts
    session.close()

    assert np.isfinite(logits).all()
    assert 3 == texts
    with pytest.raises(CasesError, match="no chat template"):
        bare.prompt_tokens({"prompt": TEXT})


def test_a_truncated_file(model, own_cache):
    """llama.cpp's own reason, not a crash."""
    file = write_model(model, scheme("Q8_0"), "fp16").file
    file.write_bytes(file.read_bytes()[:-5000])

    with pytest.raises(BackendError, match=r"does not load .*\.gguf: .*"):
        LlamaCppBackend().load(model, scheme("Q8_0"))


def test_the_cache_keeps_what_was_used_last(model, own_cache, monkeypatch):
    """A third file takes the place of the one that was not used for longest."""
    monkeypatch.setattr(llama_cpp_file, "KEPT", 2)
    kinds = ("Q8_0", "Q4_0")
    first, second = (write_model(model, scheme(k), "fp16").file for k in kinds)
    for file, age in ((first, 50), (second, 90)):
        os.utime(file, (file.stat().st_mtime - age,) * 2)
    assert write_model(model, scheme("Q4_0"), "fp16").file == second
    third = write_model(model, scheme("MXFP4"), "fp16").file

    assert not first.exists()
    assert second.exists()
    assert third.exists()


def test_another_model_s_file(model, own_cache, folder):
    """The digest in the file is not this model's."""
    written = write_model(model, scheme("Q8_0"), "fp16")
    other = write_model(model, scheme("MXFP4"), "fp16")
    written.file.write_bytes(other.file.read_bytes())

    with pytest.raises(BackendError, match="not written from this model"):
        LlamaCppBackend().load(model, scheme("Q8_0"))


def test_a_foreign_tokenizer(model, own_cache):
    """Ids of a known text differ: where, and what each makes of it."""
    written = write_model(model, scheme("Q8_0"), "fp16")
    data = written.file.read_bytes()
    # Two letters of the vocabulary change places; the file stays as long as it was.
    letters = b"\x01\0\0\0\0\0\0\0e", b"\x01\0\0\0\0\0\0\0i"
    written.file.write_bytes(_swap(data, *letters))

    with pytest.raises(BackendError, match="it is another tokenizer"):
        LlamaCppBackend().load(model, scheme("Q8_0"))


def _swap(data, first, second):
    """Both replaced by each other."""
    parts = [part.replace(second, first) for part in data.split(first)]
    return second.join(parts)


def test_a_stored_weight_that_is_another(model, own_cache):
    """A flipped bit of one code shows in the artifact."""
    written = write_model(model, scheme("Q8_0"), "fp16")
    tensor = next(
        t for t in gguf.GGUFReader(written.file).tensors if "ffn_up" in t.name
    )
    data = bytearray(written.file.read_bytes())
    data[tensor.data_offset + 7] ^= 64
    written.file.write_bytes(data)
    session = LlamaCppBackend().load(model, scheme("Q8_0"))
    name = next(o for o, t in written.names.items() if t == tensor.name)
    operator = next(o for o in model.operators() if o.name == name)
    decoded = session.artifact().weights[name].decoded
    session.close()

    assert not np.array_equal(
        decoded, quantize_weight(operator, scheme("Q8_0")).dequantize()
    )


def test_parameters_laid_out_otherwise_are_seen(monkeypatch):
    """Another version of llama.cpp is unavailable, not wrong."""
    wrong = {**llama_cpp_library.CONTEXT_DEFAULTS, "n_ubatch": 513}
    monkeypatch.setattr(llama_cpp_library, "CONTEXT_DEFAULTS", wrong)

    with pytest.raises(UnsupportedError, match=r"n_ubatch=512.*otherwise"):
        llama_cpp_library.Library(llama_cpp_library.library_file())


def test_a_missing_package(monkeypatch):
    """The command that adds it."""
    monkeypatch.setattr(llama_cpp_library.importlib.util, "find_spec", lambda _: None)
    found = LlamaCppBackend().probe()

    assert not found.available
    assert "llamacpp" in found.reason


class _Told(frozenset):
    """Names of operators, and someone who is told of each."""


def test_what_a_watcher_raises_is_raised(model):
    """It does not vanish in C, and the next run is whole."""
    session = LlamaCppBackend().load(model, scheme("Q8_0"))
    asked, names = inputs(model), _Told(linears(model))

    def observer(name, x, y):
        raise RuntimeError(f"told of {name}")

    names.observer = observer
    with pytest.raises(RuntimeError, match="told of model"):
        session.run(asked, capture=names)

    first = session.run(asked)["logits"]
    again = session.run(asked, capture=linears(model))["logits"]
    session.close()
    assert np.array_equal(first, again)


def test_a_node_of_another_layout_is_seen(model, quantized, monkeypatch):
    """A tensor whose name is not where it should be is no tensor of ours."""
    c = llama_cpp_library.library().c
    address = _any_product(model)
    monkeypatch.setattr(c, "ggml_get_name", lambda _: b"another")

    with pytest.raises(UnsupportedError, match="lays its tensors out"):
        product(address)


def _any_product(model):
    """Address of a node that multiplies, kept alive by its context."""
    written = write_model(model, scheme("Q8_0"), "fp16")
    loaded = llama_cpp_engine.LoadedModel(written.file)
    c, seen = llama_cpp_library.library().c, []

    def watch(address, asked):
        if c.ggml_op_desc(address) == b"MUL_MAT":
            seen.append(address)
        return not asked

    context = llama_cpp_engine.Context(loaded, sequences=1, length=256, watch=watch)
    context.decode([1], [0], [0], [True])
    _KEPT.extend([loaded, context])
    return seen[0]


_KEPT: list = []


def test_the_key_is_in_the_file_and_the_registry_knows_it(model, quantized):
    """Found as `llama.cpp`, with its variants; files carry their digest."""
    registry = load_registry()
    plain = registry.backend("llama.cpp@plain")

    assert plain.extra_buffers is False
    assert registry.backend("llama.cpp@unfused").fused is False
    assert DIGEST == "quantharness.digest"
    assert "fused attention" in quantized.arithmetic().detail
    unfused = registry.backend("llama.cpp@unfused").load(model, scheme("Q8_0"))
    assert "plain attention" in unfused.arithmetic().detail
    unfused.close()
