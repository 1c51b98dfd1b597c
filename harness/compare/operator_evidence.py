"""What is measured of one operator: its weight, its outputs, the way to the next."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class WeightEvidence:
    """One operator's weight as the backend really holds it."""

    operator: str
    #: Format the scheme wants; "" when the scheme leaves the operator alone.
    expected: str
    #: Format and element type found; "" when the backend shows nothing.
    found: str
    stored_as: str = ""
    nonfinite_scales: int = 0
    #: Scales that are zero or negative.
    unusable_scales: int = 0
    #: ||decoded - exact|| / ||exact - original||; 0: bit-faithful, None: not shown.
    unexplained: float | None = None
    #: Whether an operator that the scheme leaves alone was changed.
    altered: bool = False
    #: Elements of the weight; 0: not said.
    elements: int = 0
    #: Elements that decode to another code than the exact one; None: not shown.
    differing: int | None = None
    #: ||stored - model's|| / ||model's|| where a checkpoint's weight is used as it is.
    from_model: float | None = None


@dataclass(frozen=True, kw_only=True)
class Flushed:
    """Whether elements below the smallest normal number are missing.

    See `compare.flushed`.
    """

    #: "weights" or "inputs".
    what: str
    #: Of what flushing would add to the output, the share that is there, and its
    #: standard error.
    share: float
    error: float
    #: Output vectors that it rests on, as many as equally large ones would be.
    vectors: float
    #: Share of the residual's energy that it accounts for.
    accounted: float
    #: Energy of what flushing would add over that of the roundings that theory expects.
    prominence: float


@dataclass(frozen=True, kw_only=True)
class OperatorEvidence:
    """Sums over the sampled cases for one operator; see `compare.explained`."""

    operator: str
    #: Sum of squares of y - oracle(x), codes that rounding leaves open taken as the
    #: observed output has them.
    residual_sq: float
    #: Sum of squares of oracle(x) - full precision(x); of a checkpoint with the weight
    #: rounded to the nearest in place of the stored one.
    quantization_sq: float
    #: Sum of squares of full precision(x).
    signal_sq: float
    #: Expected sum of squares of what accumulation and rounding of the stored output
    #: add: theory, from the declared arithmetic. Codes that rounding leaves open are
    #: no part of it; they are settled in `residual_sq`.
    explained_sq: float
    #: Output elements compared.
    elements: int
    #: Sum of squares of oracle(x) - full precision(x) with the weight as it is stored;
    #: None: not measured.
    stored_sq: float | None = None
    execution: str = ""
    #: Non-finite outputs where the oracle is finite.
    nonfinite: int = 0
    #: Sum of squares that the operator's output differed by when nothing changed
    #: (repetitions, batches), over the same elements; 0: not measured.
    measured_sq: float = 0.0
    flushed: tuple[Flushed, ...] = ()


@dataclass(frozen=True, kw_only=True)
class PathEvidence:
    """What leads from operators to the next one's input; see `schemes.between`.

    Sums over the sampled cases, all operators' outputs given.
    """

    #: The operator that ran before it ("": none), and where the path ends: an operator,
    #: or `output NAME`.
    before: str
    after: str
    #: Sum of squares of observed - expected.
    residual_sq: float
    #: The same of what a faithful backend may be off by.
    noise_sq: float
    #: Sum of squares of what is expected.
    signal_sq: float
    #: Elements compared.
    elements: int
    #: How the model was asked, e.g. "in pieces"; "": plainly.
    way: str = ""

    @property
    def name(self) -> str:
        """`BEFORE -> AFTER`, and the way."""
        way = f", {self.way}" if self.way else ""
        return f"{self.before or 'inputs'} -> {self.after}{way}"
