"""A language model as a GGUF file: weights quantized by our numerics, written once.

The file is what llama.cpp's own converter and quantizer would write of the model, kept
in the user's cache folder under a digest of every number in it.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from harness.backends.llama_cpp_vocabulary import (
    Vocabulary,
    read_vocabulary,
    write_vocabulary,
)
from harness.backends.protocol import QuantizedTensor
from harness.errors import MissingExtraError, UnsupportedError
from harness.models.export import cache_folder
from harness.models.gguf_file import BLOCK_NAMES, OUTER_NAMES
from harness.models.types import Model, Operator
from harness.numerics import find_format
from harness.numerics.layouts.gguf import GGUF_TYPES, read_gguf, write_gguf
from harness.schemes.apply import plan_one, quantize_weight
from harness.schemes.ggml import RULE
from harness.schemes.types import Scheme, TensorScheme

Array = np.ndarray[Any, np.dtype[Any]]

#: Part of the cache's key: raise it when what is written changes.
_VERSION: Final = "1"
#: Files that stay in the cache.
KEPT: Final = 12
#: Metadata key of a file's digest.
DIGEST: Final = "quantharness.digest"
_PLAIN: Final[Mapping[str, str]] = {"fp16": "F16", "fp32": "F32"}
#: Format of the elements -> GGUF type.
_TYPES: Final[Mapping[str, str]] = {
    entry.format: kind for kind, entry in GGUF_TYPES.items()
}


def gguf_kind(tensor: TensorScheme) -> str:
    """The GGUF type that holds the weights of a scheme bit by bit.

    Raises:
        UnsupportedError: none does; says why.
    """
    if tensor.format == "fp16":
        return "F16"
    kind = _TYPES.get(tensor.format)
    if kind is None:
        raise UnsupportedError(f"no GGUF type that is written here has {tensor.format}")
    block = tensor.block or find_format(tensor.format).block
    exact = block == GGUF_TYPES[kind].group and (
        tensor.rule == RULE
        or kind == "MXFP4"
        or (kind == "NVFP4" and tensor.rule == "no_global")
    )
    if not exact:
        raise UnsupportedError(
            f"{kind} does not hold {tensor.format} by the rule {tensor.rule!r} in "
            f"blocks of {tensor.block}: its scales are its own. Give the scheme "
            f'rule = "{RULE}" and block = {GGUF_TYPES[kind].group}'
        )
    return kind


def inputs_of(kind: str) -> TensorScheme:
    """What llama.cpp makes of the input of a weight of this GGUF type."""
    if kind == "F16":
        return TensorScheme(format="fp16", granularity="tensor")
    # Q8_K where the weight is in super-blocks, else Q8_0.
    block = 256 if GGUF_TYPES[kind].block == 256 else 32
    return TensorScheme(format="int8", granularity="block", block=block, rule=RULE)


@dataclass(frozen=True)
class Written:
    """A GGUF file of ours.

    Attributes:
        file: where it lies.
        digest: of its content, also in it under `quantharness.digest`.
        names: our operator -> its tensor.
        heads: our operator -> heads, where the rows of each are interleaved.
    """

    file: Path
    digest: str
    names: Mapping[str, str]
    heads: Mapping[str, int]


def write_model(model: Model, scheme: Scheme | None, precision: str) -> Written:
    """The model under a scheme as a file in the cache, written if it is not there.

    Args:
        model: a language model of the Llama family.
        scheme: of the weights; None: all in `precision`.
        precision: "fp16" or "fp32", of what is not quantized but for the norms.

    Raises:
        UnsupportedError: another family, tokenizer, precision or format.
        MissingExtraError: gguf is not installed.
    """
    if precision not in _PLAIN:
        raise UnsupportedError(f"llama.cpp does not run models in {precision} here")
    config = _config(model)
    operators = {operator.name: operator for operator in model.operators()}
    source = _Source(
        config=config,
        vocabulary=read_vocabulary(_folder(model)),
        state=_state(model),
        operators=operators,
        scheme=scheme,
        precision=precision,
        heads=_heads(config, operators),
    )
    names = _names(source.state)
    if config.get("tie_word_embeddings"):
        names.pop("lm_head", None)
    digest = _digest(source)
    file = cache_folder() / "llama.cpp" / f"{model.name}-{digest[:40]}.gguf"
    if file.is_file():
        # Used now: `_forget` takes those that were not for longest.
        with contextlib.suppress(OSError):
            os.utime(file)
    else:
        _write(file, source, names, digest, model.name)
        _forget(file.parent)
    kept = {name: tensor for name, tensor in names.items() if name in operators}
    return Written(file, digest, kept, source.heads)


@dataclass(frozen=True, kw_only=True, eq=False)
class _Source:
    """Everything that a file is made of."""

    config: Mapping[str, Any]
    vocabulary: Vocabulary
    #: Every tensor of the module by name, float32.
    state: Mapping[str, Array]
    operators: Mapping[str, Operator]
    scheme: Scheme | None
    precision: str
    #: Operator -> heads, where llama.cpp interleaves their rows.
    heads: Mapping[str, int]

    def quantizes(self, name: str) -> bool:
        """Whether the scheme quantizes the weight of that name."""
        operator = self.operators.get(name)
        if operator is None or self.scheme is None:
            return False
        return plan_one(self.scheme, operator).weights


def _folder(model: Model) -> Path:
    folder = getattr(model, "folder", None)
    if folder is None:
        raise UnsupportedError(
            f"{model.name} is no language model: llama.cpp runs those"
        )
    return Path(folder)


def _config(model: Model) -> dict[str, Any]:
    file = _folder(model) / "config.json"
    config: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
    wrong = {
        "model_type": config.get("model_type") != "llama",
        "rope_parameters": rope.get("rope_type", "default") != "default",
        "attention_bias": bool(config.get("attention_bias")),
        "mlp_bias": bool(config.get("mlp_bias")),
        "hidden_act": config.get("hidden_act", "silu") != "silu",
    }
    for key in (key for key, bad in wrong.items() if bad):
        raise UnsupportedError(
            f"{file}: {key}={config.get(key)!r}, but only plain Llama models are "
            "written as GGUF"
        )
    return config


def _state(model: Model) -> dict[str, Array]:
    """Every tensor of the module by name, float32."""
    state = model.module().state_dict()
    return {name: tensor.float().numpy() for name, tensor in state.items()}


def _names(state: Mapping[str, Array]) -> dict[str, str]:
    """Our name without `.weight` -> llama.cpp's tensor."""
    inner = {ours: theirs for theirs, ours in BLOCK_NAMES.items()}
    outer = {ours: theirs for theirs, ours in OUTER_NAMES.items()}
    found = {}
    for name in state:
        stem, _, leaf = name.rpartition(".")
        if leaf != "weight":
            raise UnsupportedError(f"{name} has no place in a GGUF file of Llama")
        if stem.startswith("model.layers."):
            index, _, rest = stem.removeprefix("model.layers.").partition(".")
            theirs = inner.get(rest) and f"blk.{index}.{inner[rest]}"
        else:
            theirs = outer.get(stem)
        if not theirs:
            raise UnsupportedError(f"{name} has no place in a GGUF file of Llama")
        found[stem] = f"{theirs}.weight"
    return found


def _heads(
    config: Mapping[str, Any], operators: Mapping[str, Operator]
) -> dict[str, int]:
    queries = int(config["num_attention_heads"])
    keys = int(config.get("num_key_value_heads") or queries)
    return {
        name: queries if name.endswith("q_proj") else keys
        for name in operators
        if name.endswith((".q_proj", ".k_proj"))
    }


def interleaved(rows: Array, heads: int) -> Array:
    """The two halves of each head row by row, as llama.cpp rotates them."""
    split = rows.reshape(heads, 2, rows.shape[0] // heads // 2, *rows.shape[1:])
    return np.ascontiguousarray(split.swapaxes(1, 2)).reshape(rows.shape)


def halves(rows: Array, heads: int) -> Array:
    """What `interleaved` undoes: the order that transformers rotates them in."""
    split = rows.reshape(heads, rows.shape[0] // heads // 2, 2, *rows.shape[1:])
    return np.ascontiguousarray(split.swapaxes(1, 2)).reshape(rows.shape)


def _tensors(
    source: _Source, names: Mapping[str, str]
) -> Iterator[tuple[str, Array, str]]:
    """llama.cpp's name, array or bytes, GGUF type."""
    for name, theirs in names.items():
        values = source.state[f"{name}.weight"]
        if name in source.operators:
            values = np.asarray(source.operators[name].weight, np.float32)
        kind = "F32" if values.ndim == 1 else _PLAIN[source.precision]
        scheme = source.scheme
        if source.quantizes(name) and scheme is not None and scheme.weights is not None:
            kind = gguf_kind(scheme.weights)
        if kind in GGUF_TYPES:
            assert scheme is not None  # sanity check
            quantized = quantize_weight(source.operators[name], scheme)
            array = write_gguf(quantized, kind)
        else:
            array = values.astype(np.float16 if kind == "F16" else np.float32)
        if name in source.heads:
            array = interleaved(array, source.heads[name])
        yield theirs, array, kind


def _digest(source: _Source) -> str:
    """Of everything that goes into the file."""
    scheme = source.scheme
    weights = scheme and (scheme.weights, scheme.keep)
    config = json.dumps(source.config, sort_keys=True)
    head = [_VERSION, source.precision, repr(weights), config]
    digest = hashlib.sha256("\n".join(head).encode())
    digest.update(repr(source.vocabulary).encode())
    for name in sorted(source.state):
        operator = source.operators.get(name.removesuffix(".weight"))
        values = source.state[name] if operator is None else operator.weight
        digest.update(name.encode())
        digest.update(np.ascontiguousarray(values, np.float32).data.cast("B"))
    return digest.hexdigest()


def _forget(folder: Path) -> None:
    """Remove the files that were not used for longest: a bisection writes many."""
    files = sorted(folder.glob("*.gguf"), key=lambda f: f.stat().st_mtime)
    for file in files[:-KEPT]:
        with contextlib.suppress(OSError):
            file.unlink()


def _write(
    file: Path, source: _Source, names: Mapping[str, str], digest: str, name: str
) -> None:
    try:
        from gguf import GGMLQuantizationType, GGUFWriter
    except ImportError:
        raise MissingExtraError("gguf", "llamacpp") from None
    file.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=file.parent, suffix=".part")
    os.close(handle)
    try:
        writer = GGUFWriter(temporary, "llama")
        writer.add_name(name)
        writer.add_string(DIGEST, digest)
        _write_config(writer, source.config)
        write_vocabulary(writer, source.config, source.vocabulary)
        for theirs, array, kind in _tensors(source, names):
            writer.add_tensor(theirs, array, raw_dtype=GGMLQuantizationType[kind])
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        with Path(temporary).open("rb") as stream:
            os.fsync(stream.fileno())
        Path(temporary).replace(file)
    finally:
        with contextlib.suppress(FileNotFoundError):
            Path(temporary).unlink()


def _write_config(writer: Any, config: Mapping[str, Any]) -> None:
    heads, hidden = int(config["num_attention_heads"]), int(config["hidden_size"])
    rope = config.get("rope_parameters") or {}
    theta = rope.get("rope_theta", config.get("rope_theta", 10000.0))
    writer.add_context_length(int(config["max_position_embeddings"]))
    writer.add_embedding_length(hidden)
    writer.add_block_count(int(config["num_hidden_layers"]))
    writer.add_feed_forward_length(int(config["intermediate_size"]))
    writer.add_head_count(heads)
    writer.add_head_count_kv(int(config.get("num_key_value_heads") or heads))
    writer.add_layer_norm_rms_eps(float(config["rms_norm_eps"]))
    writer.add_rope_dimension_count(int(config.get("head_dim") or hidden // heads))
    writer.add_rope_freq_base(float(theta))
    writer.add_vocab_size(int(config["vocab_size"]))


def read_weights(written: Written) -> dict[str, QuantizedTensor | Array]:
    """Every operator's weight as the file holds it, read back from its bytes.

    Those in F16 or F32 are float32 arrays. The scales of Q4_0 have the sign of their
    block's largest value, which is shown without; blocks of zeros have none.
    """
    from gguf import GGUFReader

    tensors = {tensor.name: tensor for tensor in GGUFReader(written.file).tensors}
    found: dict[str, QuantizedTensor | Array] = {}
    for name, theirs in written.names.items():
        tensor = tensors[theirs]
        kind = tensor.tensor_type.name
        data = np.asarray(tensor.data)
        if name in written.heads:
            data = halves(data, written.heads[name])
        if kind not in GGUF_TYPES:
            found[name] = data.astype(np.float32)
            continue
        stored = read_gguf(data, kind)
        scales = np.abs(np.asarray(stored.scales))
        found[name] = QuantizedTensor(
            format=stored.format,
            stored_as=f"GGUF {kind}",
            # NaN is no zero: it is shown.
            scales=scales[scales != 0],
            decoded=stored.dequantize(),
            nbytes=int(tensor.n_bytes),
        )
    return found
