"""Verdicts and what they rest on.

One object decides, prints and serialises: a `CheckResult` is made once, by the check
that took the decision, and everything shown anywhere is read from it.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

#: Version of the JSON that `--json` prints and that runs and histories keep.
SCHEMA = 1


class Verdict(enum.StrEnum):
    """What the judge says of a target (DESIGN, section 6)."""

    PASS = "pass"  # noqa: S105 - a verdict, no password
    DRIFT = "drift"
    DEFECT = "defect"
    REGRESSION = "regression"
    BEHAVIOUR = "behaviour"
    UNSTABLE = "unstable"
    VACUOUS = "vacuous"
    STALE = "stale"
    CHANGED = "changed"
    INCONCLUSIVE = "inconclusive"
    UNSUPPORTED = "unsupported"
    ERROR = "error"

    @property
    def fails(self) -> bool:
        """Whether the verdict fails a gate by itself (exit code 1)."""
        return self in _FAILING

    @property
    def infrastructure(self) -> bool:
        """Whether the verdict is exit code 3."""
        return self in {Verdict.INCONCLUSIVE, Verdict.ERROR}


_FAILING = frozenset(
    {
        Verdict.DRIFT,
        Verdict.DEFECT,
        Verdict.REGRESSION,
        Verdict.BEHAVIOUR,
        Verdict.UNSTABLE,
        Verdict.VACUOUS,
        Verdict.STALE,
    }
)

#: The order in which checks run; the first that fails names the verdict.
CHECKS = (
    "artifact",
    "anomaly",
    "stability",
    "explained",
    "distance",
    "direction",
    "regression",
    "behaviour",
    "cost",
)


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """One number with everything that is needed to believe it."""

    name: str
    value: float
    #: Interval; equal to the value for a deterministic measurement.
    low: float
    high: float
    #: The limit it was judged against; None: shown, not judged.
    budget: float | None = None
    #: Where the limit came from: "theory", "measured noise", "suite.toml:31", ...
    budget_source: str = ""
    #: "lower" or "higher" is better.
    better: str = "lower"
    unit: str = ""
    #: Cases (and clusters) it was measured on.
    cases: int = 0
    #: Standard error; None: not estimated, or nothing varies.
    error: float | None = None

    @property
    def slack_sigma(self) -> float | None:
        """Standard errors to the budget (negative: beyond); None: unknown."""
        if self.budget is None or not self.error:
            return None
        room = (self.budget - self.value) / self.error
        return room if self.better == "lower" else -room

    @property
    def slack(self) -> float | None:
        """Share of the budget that is left (negative: beyond); None: no budget."""
        if self.budget is None or self.budget == 0:
            return None
        share = self.value / self.budget
        return 1 - share if self.better == "lower" else share - 1

    def as_dict(self) -> dict[str, Any]:
        """The JSON of DESIGN section 5, with the evidence beside it."""
        return {
            "value": self.value,
            "low": self.low,
            "high": self.high,
            "budget": self.budget,
            "budget_source": self.budget_source,
            "better": self.better,
            "unit": self.unit,
            "cases": self.cases,
            "error": self.error,
            "slack_sigma": self.slack_sigma,
        }


@dataclass(frozen=True, kw_only=True)
class OperatorResult:
    """The local comparison of one operator (oracle on its own observed input)."""

    name: str
    #: ||y - oracle(x)|| / ||oracle(x) - full_precision(x)||, pooled over the sample.
    unexplained: float
    #: What accumulation order and rounding of stored results can explain.
    limit: float
    #: "native ...", "emulated"; what ran.
    execution: str = ""
    #: Relative L2 of oracle(x) against full precision: the format's own noise.
    quantization_noise: float = 0.0
    #: Whether subnormal numbers of its weight or input count as zero.
    flushed: bool = False

    @property
    def guilty(self) -> bool:
        """Whether the operator does not compute what the scheme says."""
        return self.flushed or not self.unexplained <= self.limit

    def as_dict(self) -> dict[str, Any]:
        """JSON; `name` and `unexplained` are the contract."""
        return {
            "name": self.name,
            "unexplained": self.unexplained,
            "limit": self.limit,
            "guilty": self.guilty,
            "flushed": self.flushed,
            "execution": self.execution,
            "quantization_noise": self.quantization_noise,
        }


@dataclass(frozen=True, kw_only=True)
class CheckResult:
    """What one check decided, with its evidence."""

    #: One of `CHECKS`.
    check: str
    #: PASS, or the verdict this check gives.
    verdict: Verdict
    #: One line: subject=actual, but should be expected [where].
    reason: str = ""
    #: The test used, alpha, power, smallest detectable effect, cases, clusters.
    test: str = ""
    alpha: float | None = None
    power: float | None = None
    detectable: float | None = None
    cases: int = 0
    #: Name of the measurement it was decided on, if any.
    measurement: str = ""

    def as_dict(self) -> dict[str, Any]:
        """JSON of the evidence."""
        return {
            "check": self.check,
            "verdict": str(self.verdict),
            "reason": self.reason,
            "test": self.test,
            "alpha": self.alpha,
            "power": self.power,
            "detectable": self.detectable,
            "cases": self.cases,
            "measurement": self.measurement,
        }


@dataclass(frozen=True, kw_only=True)
class Judgement:
    """The verdict on one target, and all it rests on."""

    suite: str
    backend: str
    scheme: str
    verdict: Verdict
    reason: str
    checks: tuple[CheckResult, ...] = ()
    measurements: Mapping[str, Measurement] = field(default_factory=dict)
    operators: tuple[OperatorResult, ...] = ()
    #: What lies between operators, `BEFORE -> AFTER`; `unexplained` relative to what
    #: should arrive there.
    paths: tuple[OperatorResult, ...] = ()
    #: [{"defect", "operator", "confidence"}], filled by `harness.diagnose`.
    diagnosis: tuple[Mapping[str, Any], ...] = ()
    timings: Mapping[str, float] = field(default_factory=dict)
    #: Whether the suite requires the target (`unsupported` then fails, exit 3).
    required: bool = False
    #: "native", "emulated", "mixed", and by which kernels.
    execution: str = ""
    #: The one command to look closer.
    command: str = ""

    @property
    def name(self) -> str:
        """`suite/backend/scheme`."""
        return f"{self.suite}/{self.backend}/{self.scheme}"

    @property
    def exit_code(self) -> int:
        """0, 1 or 3, for this target alone."""
        if self.verdict.fails:
            return 1
        if self.verdict.infrastructure:
            return 3
        if self.verdict is Verdict.UNSUPPORTED and self.required:
            return 3
        return 0

    def as_dict(self) -> dict[str, Any]:
        """The target's object of DESIGN section 5."""
        return {
            "suite": self.suite,
            "backend": self.backend,
            "scheme": self.scheme,
            "verdict": str(self.verdict),
            "reason": self.reason,
            "measurements": {k: m.as_dict() for k, m in self.measurements.items()},
            "operators": [o.as_dict() for o in self.operators],
            "paths": [p.as_dict() for p in self.paths],
            "diagnosis": [dict(d) for d in self.diagnosis],
            "timings": dict(self.timings),
            "checks": [c.as_dict() for c in self.checks],
            "required": self.required,
            "execution": self.execution,
            "command": self.command,
        }


@dataclass(frozen=True, kw_only=True)
class Report:
    """A whole run: what `harness.run` returns and `--json` prints."""

    run: str
    environment: Mapping[str, Any]
    targets: tuple[Judgement, ...]
    #: Folder of the run's artifacts.
    folder: str = ""
    #: ISO 8601, UTC.
    started: str = ""
    seconds: float = 0.0
    #: Run id of the baseline compared with, if any.
    baseline: str | None = None
    #: State of the tests that are repeated every night (`harness.history.nights`).
    nights: Mapping[str, Any] = field(default_factory=dict)
    #: Suite -> what differs from where its golden was recorded: name -> (there, here).
    since_golden: Mapping[str, Mapping[str, tuple[str, str]]] = field(
        default_factory=dict
    )

    @property
    def exit_code(self) -> int:
        """0: all pass; 1: a verdict fails (wins over 3); 3: infrastructure.

        2: no target can run here, so nothing was compared, which is no pass.
        """
        codes = {target.exit_code for target in self.targets}
        if 1 in codes:
            return 1
        if 3 in codes:
            return 3
        return 2 if self.compared_nothing else 0

    @property
    def compared_nothing(self) -> bool:
        """Whether every target was left out as `unsupported`."""
        return all(t.verdict is Verdict.UNSUPPORTED for t in self.targets)

    def as_dict(self) -> dict[str, Any]:
        """The JSON of DESIGN section 5."""
        return {
            "schema": SCHEMA,
            "run": self.run,
            "environment": dict(self.environment),
            "targets": [target.as_dict() for target in self.targets],
            "started": self.started,
            "seconds": self.seconds,
            "baseline": self.baseline,
            "folder": self.folder,
            **({"nights": dict(self.nights)} if self.nights else {}),
            "since_golden": {
                suite: {name: list(pair) for name, pair in found.items()}
                for suite, found in self.since_golden.items()
            },
        }
