"""Texts as the inputs of a model, by a `tokenizer.json`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np

from harness.errors import CasesError, MissingExtraError, ModelError
from harness.models.chat import check_unicode
from harness.models.types import TensorSpec

Array = np.ndarray[Any, np.dtype[Any]]

#: What a text becomes.
TOKEN_INPUTS: Final = (
    TensorSpec("input_ids", "int64", (None, None)),
    TensorSpec("attention_mask", "int64", (None, None)),
)
_EXAMPLE: Final = "Numbers are stored in fewer bits; is the answer still the same?"


class TextReader:
    """Texts to tokens, without padding or truncation.

    Args:
        file: the `tokenizer.json`.
        longest: most tokens that the model takes; None: any number.
    """

    def __init__(self, file: Path, *, longest: int | None = None) -> None:
        self.file = file
        self.longest = longest
        self._tokenizer: Any = None

    def prepare(self, record: Mapping[str, Any], folder: str) -> Mapping[str, Array]:  # noqa: ARG002
        """`input_ids` and `attention_mask`, int64, (1, tokens).

        Raises:
            CasesError: the record has no text, or one of no or too many tokens,
                or with half a character.
        """
        text = record.get("text")
        if not isinstance(text, str) or set(record) != {"text"}:
            raise CasesError(
                f'has keys {sorted(record)}, but should have "text": "..."'
            )
        check_unicode(text)
        ids = np.array([self._read().encode(text).ids], dtype=np.int64)
        if not ids.size:
            raise CasesError(f"text={text!r} has no tokens")
        if self.longest is not None and ids.shape[1] > self.longest:
            raise CasesError(
                f"text has {ids.shape[1]} tokens, but the model takes {self.longest}"
            )
        return {"input_ids": ids, "attention_mask": np.ones_like(ids)}

    def _read(self) -> Any:
        if self._tokenizer is None:
            try:
                from tokenizers import Tokenizer
            except ImportError:
                raise MissingExtraError("tokenizers", "huggingface") from None
            try:
                self._tokenizer = Tokenizer.from_file(str(self.file))
            except Exception as error:  # noqa: BLE001 - it raises bare Exception
                raise ModelError(f"{self.file}: not a tokenizer: {error}") from None
            self._tokenizer.no_padding()
            self._tokenizer.no_truncation()
        return self._tokenizer


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
