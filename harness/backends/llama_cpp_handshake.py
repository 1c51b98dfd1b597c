"""What is proven of a GGUF file before anything that it computes is believed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from harness.backends.llama_cpp_engine import Context, LoadedModel
from harness.backends.llama_cpp_file import DIGEST, Written
from harness.backends.llama_cpp_observe import Census
from harness.errors import BackendError
from harness.models.types import Model

Array = np.ndarray[Any, np.dtype[Any]]

#: Known texts: words, digits, code, other scripts, white space. Special tokens come
#: from the model's own chat template.
TEXTS: Final = (
    "Numbers are stored in fewer bits, and 12345 stays 12345.",
    'def f(x):\n    return {"a": [x, 1.5e-3]}\n\n\n',
    "  Übergröße, naïve café; 東京 で 42 円 🙂\t!",
)
#: A row that is another's is nearer to it than to its own by more than this: roundings
#: are small beside what different tokens change. Of rows that have nothing to do with
#: one another, as wrong weights give them, none is so much nearer than the next.
_CLEARLY: Final = 3.0


@dataclass(frozen=True)
class Handshake:
    """What was found on loading.

    Attributes:
        texts: known texts whose token ids are the model's own.
        exact: the same tokens again give the same bits.
        repeat: largest difference of a logit when they do not.
        pieces: relative L2 of logits read in one go and token by token.
    """

    texts: int
    exact: bool
    repeat: float
    pieces: float
    #: Type of a weight as its kernel gets it -> products with such weights.
    products: Mapping[str, int]
    #: Whether attention is fused.
    flash: bool

    def __str__(self) -> str:
        again = (
            "the same bits again" if self.exact else f"again off by {self.repeat:.2g}"
        )
        products = ", ".join(
            f"{count} products of {kind}" for kind, count in self.products.items()
        )
        return (
            f"{products}; {'fused' if self.flash else 'plain'} attention; "
            f"{self.texts} known texts have the same tokens, {again}, token by token "
            f"off by {self.pieces:.2g}"
        )


def shake_hands(
    loaded: LoadedModel, model: Model, written: Written, *, fused: bool | None = None
) -> Handshake:
    """Check identity, tokenizer and alignment; measure what repeating changes.

    Raises:
        BackendError: the file is another model's, its tokenizer gives other ids, or
            logits belong to other positions than they should.
    """
    _check_identity(loaded, model, written)
    tokenizer: Any = model.tokenizer  # type: ignore[attr-defined]
    texts = _texts(model)
    for text in texts:
        ours, theirs = tokenizer.encode(text), loaded.tokenize(text)
        if ours != theirs:
            at = next(
                (
                    i
                    for i, (a, b) in enumerate(zip(ours, theirs, strict=False))
                    if a != b
                ),
                min(len(ours), len(theirs)),
            )
            raise BackendError(
                f"{written.file.name}: its tokenizer makes {theirs[at : at + 4]} of "
                f"{text!r} from token {at} on, but the model's own makes "
                f"{ours[at : at + 4]}: it is another tokenizer"
            )
    ids = np.asarray(tokenizer.encode(TEXTS[0]))
    return _aligned(loaded, ids, len(texts), fused=fused)


def _texts(model: Model) -> tuple[str, ...]:
    """The known ones, and one through the chat template where there is one."""
    tokenizer: Any = model.tokenizer  # type: ignore[attr-defined]
    if not tokenizer.template:
        return TEXTS
    message = {"role": "user", "content": TEXTS[0]}
    return (*TEXTS, tokenizer.render([message]))


def _check_identity(loaded: LoadedModel, model: Model, written: Written) -> None:
    digest = loaded.about(DIGEST)
    if digest != written.digest:
        raise BackendError(
            f"{written.file}: holds digest={digest or 'none'}, but should be "
            f"{written.digest}: it was not written from this model; delete it"
        )
    end = model.metadata.get("end")
    if isinstance(end, int) and loaded.end != end:
        raise BackendError(
            f"{written.file.name}: replies end with token {loaded.end}, but should "
            f"with {end}"
        )


def _aligned(
    loaded: LoadedModel, ids: Array, texts: int, *, fused: bool | None
) -> Handshake:
    """A row of logits belongs to the prefix that ends there, and to no neighbour."""
    count = len(ids)
    census = Census()
    watched = Context(loaded, sequences=1, length=256, fused=fused, watch=census)
    context = Context(loaded, sequences=1, length=256, fused=fused)
    try:
        owner, every = np.zeros(count, np.int32), np.ones(count, bool)
        whole = context.decode(ids, np.arange(count), owner, every)
        context.clear()
        again = context.decode(ids, np.arange(count), owner, every)
        watched.decode(ids[:1], [0], [0], [True])
        context.clear()
        single = np.concatenate(
            [context.decode(ids[i : i + 1], [i], [0], [True]) for i in range(count)]
        )
    finally:
        watched.close()
        context.close()
    with np.errstate(all="ignore"):
        _check_alignment(single, whole)
        pieces = np.linalg.norm(single - whole) / np.linalg.norm(whole)
        repeat = np.abs(whole - again).max()
    return Handshake(
        texts=texts,
        exact=bool(np.array_equal(whole, again, equal_nan=True)),
        repeat=float(repeat),
        pieces=float(pieces),
        products=dict(sorted(census.products.items())),
        flash=census.flash > 0,
    )


def _check_alignment(single: Array, whole: Array) -> None:
    """No row of logits, read token by token, is another one's of the text in one go.

    Where weights are so wrong that logits are not finite, or say nothing of the text,
    no row is clearly another's: that is the judge's to name.
    """
    distances = np.linalg.norm(single[:, None] - whole[None], axis=-1)
    own, nearest = np.diag(distances), distances.argmin(axis=1)
    least = distances.min(axis=1)
    wrong = (nearest != np.arange(len(whole))) & (least * _CLEARLY < own)
    if wrong.any():
        at = int(np.flatnonzero(wrong)[0])
        raise BackendError(
            f"llama.cpp's logits after token {at} are those of token {nearest[at]} "
            "when the text is read in one go: they are not aligned"
        )
