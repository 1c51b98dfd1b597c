"""Language models: how far a target's token distributions are from the reference's.

All divergences are f-divergences, sums of p_i f(q_i / p_i) with f(1) = f'(1) = 0, so
that every term is non-negative. That makes them exact on full logits and unbiased,
with little variance, on a golden that kept only some tokens of each row with weights
(`harness.golden.compact_logits`): each token counts for what it stands for.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Final, Protocol

import numpy as np

from harness.compare.arrays import as_array
from harness.compare.logits_result import ROW_QUANTILES, LogitsComparison
from harness.compare.native import threads
from harness.compare.rows import compiled, five_largest, row_chunks, row_normals
from harness.errors import UsageError

__all__ = ["LogitsComparison", "Support", "compare_logits"]

Array = np.ndarray[Any, np.dtype[Any]]

#: Log-probabilities below this are taken for this: e**-700 is still a number.
_LEAST: Final = -700.0


class Support(Protocol):
    """What is kept of a reference's rows; see `golden.compact_logits.LogitsSupport`."""

    shape: tuple[int, ...]
    indices: Array
    log_p: Array
    weight: Array
    certain: Array
    labels: Array | None
    right: Array | None


def compare_logits(
    reference: Any, candidate: Any, *, labels: Any = None
) -> LogitsComparison:
    """Compare logits row by row.

    Identical inputs give 0 everywhere. A row that is not finite, another shape and no
    rows at all are a `problem`. A probability of the target below e**-700 counts as
    that, so KL stays finite.

    Args:
        reference: logits (..., vocabulary), or a golden's compact output of them.
        candidate: the target's full logits of the same shape.
        labels: (...) right token of each row, -1 for none; None: those of the golden.

    Raises:
        UsageError: labels are given that the golden did not keep.
    """
    full = as_array(candidate, name="candidate")
    if hasattr(reference, "support"):
        parts = _kept_rows(reference.support(), full, labels)
        shape = tuple(reference.shape)
    else:
        whole = as_array(reference, name="reference")
        parts = _full_rows(whole, full, labels)
        shape = whole.shape
    if full.shape != shape:
        return LogitsComparison(
            problem=f"shape={full.shape}, but should be {tuple(shape)}"
        )
    if full.size == 0:
        return LogitsComparison(problem="empty: nothing was compared")
    return _summary(list(parts))


@dataclass(frozen=True, eq=False)
class _Rows:
    """Measured of some rows; NaN where a row is not finite."""

    kl: Array
    reverse: Array
    js: Array
    #: Variance from the sampling of the row's KL and of its control, and covariance.
    moments: Array
    #: Sum of p (r - 1), which over all tokens is 0: what it is here, is sampling.
    control: Array
    flips: Array
    top5: Array
    #: log p and log q of the right token, NaN where there is none.
    right: Array


def _full_rows(reference: Array, candidate: Array, labels: Any) -> Iterator[_Rows]:
    width = reference.shape[-1]
    first, second = reference.reshape(-1, width), candidate.reshape(-1, width)
    wanted = _labels(labels, len(first))
    if compiled(first) and compiled(second):
        yield _native_rows(first, second, wanted)
        return
    for part in row_chunks(*first.shape):
        log_p, log_q = _log_softmax(first[part]), _log_softmax(second[part])
        weight = np.exp(log_p)
        kl, reverse, js = _divergences(log_p, log_q, weight)
        yield _Rows(
            kl=kl.sum(axis=1),
            reverse=reverse.sum(axis=1),
            js=js.sum(axis=1),
            moments=np.zeros((3, len(kl))),
            control=np.zeros(len(kl)),
            flips=first[part].argmax(axis=1) != second[part].argmax(axis=1),
            top5=_overlap(five_largest(log_p), five_largest(log_q)),
            right=_right(log_p, log_q, wanted[part]),
        )


def _native_rows(first: Array, second: Array, wanted: Array) -> _Rows:
    """The same, compiled: KL and JS within 1e-13, on as many threads as cores."""
    from harness.compare.kernel_logits import row_divergences

    rows = len(first)
    found, tops = np.zeros((rows, 3)), np.zeros((rows, 2, 5), np.int32)
    right = np.full((2, rows), np.nan)

    def do(part: slice) -> None:
        # float32 holds every float16 and bfloat16; float64 logits go the plain way.
        sides = [
            np.ascontiguousarray(x[part], dtype=np.float32) for x in (first, second)
        ]
        bits = [side.view(np.int32) for side in sides]
        row_divergences(*bits, *sides, found[part], tops[part])
        if (wanted[part] >= 0).any():
            log_p, log_q = (_log_softmax(side) for side in sides)
            right[:, part] = _right(log_p, log_q, wanted[part])

    with ThreadPoolExecutor(threads()) as pool:
        list(pool.map(do, row_chunks(*first.shape)))
    return _Rows(
        kl=found[:, 0],
        reverse=found[:, 1],
        js=found[:, 2],
        moments=np.zeros((3, rows)),
        control=np.zeros(rows),
        flips=tops[:, 0, 0] != tops[:, 1, 0],
        top5=_overlap(tops[:, 0], tops[:, 1]),
        right=right,
    )


def _kept_rows(kept: Support, candidate: Array, labels: Any) -> Iterator[_Rows]:
    """The same from a golden's support."""
    width = kept.shape[-1]
    second = candidate.reshape(-1, width)
    entries = kept.indices.shape[1]
    sampled = np.arange(entries) >= kept.certain[:, None]
    draws = sampled.sum(axis=1)
    wanted, right = _kept_right(kept, labels)
    normals, tops = row_normals(second)
    for part in row_chunks(*second.shape):
        columns = np.concatenate(
            [kept.indices[part], np.maximum(wanted[part], 0)[:, None]], axis=1
        )
        with np.errstate(invalid="ignore"):
            log_q = np.take_along_axis(second[part], columns, axis=1).astype(np.float64)
            log_q -= normals[part, None]
        picked, right_q = log_q[:, :-1], log_q[:, -1]
        weight = kept.weight[part]
        kl, reverse, js = _divergences(kept.log_p[part], picked, weight)
        d = np.maximum(picked, _LEAST) - np.maximum(kept.log_p[part], _LEAST)
        with np.errstate(over="ignore", invalid="ignore"):
            control = weight * np.expm1(d)
        both = np.stack([right[part], np.maximum(right_q, _LEAST)])
        yield _Rows(
            kl=kl.sum(axis=1),
            reverse=reverse.sum(axis=1),
            js=js.sum(axis=1),
            moments=_moments(kl, control, sampled[part], draws[part]),
            control=control.sum(axis=1),
            flips=kept.indices[part][:, 0] != tops[part, 0],
            top5=_overlap(kept.indices[part][:, :5], tops[part]),
            right=np.where(wanted[part] >= 0, both, np.nan),
        )


def _divergences(log_p: Array, log_q: Array, weight: Array) -> tuple[Array, ...]:
    """Terms of KL(p||q), KL(q||p) and JS: weight * f(q / p)."""
    d = np.maximum(log_q, _LEAST) - np.maximum(log_p, _LEAST)
    with np.errstate(over="ignore", invalid="ignore"):
        # expm1(d) - d loses everything for a small d: its series there.
        rise = np.expm1(d)
        series = d * d * (0.5 + d * (1 / 6 + d / 24))
        kl = np.where(np.abs(d) < 1e-3, series, rise - d)
        # r log r - r + 1 = r * (d - 1 + 1/r) = r * f_kl(-d).
        back = np.where(
            np.abs(d) < 1e-3, d * d * (0.5 - d * (1 / 6 - d / 24)), np.expm1(-d) + d
        )
        ratio = 1 + rise
        # The mixture is m = (p + q) / 2, its log ratio to p log1p(rise / 2).
        mixed = np.log1p(rise / 2)
        js = 0.5 * (ratio * (d - mixed) - mixed)
        reverse = weight * ratio * back
    return weight * kl, reverse, np.maximum(weight * js, 0.0)


def _moments(kl: Array, control: Array, sampled: Array, draws: Array) -> Array:
    """Variances and covariance of two sums of a row's sampled terms.

    As if the tokens were drawn independently; drawing one from each part of equal mass
    varies less, so this is on the safe side. A row with fewer than two draws has none.
    """
    count = np.maximum(draws, 1)
    scale = np.where(draws > 1, draws / np.maximum(draws - 1, 1), 0.0)
    centred = [
        np.where(
            sampled,
            x - np.where(sampled, x, 0).sum(1, keepdims=True) / count[:, None],
            0,
        )
        for x in (kl, control)
    ]
    pairs = ((0, 0), (1, 1), (0, 1))
    return np.stack([(centred[i] * centred[j]).sum(axis=1) * scale for i, j in pairs])


#: A control is fitted only where it takes away half of the variance at least: where
#: the drift is small its best factor is 0 and the fit would only add noise.
_WORTH: Final = 0.5


def _controlled(kl: Array, parts: list[_Rows]) -> tuple[Array, float]:
    """KL by row, with less sampling noise where the drift is large; its variance.

    The sum of p (r - 1) over all tokens is known to be 0. Tokens that the target makes
    much more likely dominate both it and the KL's terms, so what it differs from 0 by
    in the sample tells how the KL is off (a regression estimator).
    """
    moments = np.concatenate([part.moments for part in parts], axis=1).sum(axis=1)
    own, other, both = (float(value) for value in moments)
    if not np.isfinite(moments).all() or other <= 0:
        return kl, own
    left = own - both * both / other
    if left > _WORTH * own:
        return kl, own
    control = np.concatenate([part.control for part in parts])
    return kl - both / other * control, max(left, 0.0)


def _log_softmax(rows: Array) -> Array:
    wide = rows.astype(np.float64)
    with np.errstate(invalid="ignore"):
        wide -= wide.max(axis=1, keepdims=True)
        wide -= np.log(np.exp(wide).sum(axis=1, keepdims=True))
    return wide


def _overlap(first: Array, second: Array) -> Array:
    same = (first[:, :, None] == second[:, None, :]).any(axis=2)
    share: Array = same.mean(axis=1)
    return share


def _labels(labels: Any, rows: int) -> Array:
    if labels is None:
        return np.full(rows, -1)
    flat = np.asarray(labels).reshape(-1)
    if len(flat) != rows:
        raise UsageError(f"labels: {len(flat)} for {rows} rows")
    return flat.astype(np.int64)


def _right(log_p: Array, log_q: Array, wanted: Array) -> Array:
    """(2, rows) log-probabilities of the right token."""
    rows = np.arange(len(wanted))
    column = np.maximum(wanted, 0)
    both = np.stack([log_p[rows, column], log_q[rows, column]])
    return np.where(wanted >= 0, np.maximum(both, _LEAST), np.nan)


def _kept_right(kept: Support, labels: Any) -> tuple[Array, Array]:
    """Right tokens and their log p; those given must be those that were kept.

    Raises:
        UsageError: the golden kept others, or none.
    """
    rows = len(kept.indices)
    if kept.labels is None or kept.right is None:
        if labels is not None:
            raise UsageError(
                "the golden kept no right tokens: record it with labels "
                "(compact(..., labels=...)) to see how their probability changes"
            )
        return np.full(rows, -1), np.zeros(rows)
    if labels is not None and not np.array_equal(_labels(labels, rows), kept.labels):
        raise UsageError("labels are not those that the golden was recorded with")
    return kept.labels.astype(np.int64), kept.right


def _summary(parts: list[_Rows]) -> LogitsComparison:
    kl = np.concatenate([part.kl for part in parts])
    bad = int((~np.isfinite(kl)).sum())
    if bad:
        return LogitsComparison(
            rows=len(kl), problem=f"{bad} of {len(kl)} rows are not finite"
        )
    flips = np.concatenate([part.flips for part in parts])
    kl, variance = _controlled(kl, parts)
    log_p, log_q = np.concatenate([part.right for part in parts], axis=1)
    return LogitsComparison(
        rows=len(kl),
        kl=float(kl.mean()),
        reverse_kl=float(np.concatenate([part.reverse for part in parts]).mean()),
        js=float(np.concatenate([part.js for part in parts]).mean()),
        kl_standard_error=math.sqrt(variance) / len(kl),
        kl_quantiles=_quantiles(kl),
        kl_max=float(kl.max()),
        top1_agreement=float(1 - flips.mean()),
        top5_agreement=float(np.concatenate([part.top5 for part in parts]).mean()),
        flips=int(flips.sum()),
        first_divergence=int(flips.argmax()) if flips.any() else None,
        kl_rows=kl,
        flip_rows=flips,
        **_of_right_tokens(log_p, log_q),
    )


def _of_right_tokens(log_p: Array, log_q: Array) -> dict[str, Any]:
    there = ~np.isnan(log_p)
    if not there.any():
        return {}
    p, q = log_p[there], log_q[there]
    delta = np.exp(q) - np.exp(p)
    return {
        "labelled": int(there.sum()),
        "delta_p": float(delta.mean()),
        "delta_p_rms": float(np.sqrt(np.square(delta).mean())),
        "delta_p_max": float(np.abs(delta).max()),
        "delta_p_quantiles": _quantiles(delta),
        "perplexity": float(np.exp(-p.mean())),
        "perplexity_ratio": float(np.exp((p - q).mean())),
        "delta_p_rows": delta,
    }


def _quantiles(values: Array) -> dict[float, float]:
    found = np.quantile(values, ROW_QUANTILES)
    return {q: float(v) for q, v in zip(ROW_QUANTILES, found, strict=True)}
