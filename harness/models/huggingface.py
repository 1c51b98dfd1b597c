"""A Hugging Face folder as a model: read offline, text through its own tokenizer."""

from __future__ import annotations

import contextlib
import json
import logging
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from harness.errors import MissingExtraError, ModelError
from harness.models.checkpoint import Checkpoint, is_quantized
from harness.models.digest import content_digest
from harness.models.text import TOKEN_INPUTS, LazyExample, TextReader
from harness.models.torch_model import TorchModel
from harness.models.types import TensorSpec

if TYPE_CHECKING:
    import torch

Array = np.ndarray[Any, np.dtype[Any]]

#: How an architecture with a head is called -> axes of its logits.
_HEADS: Final[Mapping[str, int]] = {
    "ForCausalLM": 3,
    "LMHeadModel": 3,
    "ForMaskedLM": 3,
    "ForTokenClassification": 3,
    "ForSequenceClassification": 2,
}


def huggingface(folder: Path, *, name: str | None = None) -> TorchModel:
    """The model of a folder with `config.json`, `model.safetensors`, `tokenizer.json`.

    Its outputs are `logits` when the architecture has a head, `last_hidden_state`
    otherwise. A case is `{"id", "text"}`.

    Raises:
        ModelError: a file is missing or damaged.
    """
    for file in ("config.json", "tokenizer.json"):
        if not (folder / file).is_file():
            raise ModelError(f"{folder}: no {file}; not a Hugging Face folder")
    config = read_config(folder)
    architecture = str((config.get("architectures") or [""])[0])
    axes = next((n for end, n in _HEADS.items() if architecture.endswith(end)), 0)
    output = TensorSpec(
        "logits" if axes else "last_hidden_state",
        "float32",
        (None,) * (axes or 3),
        "logits" if axes else "tensor",
    )
    longest = config.get("max_position_embeddings") or config.get("n_positions")
    reader = TextReader(folder / "tokenizer.json", longest=longest)
    return TorchModel(
        name or folder.name,
        lambda: load_module(folder, headed=architecture if axes else ""),
        inputs=TOKEN_INPUTS,
        outputs=(output,),
        example=LazyExample(reader),
        fingerprint=lambda: folder_fingerprint(folder),
        prepare=reader.prepare,
        metadata={"labels": _labels(config)},
        sources=(Path(__file__),),
    )


def read_config(folder: Path, name: str = "config.json") -> dict[str, Any]:
    """The folder's `config.json`, or another such file of it.

    Raises:
        ModelError: it is not a JSON object.
    """
    file = folder / name
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ModelError(f"{file}: not JSON ({error})") from None
    if not isinstance(config, dict):
        raise ModelError(f"{file}: should be a JSON object")
    return config


def _labels(config: Mapping[str, Any]) -> list[str] | None:
    table = config.get("id2label")
    if not table:
        return None
    return [str(table[key]) for key in sorted(table, key=int)]


def load_module(
    folder: Path, *, headed: str = "", attention: str = "eager"
) -> torch.nn.Module:
    """The module with its weights, float32.

    A pooler, which no output of ours needs, is dropped; GPT-2's transposed layers
    become `torch.nn.Linear`.

    Args:
        folder: the model's files.
        headed: architecture with a head; "": the body alone.
        attention: "eager" is written out, as an export needs it; "sdpa" is torch's own,
            which does not repeat keys and values for every head that shares them.

    Raises:
        MissingExtraError: transformers is not installed.
        ModelError: the folder does not load.
    """
    # Nothing may be fetched: the folder is all there is.
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    try:
        import transformers
    except ImportError:
        raise MissingExtraError("transformers", "huggingface") from None
    transformers.utils.logging.disable_progress_bar()
    kind = getattr(transformers, headed or "AutoModel", None)
    if kind is None:
        raise ModelError(
            f"{folder}: this version of transformers has no architecture {headed!r}"
        )
    stored: dict[str, Any] = {}
    if is_quantized(read_config(folder)):
        stored = _decoded(folder, transformers)
    try:
        with _unheard("torchao", "torch.utils._pytree"):
            module = kind.from_pretrained(
                None if stored else folder,
                attn_implementation=attention,
                dtype="float32",
                local_files_only=True,
                use_safetensors=True,
                **stored,
            )
    except (OSError, ValueError, RuntimeError, KeyError) as error:
        text = " ".join(str(error).split())[:300]
        raise ModelError(f"{folder}: does not load: {text}") from None
    if not headed and getattr(module, "pooler", None) is not None:
        module.pooler = None
    if hasattr(module.config, "use_cache"):
        module.config.use_cache = False
    _plain_linears(module)
    loaded: torch.nn.Module = module.eval()
    return loaded


@contextlib.contextmanager
def _unheard(*loggers: str) -> Iterator[None]:
    """Let these loggers tell of errors only.

    torchao warns of each of its kernels that is for other machines, whoever imports it.
    """
    found = [logging.getLogger(name) for name in loggers]
    levels = [logger.level for logger in found]
    for logger in found:
        logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        for logger, level in zip(found, levels, strict=True):
            logger.setLevel(level)


def _decoded(folder: Path, transformers: Any) -> dict[str, Any]:
    """Arguments that make a module of a quantized folder: its weights decoded.

    Raises:
        ModelError: the checkpoint cannot be read.
    """
    import torch

    config = transformers.AutoConfig.from_pretrained(folder, local_files_only=True)
    # The vendor's own layers would be built otherwise, and ask for its library.
    del config.quantization_config
    state = {}
    for name, array in Checkpoint(folder).weights():
        if array.dtype.kind != "f" and array.dtype.name != "bfloat16":
            state[name] = torch.from_numpy(array)
        else:
            state[name] = torch.from_numpy(array.astype(np.float32))
    return {"config": config, "state_dict": state}


def _plain_linears(module: torch.nn.Module) -> None:
    """Replace layers that hold their weight as (in, out) by `torch.nn.Linear`."""
    import torch
    from transformers.pytorch_utils import Conv1D

    for path, layer in list(module.named_modules()):
        if isinstance(layer, Conv1D):
            rows, columns = layer.weight.shape
            linear = torch.nn.Linear(rows, columns)
            linear.weight.data = layer.weight.data.T.contiguous()
            linear.bias.data = layer.bias.data
            parent, _, last = path.rpartition(".")
            setattr(module.get_submodule(parent), last, linear)


def folder_fingerprint(folder: Path) -> str:
    """Digest of the tensors and the configuration, without importing torch.

    Raises:
        ModelError: a safetensors file is missing or damaged.
    """
    from safetensors import SafetensorError, safe_open

    config = read_config(folder)
    if is_quantized(config):
        tensors = Checkpoint(folder).tensors.values()
        # Bits, because digests know no FP8; the dtype is a part of the name.
        stored = {
            f"{t.name}:{t.dtype}": t.read().reshape(-1).view(np.uint8) for t in tensors
        }
        return content_digest(stored, extra=config)
    arrays = {}
    for file in _weight_files(folder):
        try:
            with safe_open(str(file), framework="numpy") as tensors:
                names = tensors.keys()
                arrays.update({name: tensors.get_tensor(name) for name in names})
        except (SafetensorError, KeyError, TypeError, OSError) as error:
            raise ModelError(
                f"{file}: damaged, a git-LFS pointer, or of an unknown dtype: {error}"
            ) from None
    return content_digest(arrays, extra=config)


def _weight_files(folder: Path) -> list[Path]:
    """`model.safetensors`, or the parts that its index names."""
    index = folder / "model.safetensors.index.json"
    files = [folder / "model.safetensors"]
    if index.is_file():
        try:
            parts = set(json.loads(index.read_text("utf-8"))["weight_map"].values())
        except (ValueError, KeyError, AttributeError) as error:
            raise ModelError(f"{index}: not an index of weights ({error!r})") from None
        files = [folder / part for part in sorted(parts)]
    for file in files:
        if not file.is_file():
            raise ModelError(f"{folder}: no {file.name}; only safetensors are read")
        if not file.resolve().is_relative_to(folder.resolve()):
            raise ModelError(f"{index}: {file} leaves the folder")
    return files
