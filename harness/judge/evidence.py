"""What a target's run measured: the judge's only input.

Everything here is plain data, made by `harness.execution` from a run, its golden,
its oracle and its baseline. Checks are pure functions of one `Evidence`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from harness.compare.operator_evidence import (
    OperatorEvidence,
    PathEvidence,
    WeightEvidence,
)
from harness.judge.statistics.sequential import Wealth

FloatArray = np.ndarray[Any, np.dtype[np.float64]]
BoolArray = np.ndarray[Any, np.dtype[np.bool_]]


@dataclass(frozen=True, kw_only=True)
class Failure:
    """The run did not come to an end, or could not be compared."""

    kind: Literal["error", "unsupported", "stale"]
    #: What the user reads: what happened, where, what to do.
    message: str
    #: Unsupported because it is not installed or has no device here.
    missing: bool = False


@dataclass(frozen=True, kw_only=True)
class Anomaly:
    """One output of one case that is wrong by itself."""

    case: str
    output: str
    #: "nan", "inf", "shape", "dtype", "missing", "extra", "constant", "zero".
    kind: str
    detail: str


@dataclass(frozen=True, kw_only=True)
class StabilityEvidence:
    """The same thing done twice."""

    #: What was repeated: "repeat", "batch of 1 against batches of 8", ...
    name: str
    #: Relative L2 difference of each repeated case.
    differences: FloatArray
    #: What the declared determinism and the measured noise allow.
    limit: float
    limit_source: str
    #: Cases in order of `differences`.
    cases: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Paired:
    """Squared errors by case: pooled ratio sqrt(sum error / sum reference)."""

    cases: tuple[str, ...]
    error_sq: FloatArray
    reference_sq: FloatArray
    #: Cluster of each case (document, prompt); None: every case its own.
    clusters: tuple[str, ...] | None = None

    @property
    def ratio(self) -> float:
        """Pooled relative L2; inf when the reference is zero and the error is not."""
        error, reference = float(self.error_sq.sum()), float(self.reference_sq.sum())
        if reference == 0:
            return 0.0 if error == 0 else float("inf")
        return float(np.sqrt(error / reference))


@dataclass(frozen=True, kw_only=True)
class MetricEvidence:
    """A metric by case, e.g. KL of an output; judged only when a budget names it."""

    name: str
    values: FloatArray
    cases: tuple[str, ...]
    better: Literal["lower", "higher"] = "lower"
    unit: str = ""
    #: The reference's own values, for a score that has a right side (the right
    #: token's probability); None: the metric is a distance from the reference.
    reference: FloatArray | None = None


@dataclass(frozen=True, kw_only=True)
class RowsEvidence:
    """A distance of every row (token) of every case, of which quantiles are taken."""

    name: str
    #: By case, in the order of `cases`.
    rows: tuple[FloatArray, ...]
    cases: tuple[str, ...]
    #: Name of a quantile, e.g. "p99" -> share of rows at or below it.
    quantiles: Mapping[str, float]
    better: Literal["lower", "higher"] = "lower"
    unit: str = ""


@dataclass(frozen=True, kw_only=True)
class BehaviourEvidence:
    """Right or wrong by case, for the reference and for the target."""

    name: str
    cases: tuple[str, ...]
    reference_right: BoolArray
    target_right: BoolArray
    #: What each answered, for the report: (reference, target) by case.
    answers: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    #: Largest loss of right answers that is still good enough, as a share of cases;
    #: None: what was published for the scheme's formats.
    margin: float | None = None
    #: Cluster of each case (document, prompt); None: every case its own.
    clusters: tuple[str, ...] | None = None
    #: Whether the reference's own answer is what is right, so that nothing is gained.
    relative: bool = False
    #: Whether the cases are variants, and `reference_right` the target's own answers to
    #: their originals, of pairs that the reference has right.
    variants: bool = False
    #: Why there is nothing to judge, where that is no mistake; "": there is.
    unjudged: str = ""


@dataclass(frozen=True, kw_only=True)
class OrderingEvidence:
    """A target of the same run that has fewer bits, and should not be better."""

    #: `backend/scheme` of the other target.
    other: str
    #: "drift", or a metric.
    metric: str
    #: "suite.toml:LINE".
    source: str = ""
    #: Why there is nothing to judge, where that is no mistake; "": there is.
    unjudged: str = ""
    #: Cases that both have, and what was measured of them: squared errors for "drift".
    cases: tuple[str, ...] = ()
    own: FloatArray = field(default_factory=lambda: np.empty(0))
    others: FloatArray = field(default_factory=lambda: np.empty(0))
    #: Squared norm of each case's reference; None: the metric is no pooled ratio.
    reference_sq: FloatArray | None = None
    better: Literal["lower", "higher"] = "lower"
    #: What it may be worse by: how far the reference itself moves.
    limit: float = 0.0
    clusters: tuple[str, ...] | None = None
    #: Metrics that the target has.
    known: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class DeviceSeries:
    """One number of every draw of a device that is not exact."""

    #: "drift" from the golden; "slope" of its decimal logarithm a decade of time;
    #: "error" (squared, over what is declared), "gain" and "offset" (beyond what is
    #: declared, shares) of an operator; "channel": the largest such error of any of
    #: its channels; "wrong" answers of a behaviour, a share.
    kind: Literal["drift", "slope", "error", "gain", "offset", "channel", "wrong"]
    #: Operator or behaviour; "" for the whole.
    of: str
    #: Seconds after programming.
    age: float
    #: A draw each, in order of the seeds.
    values: FloatArray


@dataclass(frozen=True, kw_only=True)
class DeviceTail:
    """The output channel that is furthest beyond what was declared, in every draw."""

    operator: str
    age: float
    channel: int
    #: Squared error over what was declared of it, in the draw where it is smallest.
    ratio: float
    draws: int
    #: Channels among which it is the largest.
    among: int


@dataclass(frozen=True, kw_only=True)
class DeviceEvidence:
    """Draws of a device whose numbers vary."""

    #: As it declares itself: "run-to-run" or "drifts".
    determinism: str
    seeds: tuple[int, ...]
    #: Draws that decided how many were made, and how many would have been wanted.
    first: int
    wanted: int
    #: Whether it says by how much its operators are off.
    declares: bool = False
    #: Share of wrong answers of the reference on the same cases, by behaviour.
    reference_wrong: Mapping[str, float] = field(default_factory=dict)
    #: Cases that every draw ran.
    cases: int = 0
    series: tuple[DeviceSeries, ...] = ()
    tails: tuple[DeviceTail, ...] = ()


@dataclass(frozen=True, kw_only=True)
class BaselineEvidence:
    """The same target in an earlier accepted run."""

    run: str
    #: Same backend version, device, instruction set, threads.
    same_environment: bool
    #: What differs: name -> (baseline, now).
    differences: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    #: Outputs equal to the last bit, case by case.
    identical: bool = False
    #: The baseline's own drift: its outputs against the same golden, case by case.
    drift: Paired | None = None
    metrics: Mapping[str, MetricEvidence] = field(default_factory=dict)
    behaviours: Mapping[str, BoolArray] = field(default_factory=dict)
    #: Cases of each behaviour then; one that is not listed: in today's order.
    behaviour_cases: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    #: Today's outputs against the baseline's; None: not kept.
    moved: Paired | None = None
    #: Operator -> unexplained drift then.
    operators: Mapping[str, float] = field(default_factory=dict)
    #: Draws of the device then, if it is not exact.
    device: DeviceEvidence | None = None
    #: Why the two cannot be compared (another model, unreadable); the verdict is then
    #: `stale`. A target that the baseline did not have yet has no baseline at all.
    problem: str = ""


@dataclass(frozen=True, kw_only=True)
class LatencyEvidence:
    """One phase timed in turns: reference, target, reference, target, ..."""

    #: "run", "load", "transfer", "serialize", "memory", ...
    phase: str
    #: One value a pair, after warm-up.
    reference: FloatArray
    target: FloatArray
    #: "s" or "bytes".
    unit: str = "s"


@dataclass(frozen=True, kw_only=True)
class Acknowledgement:
    """A known failure that a person accepts for a while."""

    #: `suite/backend/scheme`, or a pattern of it.
    target: str
    #: One of `CHECKS`.
    check: str
    #: Measurement; "": any of the check.
    metric: str
    #: What the measurement may be and still be the known failure; of no use for the
    #: operators of `explained`.
    limit: float
    reason: str
    author: str
    #: ISO date.
    expires: str
    #: "budgets.toml:LINE".
    source: str
    #: Operator name -> unexplained drift that is known of it.
    operators: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Budget:
    """A limit with where it came from."""

    metric: str
    limit: float
    source: str
    #: Smallest excess that the cases must be able to show; 0: as much as the limit.
    margin: float = 0.0
    #: Where "much better than possible" begins, often a broken test; None: nowhere.
    least: float | None = None


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """All that was measured of one target."""

    suite: str
    backend: str
    scheme: str
    #: Seeds every random draw of the judge.
    seed: int
    required: bool = False
    weight_only: bool = False
    execution: str = ""
    failure: Failure | None = None
    budgets: Mapping[str, Budget] = field(default_factory=dict)
    weights: tuple[WeightEvidence, ...] = ()
    #: Operators whose input the scheme quantizes / that the backend says it does.
    activations_expected: tuple[str, ...] = ()
    activations_found: tuple[str, ...] = ()
    anomalies: tuple[Anomaly, ...] = ()
    stability: tuple[StabilityEvidence, ...] = ()
    operators: tuple[OperatorEvidence, ...] = ()
    #: What lies between them; and why that was not looked at, if so.
    paths: tuple[PathEvidence, ...] = ()
    paths_skipped: str = ""
    #: Why no operator was seen, though some are quantized; "": they were.
    uncaptured: str = ""
    #: Target against golden, oracle against golden, target against oracle.
    drift: Paired | None = None
    oracle_drift: Paired | None = None
    end_to_end: Paired | None = None
    #: Relative L2 that the reference moves by when nothing changes (threads, batch).
    noise_floor: float = 0.0
    metrics: tuple[MetricEvidence, ...] = ()
    rows: tuple[RowsEvidence, ...] = ()
    behaviours: tuple[BehaviourEvidence, ...] = ()
    baseline: BaselineEvidence | None = None
    #: Targets with fewer bits, of the same run.
    orderings: tuple[OrderingEvidence, ...] = ()
    #: Draws of a device that is not exact; None: it is, or cannot be drawn.
    device: DeviceEvidence | None = None
    #: Tags of each case, for slices.
    tags: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    latency: tuple[LatencyEvidence, ...] = ()
    #: Bets on lost answers over all nights, tonight included; only of a nightly run.
    nights: tuple[Wealth, ...] = ()
    acknowledgements: tuple[Acknowledgement, ...] = ()
    timings: Mapping[str, float] = field(default_factory=dict)
