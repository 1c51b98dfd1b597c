"""A Hugging Face folder as a model: read offline, text through its own tokenizer."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from harness.errors import CasesError, MissingExtraError, ModelError
from harness.models.digest import content_digest
from harness.models.torch_model import TorchModel
from harness.models.types import TensorSpec

if TYPE_CHECKING:
    import torch

Array = np.ndarray[Any, np.dtype[Any]]

_EXAMPLE = "Numbers are stored in fewer bits; is the answer still the same?"


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
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    architecture = (config.get("architectures") or [""])[0]
    headed = architecture.endswith(("ForCausalLM", "ForSequenceClassification"))
    output = TensorSpec(
        "logits" if headed else "last_hidden_state",
        "float32",
        (None, None, None),
        "logits" if headed else "tensor",
    )
    reader = TextReader(folder / "tokenizer.json")
    return TorchModel(
        name or folder.name,
        lambda: load_module(folder, headed=architecture if headed else ""),
        inputs=TOKEN_INPUTS,
        outputs=(output,),
        example=LazyExample(reader),
        fingerprint=lambda: folder_fingerprint(folder),
        prepare=reader.prepare,
        metadata={"labels": _labels(config)},
    )


#: What a text becomes.
TOKEN_INPUTS = (
    TensorSpec("input_ids", "int64", (None, None)),
    TensorSpec("attention_mask", "int64", (None, None)),
)


def _labels(config: Mapping[str, Any]) -> list[str] | None:
    table = config.get("id2label")
    if not table:
        return None
    return [str(table[key]) for key in sorted(table, key=int)]


def load_module(folder: Path, *, headed: str = "") -> torch.nn.Module:
    """The module with its weights, float32, attention written out.

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
    kind = getattr(transformers, headed) if headed else transformers.AutoModel
    try:
        module = kind.from_pretrained(
            folder,
            attn_implementation="eager",
            dtype="float32",
            local_files_only=True,
            use_safetensors=True,
        )
    except (OSError, ValueError, RuntimeError) as error:
        raise ModelError(f"{folder}: does not load: {error}") from None
    loaded: torch.nn.Module = module.eval()
    return loaded


def folder_fingerprint(folder: Path) -> str:
    """Digest of the tensors and the configuration, without importing torch.

    Raises:
        ModelError: the safetensors file is missing or damaged.
    """
    from safetensors import SafetensorError, safe_open

    file = folder / "model.safetensors"
    if not file.is_file():
        raise ModelError(f"{folder}: no model.safetensors")
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    try:
        with safe_open(str(file), framework="numpy") as tensors:
            arrays = {key: tensors.get_tensor(key) for key in tensors.keys()}  # noqa: SIM118
    except (SafetensorError, KeyError, OSError) as error:
        raise ModelError(f"{file}: damaged or of an unknown dtype: {error}") from None
    return content_digest(arrays, extra=config)


class TextReader:
    """Texts to tokens by a `tokenizer.json`, without padding or truncation."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self._tokenizer: Any = None

    def prepare(self, record: Mapping[str, Any], folder: str) -> Mapping[str, Array]:  # noqa: ARG002
        """`input_ids` and `attention_mask`, int64, (1, tokens).

        Raises:
            CasesError: the record has no text.
        """
        text = record.get("text")
        if not isinstance(text, str):
            raise CasesError(
                f'has keys {sorted(record)}, but should have "text": "..."'
            )
        if self._tokenizer is None:
            try:
                from tokenizers import Tokenizer
            except ImportError:
                raise MissingExtraError("tokenizers", "huggingface") from None
            self._tokenizer = Tokenizer.from_file(str(self.file))
            self._tokenizer.no_padding()
            self._tokenizer.no_truncation()
        ids = np.array([self._tokenizer.encode(text).ids], dtype=np.int64)
        if not ids.size:
            raise CasesError(f"text={text!r} has no tokens")
        return {"input_ids": ids, "attention_mask": np.ones_like(ids)}


class LazyExample(dict[str, Array]):
    """Example inputs, tokenised when they are first asked for."""

    def __init__(self, reader: TextReader) -> None:
        super().__init__({spec.name: np.zeros((0, 0)) for spec in TOKEN_INPUTS})
        self._reader = reader

    def __getitem__(self, key: str) -> Array:
        # Two rows, so that the exporter does not take the batch for a constant.
        example = self._reader.prepare({"text": _EXAMPLE}, "")
        return np.repeat(example[key], 2, axis=0)

    def items(self) -> Any:
        """As of any mapping."""
        return [(key, self[key]) for key in self]
