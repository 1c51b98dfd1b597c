"""Proposing budgets from what was measured; a person reviews and commits them."""

from __future__ import annotations

import datetime as dt
import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from harness.errors import UsageError
from harness.judge.budgets import theory_drift
from harness.judge.checks.devices import drift_bounds
from harness.judge.checks.distance import estimates
from harness.judge.evidence import Budget, DeviceEvidence, Evidence
from harness.judge.levels import ALPHA, POWER
from harness.judge.statistics.mean import Mean
from harness.judge.statistics.ratio import Ratio

#: How long a proposed budget lives.
LIFETIME: Final = dt.timedelta(days=183)


@dataclass(frozen=True, kw_only=True)
class Proposal:
    """One measurement with the limit it should have."""

    target: str
    metric: str
    value: float
    low: float
    high: float
    #: Upper bound of the measurement (lower, where higher is better), wrong with chance
    #: `ALPHA`.
    limit: float
    #: Smallest excess over the limit that these cases show with 80% chance.
    detectable: float
    #: Today's limit; None: there is none.
    current: float | None
    #: (current - value) in standard errors; None: no limit, or no spread.
    slack_sigma: float | None
    #: What theory says for the scheme; None: nothing.
    theory: float | None
    cases: int
    data: str
    #: "lower": the limit is a ceiling; "higher": a floor.
    better: str = "lower"

    @property
    def change(self) -> str:
        """One of `new`, `tighten`, `loosen`, `keep`."""
        if self.current is None:
            return "new"
        if self.better == "higher":
            if self.limit < self.current and self.high < self.current:
                return "loosen"
            return "tighten" if self.limit > self.current else "keep"
        if self.limit > self.current and self.low > self.current:
            return "loosen"
        return "tighten" if self.limit < self.current else "keep"

    def as_entry(
        self,
        *,
        model: str,
        author: str,
        today: dt.date,
        reason: str = "",
    ) -> dict[str, Any]:
        """The table `[[budget]]` of the ledger.

        Raises:
            UsageError: the limit is looser than today's and there is no reason, or
                nothing can be said of the measurement.
        """
        name = f"{self.metric} of {self.target}"
        if self.change == "loosen" and not reason.strip():
            raise UsageError(
                f"{name}: limit={self.limit:.3g} is looser than today's "
                f"{self.current:.3g}, but should not be without a reason: give one"
            )
        if not math.isfinite(self.limit):
            raise UsageError(
                f"{name}: {self.cases} cases give no interval, but should be at least "
                "2: add cases"
            )
        measured = (
            f"calibrated: {self.value:.3g} ({self.low:.3g} to {self.high:.3g}) over "
            f"{self.cases} cases"
        )
        return {
            "target": self.target,
            "metric": self.metric,
            "limit": _rounded(self.limit, up=self.better == "lower"),
            "reason": f"{reason.strip()}; {measured}" if reason.strip() else measured,
            "data": self.data,
            "date": today,
            "author": author,
            "expires": today + LIFETIME,
            "model": model,
        }


def propose(evidence: Evidence, *, alpha: float = ALPHA) -> tuple[Proposal, ...]:
    """A limit for the drift and every metric of one target.

    The limit is the bound of the measurement on its worse side, wrong with chance
    `alpha` over other cases of the same kind. A later run fails only when its whole
    interval is beyond, so an unchanged target is flagged with a chance far below
    `alpha`.

    Args:
        evidence: of a target that was judged and passes; nothing for one that failed.
        alpha: chance that the bound is wrong.
    """
    if evidence.failure is not None:
        return ()
    digest = data_digest(evidence)
    theory = theory_drift(evidence)
    if evidence.device is not None:
        return _of_devices(evidence, evidence.device, alpha, digest, theory)
    better = {entry.name: entry.better for entry in evidence.metrics}
    return tuple(
        _proposal(
            evidence,
            name,
            estimate,
            alpha=alpha,
            data=digest,
            theory=theory if name == "drift" else None,
            better=better.get(name, "lower"),
        )
        for name, estimate in estimates(evidence).items()
    )


def _of_devices(
    evidence: Evidence,
    device: DeviceEvidence,
    alpha: float,
    data: str,
    theory: Budget | None,
) -> tuple[Proposal, ...]:
    """One limit for the drift, at the age at which its bound is the largest."""
    drifts = [series for series in device.series if series.kind == "drift"]
    if not drifts:
        return ()
    bounds = [(drift_bounds(series, alpha), len(series.values)) for series in drifts]
    (value, low, high), count = max(bounds, key=lambda entry: entry[0][2])
    current = evidence.budgets.get("drift")
    return (
        Proposal(
            target=f"{evidence.backend}/{evidence.scheme}",
            metric="drift",
            value=value,
            low=low,
            high=high,
            limit=high,
            detectable=high * (high / low - 1) if low > 0 else math.inf,
            current=None if current is None else current.limit,
            slack_sigma=None,
            theory=None if theory is None else theory.limit,
            cases=count,
            data=data,
        ),
    )


def _proposal(
    evidence: Evidence,
    name: str,
    estimate: Ratio | Mean,
    *,
    alpha: float,
    data: str,
    theory: Budget | None,
    better: str,
) -> Proposal:
    low, high = estimate.bounds(alpha)
    limit = high if better == "lower" else low
    current = evidence.budgets.get(name)
    return Proposal(
        target=f"{evidence.backend}/{evidence.scheme}",
        metric=name,
        value=estimate.value,
        low=low,
        high=high,
        limit=limit,
        detectable=estimate.detectable(limit, alpha, POWER),
        current=None if current is None else current.limit,
        slack_sigma=None
        if current is None
        else slack_sigma(
            estimate.value, current.limit, estimate.standard_error, better=better
        ),
        theory=None if theory is None else theory.limit,
        cases=estimate.clusters,
        data=data,
        better=better,
    )


def slack_sigma(
    value: float, limit: float, error: float, *, better: str = "lower"
) -> float | None:
    """How many standard errors a value is within its limit; None without a spread."""
    room = limit - value if better == "lower" else value - limit
    return room / error if error > 0 else None


def data_digest(evidence: Evidence) -> str:
    """Digest of the numbers that a budget was derived from: names, dtypes, values."""
    found = hashlib.sha256()
    pairs = [("drift", evidence.drift)]
    for name, paired in pairs:
        if paired is not None:
            found.update(json.dumps([name, paired.cases]).encode())
            found.update(paired.error_sq.astype("<f8").tobytes())
            found.update(paired.reference_sq.astype("<f8").tobytes())
    for metric in evidence.metrics:
        found.update(json.dumps([metric.name, metric.cases]).encode())
        found.update(metric.values.astype("<f8").tobytes())
    return f"sha256:{found.hexdigest()}"


def ledger_text(
    budgets: Sequence[Mapping[str, Any]],
    acknowledgements: Sequence[Mapping[str, Any]] = (),
) -> str:
    """The text of `budgets.toml`, sorted so that a change is a small difference."""
    head = (
        "# Limits and accepted failures, each with a reason and an end.\n"
        "# Proposed by `quantharness calibrate`, decided by whoever commits it.\n"
    )
    parts = [head]
    for kind, tables in (("budget", budgets), ("acknowledgement", acknowledgements)):
        keys = ("target", "metric", "check")
        ordered = sorted(tables, key=lambda t: [str(t.get(k, "")) for k in keys])
        parts += [f"[[{kind}]]\n" + _table(kind, table) for table in ordered]
    return "\n".join(parts)


def _table(kind: str, table: Mapping[str, Any]) -> str:
    """Its lines, then those of the tables within it."""
    plain = {k: v for k, v in table.items() if not isinstance(v, Mapping)}
    text = "".join(f"{key} = {_toml(value)}\n" for key, value in plain.items())
    for key, within in table.items():
        if isinstance(within, Mapping):
            text += f"[{kind}.{key}]\n"
            text += "".join(f"{_toml(k)} = {_toml(v)}\n" for k, v in within.items())
    return text


def _toml(value: Any) -> str:
    if isinstance(value, dt.date):
        return value.isoformat()
    if isinstance(value, float) and not math.isfinite(value):
        return repr(value)  # "inf" and "nan", which JSON spells otherwise
    # A JSON string is a TOML basic string.
    return json.dumps(value, ensure_ascii=False)


def _rounded(value: float, *, up: bool) -> float:
    """Three significant digits, never tighter than the value."""
    if value == 0 or not math.isfinite(value):
        return value
    step = 10.0 ** (math.floor(math.log10(abs(value))) - 2)
    steps = value / step
    whole = math.ceil(steps - 1e-9) if up else math.floor(steps + 1e-9)
    return float(f"{whole * step:.3g}")
