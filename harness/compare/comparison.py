"""The result of a comparison: computed once, read by verdict, message and report."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]

#: Quantiles of |error| that are kept.
QUANTILES: Final = (0.5, 0.9, 0.99, 0.999)
#: Shares of elements whose error is beyond so many root mean square errors.
SIGMAS: Final = (3.0, 4.0, 6.0)


@dataclass(frozen=True, kw_only=True)
class NonFinite:
    """How many values of each side are not finite."""

    reference_nan: int = 0
    reference_inf: int = 0
    candidate_nan: int = 0
    candidate_inf: int = 0
    #: Places where one side is not finite and the other is not the same infinity.
    #: NaN counts even where both have it: NaN never passes.
    mismatched: int = 0

    def __bool__(self) -> bool:
        return any(dataclasses.astuple(self))


@dataclass(frozen=True, kw_only=True, eq=False)
class AxisProfile:
    """How the error is spread along one axis.

    A position's share of the whole error energy says which rows, columns or channels
    are wrong; a period says that every n-th is.
    """

    axis: int
    #: Root mean square error at each position, in the tensors' unit.
    rms_error: Array
    #: 10 log10(reference energy / error energy) at each position.
    sqnr_db: Array
    #: Position of the largest error, and its share of the error energy.
    worst: int
    worst_share: float
    #: Smallest distance at which the error repeats; None: it does not.
    period: int | None = None
    #: Autocorrelation of the error energy at that distance, at most 1.
    period_strength: float = 0.0


@dataclass(frozen=True, kw_only=True)
class BlockError:
    """The worst of the blocks of one width along the last axis."""

    width: int
    #: Index of the block's first element.
    index: tuple[int, ...]
    #: Its root mean square error over that of the whole tensor.
    times_rms: float


@dataclass(frozen=True, kw_only=True, eq=False)
class Comparison:
    """Everything measured between a reference and a candidate.

    Of two mappings it holds the worst value of every metric over the outputs, and
    the outputs' own comparisons in `outputs`. Where there is a `problem` every
    distance has its worst value, so that no threshold passes.

    Attributes:
        problem: why the two cannot be compared; "" if they can. A different dtype is
            said but is no problem for the numbers: see `dtype_matches`.
        identical: same dtype, shape and bits (NaN payloads and signed zeros too).
        max_abs: largest |c - r|.
        max_rel: largest |c - r| / |r|; inf where r is 0 and c is not.
        max_ulp: most representable numbers of the reference's dtype in between.
        mse: mean (c - r)^2.
        relative_l2: ||c - r|| / ||r||; inf for a zero reference that moved.
        sqnr_db: 10 log10(||r||^2 / ||c - r||^2); inf when equal, -inf for a zero
            reference that moved.
        cosine: r.c / (||r|| ||c||); 1 for two zero tensors, 0 if one alone is zero.
        bias: mean (c - r).
        worst_index: where max_abs is, or the first place that is not finite; for a
            mapping preceded by the output's name; () where there is none.
        error_quantiles: quantile -> |c - r|; exact up to 65,536 elements, beyond
            that at most 2**-7 too large.
        beyond_sigma: k -> share of elements with |c - r| > k * rms error.
    """

    problem: str = ""
    shape: tuple[int, ...] = ()
    reference_dtype: str = ""
    candidate_dtype: str = ""
    elements: int = 0
    differing: int = 0
    identical: bool = False
    nonfinite: NonFinite = field(default_factory=NonFinite)
    max_abs: float = float("inf")
    max_rel: float = float("inf")
    max_ulp: float = float("inf")
    mse: float = float("inf")
    relative_l2: float = float("inf")
    sqnr_db: float = float("-inf")
    cosine: float = -1.0
    bias: float = float("inf")
    worst_index: tuple[Any, ...] = ()
    #: Reference and candidate at the worst index.
    worst_values: tuple[float, float] | None = None
    #: Index -> (reference, candidate), along the last axis around the worst.
    neighbourhood: Mapping[tuple[int, ...], tuple[float, float]] = field(
        default_factory=dict
    )
    error_quantiles: Mapping[float, float] = field(default_factory=dict)
    beyond_sigma: Mapping[float, float] = field(default_factory=dict)
    axes: tuple[AxisProfile, ...] = ()
    blocks: tuple[BlockError, ...] = ()
    outputs: Mapping[str, Comparison] = field(default_factory=dict)

    @property
    def dtype_matches(self) -> bool:
        """Whether both sides have the same dtype."""
        return self.reference_dtype == self.candidate_dtype

    def as_dict(self) -> dict[str, Any]:
        """Plain Python values; profiles as their worst position and period.

        Infinities stay floats: `json.dumps` would write them as `Infinity`.
        """
        found: dict[str, Any] = {
            entry.name: getattr(self, entry.name)
            for entry in dataclasses.fields(self)
            if entry.name not in _NESTED
        }
        found["dtype_matches"] = self.dtype_matches
        found["shape"] = list(self.shape)
        found["worst_index"] = list(self.worst_index)
        found["worst_values"] = list(self.worst_values) if self.worst_values else None
        found["nonfinite"] = dataclasses.asdict(self.nonfinite)
        found["neighbourhood"] = [
            {"index": list(index), "reference": pair[0], "candidate": pair[1]}
            for index, pair in self.neighbourhood.items()
        ]
        found["error_quantiles"] = {str(q): v for q, v in self.error_quantiles.items()}
        found["beyond_sigma"] = {str(k): v for k, v in self.beyond_sigma.items()}
        found["axes"] = [
            {
                "axis": axis.axis,
                "worst": axis.worst,
                "worst_share": axis.worst_share,
                "period": axis.period,
                "period_strength": axis.period_strength,
            }
            for axis in self.axes
        ]
        found["blocks"] = [dataclasses.asdict(block) for block in self.blocks]
        found["outputs"] = {name: c.as_dict() for name, c in self.outputs.items()}
        return found


_NESTED: Final = frozenset(
    {
        "shape",
        "worst_index",
        "worst_values",
        "nonfinite",
        "neighbourhood",
        "error_quantiles",
        "beyond_sigma",
        "axes",
        "blocks",
        "outputs",
    }
)
