"""Q4_K on llama.cpp: what is written, what is computed, what is found when damaged."""

from __future__ import annotations

import ctypes
import dataclasses
import json

import numpy as np
import pytest

from harness.backends.llama_cpp_backend import LlamaCppBackend
from harness.backends.llama_cpp_file import write_model
from harness.backends.llama_cpp_library import library
from harness.compare.explained import Explained
from harness.execution.api import record, run
from harness.models.load import load_model
from harness.numerics.layouts import read_gguf, write_gguf
from harness.schemes.catalogue import scheme_from_table
from harness.schemes.oracle import UNIT_ROUNDOFF
from tests.models import tiny_gguf
from tests.models.tiny_language import cached_in, write_tiny_suite

pytest.importorskip("xllamacpp", reason="needs the extra llamacpp")
gguf = pytest.importorskip("gguf", reason="needs the extra llamacpp")

WEIGHTS = {"format": "uint4", "granularity": "block", "block": 32, "rule": "ggml"}
INPUTS = {"format": "int8", "granularity": "block", "block": 256, "rule": "ggml"}
TEXT = "hello, what is 2 + 2? Numbers in fewer bits."
#: What follows `HEAD` of `tiny_language`.
SUITE = """\
batch = 8

[scheme.q4_k]
weights = { format = "uint4", granularity = "block", block = 32, rule = "ggml" }
activations = { format = "int8", granularity = "block", block = 256, rule = "ggml" }
keep = KEEP

[budget]
drift = 1.0
"logits.kl" = 1.0
"""
FAULTS = ("minimum", "shifted", "nibbles", "sign")
PLUGIN = """\
from tests.backends.test_llama_cpp_q4_k import FAULTS, Planted

def register(registry):
    for fault in FAULTS:
        registry.add_backend(Planted(fault))
"""


def scheme(**more):
    table = {"weights": WEIGHTS, "activations": INPUTS, "keep": ["lm_head"]}
    return scheme_from_table("q4_k", {**table, **more})


def damaged(rows, fault):
    """uint8 (rows, bytes) of a Q4_K tensor, with one thing wrong."""
    if fault == "shifted":
        made = read_gguf(rows, "Q4_K")
        made.steps[:] = np.roll(made.steps, 1, axis=1)
        return write_gguf(made, "Q4_K")
    found = rows.copy()
    blocks = found.reshape(len(rows), -1, 144)
    if fault == "minimum":
        # One sub-block of one row, one step of 63.
        blocks[3, 0, 9] ^= 1
    elif fault == "nibbles":
        blocks[..., 16:] = blocks[..., 16:] << 4 | blocks[..., 16:] >> 4
    elif fault == "sign":
        blocks[..., 3] ^= 0x80
    return found


class Planted(LlamaCppBackend):
    """llama.cpp with another tensor in the first block's down_proj."""

    def __init__(self, fault):
        super().__init__(name=f"planted-{fault}")
        self.fault = fault

    def load(self, model, scheme):
        """A changed copy of the file is what is loaded."""
        written = self.write(model, scheme)
        if scheme is not None:
            before = written.file.read_bytes()
            tensor = next(
                t
                for t in gguf.GGUFReader(written.file).tensors
                if t.name == "blk.0.ffn_down.weight"
            )
            rows = damaged(np.asarray(tensor.data), self.fault)
            at, size = int(tensor.data_offset), int(tensor.n_bytes)
            after = before[:at] + rows.tobytes() + before[at + size :]
            copy = written.file.with_name(f"{self.name}.gguf")
            copy.write_bytes(after)
            written = dataclasses.replace(written, file=copy)
        return self.open_written(model, scheme, written)


@pytest.fixture(scope="module", autouse=True)
def folder(tmp_path_factory):
    with cached_in(tmp_path_factory.mktemp("wide"), threads="1") as found:
        yield found


@pytest.fixture(scope="module")
def model(folder):
    """Rows of 256 throughout."""
    tiny_gguf.write_gguf(folder / "wide.gguf", seed=3, inner=256, hidden=256)
    return load_model("wide.gguf", folder)


def explained(model, said, *, declared=None, repacked=True):
    """Residual over what is explained, of every operator that `said` quantizes."""
    ids = np.array([model.prompt_tokens({"text": TEXT})])
    asked = {
        "input_ids": ids,
        "attention_mask": np.ones_like(ids),
        "positions": np.array([[3, ids.shape[1] - 1]]),
    }
    names = {o.name: o for o in model.operators() if o.name.endswith("_proj")}
    session = LlamaCppBackend(extra_buffers=repacked).load(model, said)
    found = session.run(asked, capture=names)
    sums = Explained(declared or said, session.arithmetic(), calls=1)
    for name, operator in names.items():
        sums.add(operator, found[f"{name}/input"], found[name])
    detail = session.arithmetic().detail
    session.close()
    assert 14 == len(sums.result())
    return [e.residual_sq / e.explained_sq for e in sums.result()], detail


@pytest.mark.parametrize("repacked", [True, False])
def test_every_product_is_the_scheme_s(model, repacked):
    """Both kernels, inputs rounded in blocks of 256; in blocks of 32, or left, not."""
    own, detail = explained(model, scheme(), repacked=repacked)
    small = scheme(activations={**INPUTS, "block": 32})
    others = [
        explained(model, scheme(), declared=said, repacked=repacked)[0]
        for said in (small, scheme(activations=False))
    ]

    assert "14 products of q4_K" in detail
    assert "Q4_K weights by inputs in Q8_K" in detail
    assert max(own) < 1
    assert min(map(min, others)) > 100


def test_the_file_is_what_llama_cpp_would_write(model):
    """Every tensor's bytes are those of ggml's quantizer in the loaded library."""
    written = write_model(model, scheme(), "fp16")
    tensors = {t.name: t for t in gguf.GGUFReader(written.file).tensors}
    chunk = library().c.ggml_quantize_chunk
    pointer, count = ctypes.c_void_p, ctypes.c_int64
    chunk.argtypes = [ctypes.c_int, pointer, pointer, count, count, count, pointer]
    chunk.restype = ctypes.c_size_t
    for operator in model.operators():
        if not operator.name.endswith(("v_proj", "o_proj", "up_proj", "down_proj")):
            # The rows of queries and keys are interleaved.
            continue
        stored = tensors[written.names[operator.name]]
        x = np.ascontiguousarray(operator.weight, np.float32)
        wanted = np.zeros(stored.data.shape, np.uint8)
        number = int(stored.tensor_type)
        chunk(number, x.ctypes.data, wanted.ctypes.data, 0, *x.shape, None)
        assert stored.tensor_type.name == "Q4_K"
        assert np.array_equal(stored.data, wanted)


def test_rows_that_are_no_super_blocks_are_refused(folder):
    """By tensor and width, with what to do; kept, they are F16 and the rest runs."""
    tiny_gguf.write_gguf(folder / "narrow.gguf", seed=3, inner=512)
    narrow = load_model("narrow.gguf", folder)
    found = LlamaCppBackend().supports(narrow, scheme())

    assert not found.supported
    assert "q_proj: rows of 32, no blocks of 256 [12 operators]" in found.reason
    assert "name them in `keep`" in found.reason
    assert 12 == len(found.operators)
    kept = scheme(keep=["lm_head", "*.self_attn.*", "*.up_proj", "*.gate_proj"])
    assert LlamaCppBackend().supports(narrow, kept).supported
    session = LlamaCppBackend().load(narrow, kept)
    detail, artifact = session.arithmetic().detail, session.artifact()
    session.close()
    assert "13 products of f16, 2 products of q4_K" in detail
    assert UNIT_ROUNDOFF["fp16"] == UNIT_ROUNDOFF[session.arithmetic().products]
    assert {n.rpartition(".")[2] for n in artifact.weights} == {"down_proj"}
    assert len(artifact.untouched) == 12


@pytest.mark.parametrize("activations", [{**INPUTS, "block": 32}, False])
def test_inputs_must_be_said_as_they_are(model, activations):
    """In blocks of 256; where nothing is said the artifact is what fails."""
    found = LlamaCppBackend().supports(model, scheme(activations=activations))

    assert found.supported == (activations is False)
    assert not activations or (
        'Q4_K with inputs as { format = "int8", granularity = "block", block = 256, '
        'rule = "ggml" }' in found.reason
    )


def records():
    """Forty short texts."""
    words = ("the", "sea", "was", "calm", "and", "an", "old", "boat", "lay", "near")
    for index in range(40):
        text = " ".join(words[(index * 7 + i * (1 + index % 3)) % 10] for i in range(6))
        yield {"id": f"c{index}", "text": text, "tags": []}


def suite(folder, keep, backends):
    """A suite of a 256 wide model on disk."""
    tables = [f'[[target]]\nbackend = "{name}"\nscheme = "q4_k"\n' for name in backends]
    text = "\n".join([SUITE.replace("KEEP", json.dumps(keep)), *tables])
    write_tiny_suite(folder, text, records(), seed=5, inner=256, hidden=256)
    (folder / "plugin.py").write_text(PLUGIN)
    plugins = [str(folder / "plugin.py")]
    record([folder], plugins=plugins, allow_ci=True, allow_dirty=True)
    report = run([folder], plugins=plugins, out=folder / "run")
    return {target.backend: target for target in report.targets}


@pytest.fixture(scope="module")
def targets(folder):
    """Recorded and run, all linears in Q4_K: as it is, and planted in one of them."""
    names = ["llama.cpp", *(f"planted-{fault}" for fault in FAULTS)]
    return suite(folder / "all", ["lm_head"], names)


@pytest.mark.quant_slow
def test_the_harness_passes_it(targets):
    """Artifact, stability, every operator: nothing is left over."""
    target = targets["llama.cpp"]

    assert "pass" == str(target.verdict), target.reason
    assert 14 == len(target.operators)
    assert all(o.unexplained <= o.limit for o in target.operators)


@pytest.mark.quant_slow
@pytest.mark.parametrize("fault", FAULTS)
def test_the_harness_finds_what_is_planted(targets, fault):
    """In the stored bytes, and in what the kernel makes of them; by its name."""
    target = targets[f"planted-{fault}"]
    failed = {c.check: c.reason for c in target.checks if c.verdict.fails}

    assert "defect" == str(target.verdict)
    assert {"artifact", "explained"} <= set(failed)
    assert "model.layers.0.mlp.down_proj" in failed["artifact"]
    assert "model.layers.0.mlp.down_proj" in failed["explained"]
    guilty = [o.name for o in target.operators if o.unexplained > o.limit]
    assert ["model.layers.0.mlp.down_proj"] == guilty


@pytest.mark.quant_slow
def test_the_harness_passes_down_proj_alone(folder):
    """All else in F16, its inputs rounded to F16 between the quantized operators."""
    keep = ["lm_head", "*.self_attn.*", "*.up_proj", "*.gate_proj"]
    target = suite(folder / "down", keep, ["llama.cpp"])["llama.cpp"]

    assert "pass" == str(target.verdict), target.reason
    assert 2 == len(target.operators)
    assert "unexplained.between" in target.measurements
