"""A GGUF file as a Hugging Face folder, unpacked once into the user's cache folder.

Every tensor is dequantized by the `gguf` package and rounded to FP16, once: what comes
after it sees plain FP16 weights, whatever the file stored. The layout is that of the
GGUF specification (ggml-org/ggml, docs/gguf.md); the tensors' names are llama.cpp's.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np

from harness.errors import MissingExtraError, ModelError
from harness.models.export import cache_folder

Array = np.ndarray[Any, np.dtype[Any]]

#: Part of the cache's key: raise it when what is written changes.
_VERSION: Final = "1"
#: Tensor of a block in llama.cpp -> in transformers.
BLOCK_NAMES: Final[Mapping[str, str]] = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
OUTER_NAMES: Final[Mapping[str, str]] = {
    "token_embd": "model.embed_tokens",
    "output_norm": "model.norm",
    "output": "lm_head",
}
#: Token types of the specification that are matched whole in a text.
_CONTROL: Final = 3
_USER: Final = 4


def unpack(file: Path) -> Path:
    """The folder that a GGUF file becomes: config, FP16 weights, tokenizer, template.

    Raises:
        ModelError: the file is damaged, no Llama, or has a tokenizer that is not known.
        MissingExtraError: gguf or tokenizers is not installed.
    """
    folder = cache_folder() / "gguf" / _key(file)
    if (folder / "config.json").is_file():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(dir=folder.parent, prefix=".unpacking."))
    try:
        _write(file, temporary)
        # Another process may have been faster: what it wrote is the same.
        with contextlib.suppress(OSError):
            temporary.rename(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return folder


def _key(file: Path) -> str:
    digest = hashlib.sha256(_VERSION.encode())
    try:
        with file.open("rb") as stream:
            while chunk := stream.read(1 << 22):
                digest.update(chunk)
    except OSError as error:
        raise ModelError(f"{file}: cannot be read: {error}") from None
    return digest.hexdigest()[:40]


def _write(file: Path, folder: Path) -> None:
    try:
        from gguf import GGUFReader
    except ImportError:
        raise MissingExtraError("gguf", "llm") from None
    try:
        reader = GGUFReader(file)
    except (ValueError, IndexError, OSError) as error:
        raise ModelError(f"{file}: not a GGUF file that can be read: {error}") from None
    fields = {name: field.contents() for name, field in reader.fields.items()}
    config = _config(fields, {tensor.name for tensor in reader.tensors}, file)
    _write_weights(folder / "model.safetensors", dict(_tensors(reader, config, file)))
    _write_tokenizer(fields, folder, file)
    template = fields.get("tokenizer.chat_template")
    if template:
        (folder / "chat_template.jinja").write_text(str(template), encoding="utf-8")
    # Last: a folder with a config is whole.
    (folder / "config.json").write_text(json.dumps(config, indent=1), encoding="utf-8")


def _config(fields: Mapping[str, Any], names: set[str], file: Path) -> dict[str, Any]:
    kind = fields.get("general.architecture")
    if kind != "llama":
        raise ModelError(
            f"{file}: architecture {kind!r}, but only 'llama' is read; give the model "
            "as a Hugging Face folder"
        )
    try:
        heads = int(fields["llama.attention.head_count"])
        hidden = int(fields["llama.embedding_length"])
        return {
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "dtype": "float16",
            "hidden_size": hidden,
            "intermediate_size": int(fields["llama.feed_forward_length"]),
            "num_hidden_layers": int(fields["llama.block_count"]),
            "num_attention_heads": heads,
            "num_key_value_heads": int(
                fields.get("llama.attention.head_count_kv", heads)
            ),
            "head_dim": int(fields.get("llama.rope.dimension_count", hidden // heads)),
            "max_position_embeddings": int(fields["llama.context_length"]),
            "rms_norm_eps": float(fields["llama.attention.layer_norm_rms_epsilon"]),
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": float(fields.get("llama.rope.freq_base", 10000.0)),
            },
            "vocab_size": len(fields["tokenizer.ggml.tokens"]),
            "tie_word_embeddings": "output.weight" not in names,
            "bos_token_id": fields.get("tokenizer.ggml.bos_token_id"),
            "eos_token_id": fields.get("tokenizer.ggml.eos_token_id"),
        }
    except (KeyError, TypeError, ValueError) as error:
        raise ModelError(f"{file}: its metadata lacks {error}") from None


def _tensors(
    reader: Any, config: Mapping[str, Any], file: Path
) -> Iterator[tuple[str, Array]]:
    """Names as transformers has them, with values in FP16."""
    from gguf.quants import dequantize

    heads = {
        "attn_q": int(config["num_attention_heads"]),
        "attn_k": int(config["num_key_value_heads"]),
    }
    for tensor in reader.tensors:
        parts = tensor.name.split(".")
        if parts[0] == "rope_freqs":
            continue
        inner = parts[0] == "blk" and len(parts) == 4
        names, last = (BLOCK_NAMES, parts[2]) if inner else (OUTER_NAMES, parts[0])
        if last not in names:
            raise ModelError(f"{file}: the tensor {tensor.name!r} is not known")
        try:
            wide: Array = dequantize(tensor.data, tensor.tensor_type)
        except NotImplementedError:
            raise ModelError(
                f"{file}: {tensor.name} is stored as {tensor.tensor_type.name}, which "
                "the package gguf does not decode"
            ) from None
        if last in heads and wide.ndim == 2:
            wide = _unpermuted(wide, heads[last])
        prefix = f"model.layers.{parts[1]}." if inner else ""
        yield f"{prefix}{names[last]}.{parts[-1]}", _fp16(wide, tensor.name, file)


def _unpermuted(weight: Array, heads: int) -> Array:
    """Rows of a query or key weight in the order that transformers rotates them.

    llama.cpp stores the two halves of each head interleaved.
    """
    rows, columns = weight.shape
    split = weight.reshape(heads, rows // heads // 2, 2, columns)
    return split.swapaxes(1, 2).reshape(rows, columns)


def _fp16(wide: Array, name: str, file: Path) -> Array:
    with np.errstate(over="ignore"):
        narrow = np.ascontiguousarray(wide.astype(np.float16))
    if not np.isfinite(narrow).all():
        raise ModelError(f"{file}: {name} holds values that FP16 does not")
    return narrow


def _write_weights(path: Path, tensors: dict[str, Array]) -> None:
    from safetensors.numpy import save_file

    save_file(tensors, str(path), metadata={"format": "pt"})
    with path.open("rb") as stream:
        os.fsync(stream.fileno())


def _write_tokenizer(fields: Mapping[str, Any], folder: Path, file: Path) -> None:
    """`tokenizer.json` of a byte-level BPE, whose ids are those of the file.

    Raises:
        ModelError: another kind of tokenizer, or another way to cut a text.
    """
    try:
        from tokenizers import (
            AddedToken,
            Tokenizer,
            decoders,
            models,
            pre_tokenizers,
        )
    except ImportError:
        raise MissingExtraError("tokenizers", "huggingface") from None
    kind, cut = (fields.get(f"tokenizer.ggml.{key}") for key in ("model", "pre"))
    whole = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    ways = {
        "gpt-2": [],
        "default": [],
        "smollm": [pre_tokenizers.Digits(individual_digits=True)],
    }
    if kind != "gpt2" or cut not in ways:
        raise ModelError(
            f"{file}: tokenizer {kind!r} that cuts texts as {cut!r} is not known; give "
            "the model as a Hugging Face folder, which brings its own"
        )
    tokens = list(fields["tokenizer.ggml.tokens"])
    merges = [tuple(pair.split(" ", 1)) for pair in fields["tokenizer.ggml.merges"]]
    vocabulary = {token: index for index, token in enumerate(tokens)}
    tokenizer = Tokenizer(models.BPE(vocabulary, merges, fuse_unk=False))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([*ways[cut], whole])
    tokenizer.decoder = decoders.ByteLevel()
    types = list(fields.get("tokenizer.ggml.token_type", ()))
    added = [
        AddedToken(tokens[index], special=kind == _CONTROL, normalized=False)
        for index, kind in enumerate(types)
        if kind in (_CONTROL, _USER)
    ]
    tokenizer.add_tokens(added)
    tokenizer.save(str(folder / "tokenizer.json"))
