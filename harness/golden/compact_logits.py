"""Logits of a language model in at most 400 bytes a token.

Of each row (one token position) the most likely tokens are kept for certain, and of
all others a sample in which a token's chance is its probability. What is kept is
enough for an unbiased estimate of KL(reference || target) given the *full* logits of
a target, by

    KL(p || q) = sum_i p_i (r_i - 1 - log r_i),   r_i = q_i / p_i,

which holds because p and q both sum to one. Every term is non-negative and of second
order in log r, so the sampled part has a small variance: its standard error relative
to the KL is about sqrt(2 / m) T for m samples of a tail of mass T when log r is
normal, however small the drift is.

The tokens kept for certain are those whose chance would reach one (Sampford's rule for
sampling with probability proportional to size), and always the first eight; the tail
is cut into m parts of equal mass and one token drawn from each.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]

#: Rows up to this wide are kept whole.
WIDEST_FULL: Final = 1024
#: Tokens kept of a row: 4 bytes each, or 5 beyond a vocabulary of 65,536. With the
#: rest of a row that makes at most 393 bytes.
ENTRIES: Final = 96
ENTRIES_WIDE: Final = 76
#: Always kept for certain, so that top-1 and top-5 agreement are exact.
LEAST_TOP: Final = 8
#: -log p from 0 to 32 in 16 bits, in steps that grow with its square root: the error
#: of p itself is then below 3.8e-5 everywhere, and of log p below 5e-4.
DEEPEST: Final = 32.0
_STEPS: Final = 65535
#: exp(-x) sqrt(x) is largest at x = 1/2; half a step there, see `encode_log`.
DELTA_P_BOUND: Final = math.exp(-0.5) * math.sqrt(0.5 * DEEPEST) / _STEPS
_SEED: Final = 20261123
#: Elements worked on at a time.
_CHUNK: Final = 1 << 19


def encode_log(log_p: Array) -> Array:
    """Codes of logarithms of probabilities; -32 and less are one code."""
    depth = np.clip(-log_p, 0.0, DEEPEST)
    codes: Array = np.rint(np.sqrt(depth / DEEPEST) * _STEPS).astype(np.uint16)
    return codes


def decode_log(codes: Array) -> Array:
    """Logarithms of probabilities, float64."""
    share = codes.astype(np.float64) / _STEPS
    found: Array = np.square(share) * -DEEPEST
    return found


def log_softmax(logits: Array) -> Array:
    """log(softmax) over the last axis, float64; no overflow for finite logits."""
    wide = logits.astype(np.float64)
    wide -= wide.max(axis=-1, keepdims=True)
    normal = np.log(np.exp(wide).sum(axis=-1, keepdims=True))
    found: Array = wide - normal
    return found


def row_chunks(rows: int, width: int) -> list[slice]:
    """Slices of rows of at most half a million elements together."""
    step = max(1, _CHUNK // max(width, 1))
    return [slice(i, min(i + step, rows)) for i in range(0, rows, step)]


def encode_logits(
    logits: Array, *, entries: int | None = None, labels: Array | None = None
) -> tuple[dict[str, Array], dict[str, float]]:
    """What is kept of finite logits.

    Args:
        logits: (..., vocabulary), any float dtype, finite.
        entries: tokens kept of each row; None: as many as fit 400 bytes.
        labels: (...), the right token of each row, -1 where there is none.

    Returns:
        Tensors by role, and the bounds of what they can miss:
        `kl_relative` (three standard errors of the mean KL relative to it, for a log
        ratio of kurtosis 6 in the tail), `delta_p` (absolute, where a label is known),
        `top1` (exact: 0) and `tail_mass` (mean over rows).
    """
    width = logits.shape[-1]
    flat = logits.reshape(-1, width)
    rows = len(flat)
    wide = width > 2**16
    keep = min(entries or (ENTRIES_WIDE if wide else ENTRIES), width)
    indices = np.zeros((rows, keep), np.int64)
    log_p = np.zeros((rows, keep))
    certain = np.zeros(rows, np.int64)
    tail = np.zeros(rows)
    right = np.zeros(rows)
    wanted = None if labels is None else np.asarray(labels).reshape(-1).astype(np.int64)
    generator = np.random.default_rng(_SEED)
    for part in row_chunks(rows, width):
        table = log_softmax(flat[part])
        for row, values in enumerate(table, start=part.start):
            chosen, count, mass = _choose(values, keep, generator)
            indices[row], certain[row], tail[row] = chosen, count, mass
            log_p[row] = values[chosen]
            if wanted is not None and wanted[row] >= 0:
                right[row] = values[wanted[row]]
    tensors = {
        "values": encode_log(log_p),
        "indices": _pack_indices(indices, wide=wide),
        "certain": certain.astype(np.uint8),
        "tail": encode_log(np.log(np.maximum(tail, 1e-300))),
    }
    if wanted is not None:
        tensors["labels"] = wanted.astype(np.int32)
        tensors["right"] = encode_log(right)
    return tensors, _bounds(certain, tail, keep, labelled=wanted is not None)


def _choose(
    log_p: Array, keep: int, generator: np.random.Generator
) -> tuple[Array, int, float]:
    """Tokens to keep of one row, how many of them for certain, mass of the others."""
    p = np.exp(log_p)
    top = np.argpartition(-log_p, keep - 1)[:keep]
    # Most likely first; of equal ones the lower token, as argmax has it.
    top = top[np.lexsort((top, -log_p[top]))]
    top[0] = int(log_p.argmax())
    tail = p.copy()
    tail[top] = 0.0
    beyond = float(tail.sum())
    if keep == len(p):
        return top, keep, 0.0
    # Mass that is left when the first k are taken, summed from the small end.
    left = beyond + np.cumsum(p[top][::-1])[::-1]
    k = np.arange(keep)
    fits = (p[top] * (keep - k) <= left) & (k >= min(LEAST_TOP, keep - 1))
    count = int(np.argmax(fits)) if fits.any() else keep - 1
    tail[top[count:]] = p[top[count:]]
    cumulated = np.cumsum(tail)
    mass = float(cumulated[-1])
    if mass <= 0:
        return top, count, 0.0
    draws = keep - count
    points = (np.arange(draws) + generator.random(draws)) * (mass / draws)
    found = np.searchsorted(cumulated, points, side="right")
    # Rounding of the cumulated sum may point behind the last token that has mass.
    found = np.minimum(found, int(np.flatnonzero(tail)[-1]))
    return np.concatenate([top[:count], found]), count, mass


def _bounds(
    certain: Array, tail: Array, keep: int, *, labelled: bool
) -> dict[str, float]:
    draws = np.maximum(keep - certain, 1)
    rows = max(len(tail), 1)
    error = math.sqrt(float((5 * np.square(tail) / draws).sum())) / rows
    bound = {
        "kl_relative": 3 * error,
        "top1": 0.0,
        "tail_mass": float(tail.sum()) / rows,
    }
    if labelled:
        bound["delta_p"] = DELTA_P_BOUND
    return bound


def _pack_indices(indices: Array, *, wide: bool) -> Array:
    """Two bytes a token, or three (the low ones of four, little end first)."""
    if not wide:
        return indices.astype(np.uint16)
    whole = np.ascontiguousarray(indices.astype("<u4"))
    return whole.view(np.uint8).reshape(*indices.shape, 4)[..., :3].copy()


def _unpack_indices(packed: Array) -> Array:
    if packed.ndim == 2:
        return packed.astype(np.int64)
    wide = packed.astype(np.int64)
    return wide[..., 0] | wide[..., 1] << 8 | wide[..., 2] << 16


@dataclass(frozen=True, eq=False)
class LogitsSupport:
    """What is known of a reference's rows: tokens, their log-probabilities, weights."""

    #: Of the whole output, the vocabulary last.
    shape: tuple[int, ...]
    #: (rows, entries) tokens; the first `certain` of a row in descending order.
    indices: Array
    #: (rows, entries) float64.
    log_p: Array
    #: (rows, entries): what an entry stands for in a sum over p.
    weight: Array
    #: (rows,) entries kept for certain.
    certain: Array
    #: (rows,) mass of the tokens not kept for certain.
    tail: Array
    #: (rows,) right tokens, -1 for none, and their log-probability; None: not kept.
    labels: Array | None = None
    right: Array | None = None

    @classmethod
    def decode(
        cls, tensors: Mapping[str, Array], shape: tuple[int, ...]
    ) -> LogitsSupport:
        """The support of kept tensors."""
        log_p = decode_log(tensors["values"])
        certain = tensors["certain"].astype(np.int64)
        tail = np.exp(decode_log(tensors["tail"]))
        entries = log_p.shape[1]
        sampled = np.arange(entries) >= certain[:, None]
        # Coding moved each p a little; together they are one.
        whole = np.where(sampled, 0.0, np.exp(log_p)).sum(axis=1) + tail
        log_p = log_p - np.log(whole)[:, None]
        tail = tail / whole
        share = tail / np.maximum(entries - certain, 1)
        return cls(
            shape=shape,
            indices=_unpack_indices(tensors["indices"]),
            log_p=log_p,
            weight=np.where(sampled, share[:, None], np.exp(log_p)),
            certain=certain,
            tail=tail,
            labels=tensors.get("labels"),
            right=decode_log(tensors["right"]) if "right" in tensors else None,
        )

    @property
    def array(self) -> Array:
        """(rows, entries + 1): kept log-probabilities, and the log of the tail."""
        last = np.log(np.maximum(self.tail, np.exp(-DEEPEST)))
        return np.concatenate([self.log_p, last[:, None]], axis=1)

    def project(self, full: Array) -> Array:
        """Another's full logits in the form of `array`.

        NaN where the row is not finite, so that it never passes for close.
        """
        rows = np.asarray(full).reshape(-1, self.shape[-1])
        entries = self.log_p.shape[1]
        found = np.zeros((len(rows), entries + 1))
        kept = np.arange(entries) < self.certain[:, None]
        with np.errstate(invalid="ignore"):
            for part in row_chunks(*rows.shape):
                log_q = log_softmax(rows[part])
                picked = np.take_along_axis(log_q, self.indices[part], axis=1)
                top = np.where(kept[part], np.exp(picked), 0.0).sum(axis=1)
                rest = np.maximum(1 - top, np.exp(-DEEPEST))
                found[part, :-1] = np.maximum(picked, -DEEPEST)
                found[part, -1] = np.log(rest)
        return found
