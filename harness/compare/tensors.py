"""compare(): every measurement of two tensors, or of two sets of them, in one pass."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from harness.compare.arrays import as_array
from harness.compare.comparison import QUANTILES, SIGMAS, Comparison, NonFinite
from harness.compare.moments import TILE, Moments, bucket_edges, tiles
from harness.compare.native import NATIVE_FROM, fits, measure_native
from harness.compare.structure import axis_profiles, worst_blocks
from harness.errors import UsageError

Array = np.ndarray[Any, np.dtype[Any]]

#: Values of a float64 tensor beyond these would over- or underflow when squared.
_LARGE, _SMALL = 2.0**400, 2.0**-400


def compare(reference: Any, candidate: Any) -> Comparison:
    """Measure how far a candidate is from its reference.

    Everything is computed in float64, tile by tile, with at most a few MiB of memory
    above the inputs, 64 at most: axes of more than 2**18 positions get no profile.
    Shape, dtype and non-finite values are looked at first.

    - identical: `identical`, zero distances, sqnr_db inf, cosine 1.
    - all-zero reference: sqnr_db -inf and relative_l2 inf if the candidate moved.
    - constant: nothing special; all metrics are defined.
    - empty, or of another shape: `problem` is set and every metric has its worst
      value, because nothing was compared.
    - NaN on either side, or an infinity that the other side has not: `problem` is set
      and every metric has its worst value. Equal infinities are no error.

    Args:
        reference: NumPy array or torch tensor of any real dtype (bfloat16, FP8 and
            FP4 types included), or a mapping of names to such.
        candidate: the same.

    Raises:
        UsageError: not real numbers, or a mapping against an array.
    """
    if isinstance(reference, Mapping) != isinstance(candidate, Mapping):
        raise UsageError(
            f"compare({type(reference).__name__}, {type(candidate).__name__}): both "
            "must be arrays, or both mappings of arrays"
        )
    if isinstance(reference, Mapping):
        return _compare_mappings(reference, candidate)
    first = as_array(reference, name="reference")
    second = as_array(candidate, name="candidate")
    return _compare_arrays(first, second)


def _compare_mappings(
    reference: Mapping[str, Any], candidate: Mapping[str, Any]
) -> Comparison:
    """The worst of each metric over the outputs, and the outputs themselves."""
    outputs = {
        name: compare(reference[name], candidate[name])
        for name in reference
        if name in candidate
    }
    problems = [
        f"output {name!r} is missing" for name in reference if name not in candidate
    ]
    problems += [
        f"output {name!r} is extra" for name in candidate if name not in reference
    ]
    problems += [f"{name}: {c.problem}" for name, c in outputs.items() if c.problem]
    if not outputs and not problems:
        problems = ["no outputs: nothing was compared"]
    shared: dict[str, Any] = {
        "problem": "; ".join(problems),
        "outputs": outputs,
        "elements": sum(c.elements for c in outputs.values()),
        "differing": sum(c.differing for c in outputs.values()),
        "reference_dtype": _joined(c.reference_dtype for c in outputs.values()),
        "candidate_dtype": _joined(c.candidate_dtype for c in outputs.values()),
        "nonfinite": _pooled_nonfinite(outputs),
    }
    if not outputs:
        return Comparison(**shared)
    name, worst = max(outputs.items(), key=lambda item: _badness(item[1]))
    shared["worst_index"] = (name, *worst.worst_index)
    shared["worst_values"] = worst.worst_values
    if len(outputs) != len(reference) or len(outputs) != len(candidate):
        return Comparison(**shared)
    every = list(outputs.values())
    return Comparison(
        **shared,
        identical=all(c.identical for c in every),
        max_abs=max(c.max_abs for c in every),
        max_rel=max(c.max_rel for c in every),
        max_ulp=max(c.max_ulp for c in every),
        mse=max(c.mse for c in every),
        relative_l2=max(c.relative_l2 for c in every),
        sqnr_db=min(c.sqnr_db for c in every),
        cosine=min(c.cosine for c in every),
        bias=max((c.bias for c in every), key=abs),
        error_quantiles=_worst_of([c.error_quantiles for c in every]),
        beyond_sigma=_worst_of([c.beyond_sigma for c in every]),
    )


def _joined(names: Any) -> str:
    return ", ".join(dict.fromkeys(names))


def _badness(found: Comparison) -> tuple[bool, float]:
    return bool(found.problem), found.relative_l2


def _worst_of(entries: list[Mapping[float, float]]) -> dict[float, float]:
    """The largest of each key; {} if one output has none."""
    keys = set.intersection(*(set(entry) for entry in entries))
    return {key: max(entry[key] for entry in entries) for key in sorted(keys)}


def _pooled_nonfinite(outputs: Mapping[str, Comparison]) -> NonFinite:
    names = NonFinite.__dataclass_fields__
    return NonFinite(
        **{n: sum(getattr(c.nonfinite, n) for c in outputs.values()) for n in names}
    )


def _compare_arrays(reference: Array, candidate: Array) -> Comparison:
    seen: dict[str, Any] = {
        "shape": reference.shape,
        "reference_dtype": reference.dtype.name,
        "candidate_dtype": candidate.dtype.name,
    }
    if reference.shape != candidate.shape:
        return Comparison(
            **seen,
            problem=f"shape={candidate.shape}, but should be {reference.shape}",
        )
    if reference.size == 0:
        same = reference.dtype == candidate.dtype
        return Comparison(**seen, problem="empty: nothing was compared", identical=same)
    moments = measure(reference, candidate)
    seen["elements"] = moments.elements
    counts = moments.nonfinite
    seen["nonfinite"] = NonFinite(
        **{n: getattr(counts, n) for n in NonFinite.__dataclass_fields__}
    )
    seen["identical"] = moments.differing == 0 and _same_bits(reference, candidate)
    if counts.mismatched:
        index = _index(counts.first, reference.shape)
        return Comparison(
            **seen,
            problem=_nonfinite_problem(seen["nonfinite"]),
            differing=moments.differing + counts.mismatched,
            worst_index=index,
            worst_values=_pair(reference, candidate, index),
            neighbourhood=_neighbourhood(reference, candidate, index),
        )
    return Comparison(**seen, **_metrics(moments, reference, candidate))


def measure(reference: Array, candidate: Array) -> Moments:
    """One pass over two non-empty arrays of one shape; compiled if they are large."""
    if reference.size >= NATIVE_FROM and fits(reference, candidate):
        moments = measure_native(reference, candidate)
        if moments is not None:
            return moments
    return measure_plain(reference, candidate)


def measure_plain(reference: Array, candidate: Array) -> Moments:
    """The same in NumPy, for any dtype and layout."""
    columns = reference.shape[-1] if reference.ndim else 1
    rows = reference.size // columns
    first = _as_matrix(reference, rows, columns)
    second = _as_matrix(candidate, rows, columns)
    moments = Moments(rows, columns, scale=_scale(reference, candidate))
    for tile in tiles(rows, columns):
        part = (
            slice(tile.row, tile.row + tile.rows),
            slice(tile.column, tile.column + tile.columns),
        )
        moments.add(tile, first[part], second[part])
    return moments


def _as_matrix(array: Array, rows: int, columns: int) -> Array:
    """Rows of the last axis: a view where strides allow, else a copy."""
    return array.reshape(rows, columns)


def _scale(reference: Array, candidate: Array) -> float:
    """A power of two that keeps squares of float64 values in range; 1 for others."""
    if np.float64 not in (reference.dtype, candidate.dtype):
        return 1.0
    largest = max(_largest_finite(reference), _largest_finite(candidate))
    if largest == 0 or _SMALL < largest < _LARGE:
        return 1.0
    return math.ldexp(1.0, int(np.clip(-math.frexp(largest)[1], -1021, 1021)))


def _largest_finite(array: Array) -> float:
    flat = array.reshape(-1)
    largest = 0.0
    for start in range(0, flat.size, TILE):
        part = np.abs(flat[start : start + TILE].astype(np.float64))
        largest = max(largest, float(part.max(initial=0.0, where=np.isfinite(part))))
    return largest


def _same_bits(reference: Array, candidate: Array) -> bool:
    """Equal dtype and bytes, tile by tile."""
    if reference.dtype != candidate.dtype:
        return False
    first, second = reference.reshape(-1), candidate.reshape(-1)
    return all(
        first[i : i + TILE].tobytes() == second[i : i + TILE].tobytes()
        for i in range(0, first.size, TILE)
    )


def _nonfinite_problem(found: NonFinite) -> str:
    parts = [
        f"{count} {what}"
        for count, what in (
            (found.candidate_nan, "NaN in the candidate"),
            (found.candidate_inf, "Inf in the candidate"),
            (found.reference_nan, "NaN in the reference"),
            (found.reference_inf, "Inf in the reference"),
        )
        if count
    ]
    return f"{', '.join(parts)}; {found.mismatched} places do not agree"


def _metrics(moments: Moments, reference: Array, candidate: Array) -> dict[str, Any]:
    """What the sums say; all values are finite or meant infinite, never NaN."""
    n, scale = moments.elements, moments.scale
    error = moments.total("error_sq")
    signal = moments.total("reference_sq")
    index = _index(moments.max_abs.place, reference.shape)
    rms = math.sqrt(error / n) / scale
    return {
        "differing": moments.differing,
        "max_abs": moments.max_abs.value,
        "max_rel": moments.max_rel.value,
        "max_ulp": moments.max_ulp,
        "mse": rms * rms,
        "relative_l2": _ratio(error, signal),
        "sqnr_db": _sqnr_db(error, signal),
        "cosine": _cosine(moments, signal),
        "bias": moments.total("error") / n / scale,
        "worst_index": index,
        "worst_values": _pair(reference, candidate, index),
        "neighbourhood": _neighbourhood(reference, candidate, index),
        "error_quantiles": _quantiles(moments),
        "beyond_sigma": _beyond(moments, rms),
        "axes": axis_profiles(moments, reference.shape),
        "blocks": worst_blocks(moments, reference.shape),
    }


def _ratio(error: float, signal: float) -> float:
    if error == 0:
        return 0.0
    return math.sqrt(error / signal) if signal > 0 else math.inf


def _sqnr_db(error: float, signal: float) -> float:
    if error == 0:
        return math.inf
    return 10 * math.log10(signal / error) if signal > 0 else -math.inf


def _cosine(moments: Moments, signal: float) -> float:
    other = moments.total("candidate_sq")
    if signal == 0 or other == 0:
        return 1.0 if signal == other else 0.0
    if moments.differing == 0:
        return 1.0
    cosine = moments.total("product") / (math.sqrt(signal) * math.sqrt(other))
    return min(1.0, max(-1.0, cosine))


def _quantiles(moments: Moments) -> dict[float, float]:
    if moments.small is not None:
        found = np.quantile(moments.small, QUANTILES, method="inverted_cdf")
        return dict(zip(QUANTILES, map(float, found), strict=True))
    count = np.cumsum(moments.histogram)
    ranks = [math.ceil(q * moments.elements) for q in QUANTILES]
    edges = bucket_edges()[np.searchsorted(count, ranks)]
    largest = moments.max_abs.value
    return {q: min(float(e), largest) for q, e in zip(QUANTILES, edges, strict=True)}


def _beyond(moments: Moments, rms: float) -> dict[float, float]:
    """Share of |error| > k rms; by whole buckets where the tensor is large."""
    if moments.small is not None:
        counts = [int((moments.small > k * rms).sum()) for k in SIGMAS]
    else:
        edges = bucket_edges()
        # The first bucket wholly beyond begins where the one before it ends.
        first = [int(np.searchsorted(edges, k * rms)) + 1 for k in SIGMAS]
        counts = [int(moments.histogram[i:].sum()) for i in first]
    return {k: c / moments.elements for k, c in zip(SIGMAS, counts, strict=True)}


def _index(place: int, shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(int(i) for i in np.unravel_index(place, shape)) if shape else ()


def _pair(
    reference: Array, candidate: Array, index: tuple[int, ...]
) -> tuple[float, float]:
    return float(reference[index]), float(candidate[index])


def _neighbourhood(
    reference: Array, candidate: Array, index: tuple[int, ...]
) -> dict[tuple[int, ...], tuple[float, float]]:
    """Up to three positions on either side along the last axis."""
    if not index:
        return {}
    start, stop = max(0, index[-1] - 3), min(reference.shape[-1], index[-1] + 4)
    places = [(*index[:-1], column) for column in range(start, stop)]
    return {place: _pair(reference, candidate, place) for place in places}
