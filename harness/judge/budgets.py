"""Which limit each measurement of a target is held to, and where it came from.

In order: the ledger `budgets.toml` (reasoned, dated, tied to the model), the
`[budget]` tables of `suite.toml`, and what theory says for a scheme.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import functools
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol

from harness.judge.evidence import Acknowledgement, Budget, Evidence
from harness.judge.ledger import Entry, read_ledger

if TYPE_CHECKING:
    from harness.schemes.types import Scheme

#: Name of the ledger, beside `suite.toml`.
LEDGER: Final = "budgets.toml"


class TargetLike(Protocol):
    """What is needed of a target."""

    @property
    def name(self) -> str:
        """`backend/scheme`."""
        ...

    @property
    def scheme(self) -> Scheme:
        """What gets which format."""
        ...

    @property
    def budgets(self) -> Mapping[str, tuple[float, str]]:
        """Metric -> (limit, "suite.toml:LINE")."""
        ...


class SuiteLike(Protocol):
    """What is needed of a suite."""

    @property
    def name(self) -> str:
        """The suite's name."""
        ...

    @property
    def folder(self) -> Path:
        """Where the ledger lies."""
        ...

    @property
    def targets(self) -> Sequence[TargetLike]:
        """All targets, so that an entry for none is found."""
        ...


def budgets_for(
    suite: SuiteLike,
    target: TargetLike,
    model_fingerprint: str,
    *,
    today: dt.date | None = None,
) -> dict[str, Budget]:
    """Every stated budget of a target by metric.

    How far a model may drift is said of a scheme as much as of an engine: a target that
    the suite does not have is held to the least that is stated for its scheme.

    Defaults that need measurements (`theory_drift`) are added by the check that uses
    them.

    Raises:
        ConfigError: the ledger is malformed, expired or unmatched.
    """
    found = {
        metric: Budget(metric=metric, limit=limit, source=source)
        for metric, (limit, source) in target.budgets.items()
    }
    for entry in _entries(suite, model_fingerprint, today):
        if entry.kind == "budget" and entry.covers(target.name):
            found[entry["metric"]] = _budget(entry)
    if "drift" not in found and target.name not in {t.name for t in suite.targets}:
        others = [t for t in suite.targets if t.scheme.name == target.scheme.name]
        stated = [
            dataclasses.replace(budget, source=f"as {other.name}: {budget.source}")
            for other in others
            for budget in budgets_for(
                suite, other, model_fingerprint, today=today
            ).values()
            if budget.metric == "drift"
        ]
        if stated:
            found["drift"] = min(stated, key=lambda budget: budget.limit)
    return found


def acknowledgements_for(
    suite: SuiteLike,
    target: TargetLike,
    model_fingerprint: str,
    *,
    today: dt.date | None = None,
) -> tuple[Acknowledgement, ...]:
    """The failures of a target that are known and accepted for now.

    Raises:
        ConfigError: the ledger is malformed, expired or unmatched.
    """
    return tuple(
        Acknowledgement(
            target=f"{suite.name}/{target.name}",
            check=entry["check"],
            metric=entry.values.get("metric", ""),
            limit=entry["limit"],
            operators=entry.values.get("operators", {}),
            reason=entry["reason"],
            author=entry["author"],
            expires=entry["expires"].isoformat(),
            source=entry.source,
        )
        for entry in _entries(suite, model_fingerprint, today)
        if entry.kind == "acknowledgement" and entry.covers(target.name)
    )


def check_ledger(suite: SuiteLike) -> None:
    """Read the suite's ledger before anything is run.

    Raises:
        ConfigError: it is malformed, expired or unmatched.
    """
    names = [entry.name for entry in suite.targets]
    read_ledger(suite.folder / LEDGER, targets=names, model=None)


def _entries(suite: SuiteLike, model: str, today: dt.date | None) -> tuple[Entry, ...]:
    names = [entry.name for entry in suite.targets]
    return read_ledger(suite.folder / LEDGER, targets=names, model=model, today=today)


def _budget(entry: Entry) -> Budget:
    return Budget(
        metric=entry["metric"],
        limit=entry["limit"],
        margin=entry.values.get("margin", 0.0),
        least=entry.values.get("least"),
        source=(
            f"{entry.source}: {entry['reason']} ({entry['author']}, "
            f"{entry['date'].isoformat()})"
        ),
    )


def theory_drift(evidence: Evidence) -> Budget | None:
    """The drift that the scheme's own rounding explains; None when nothing is known.

    Errors of different operators are independent, and each reaches the outputs with
    a gain of about one relative to the signal, so their energies add up: the root of
    the sum over operators of the oracle's relative quantization error, as measured
    on the operators' own inputs, or as the format has on normal data where the
    backend shows none. Signals that add up through residual connections make the
    real drift smaller, so this is the limit of a suite that was never calibrated.
    """
    # What a device declares of its operators is as independent.
    noisy = evidence.device is not None
    shares = [
        (entry.quantization_sq + noisy * entry.measured_sq) / entry.signal_sq
        for entry in evidence.operators
        if entry.signal_sq > 0
    ]
    total, count = sum(shares), len(shares)
    if total > 0:
        origin = "measured on their own inputs"
    else:
        formats = [w.expected for w in evidence.weights if w.expected]
        inputs = set(evidence.activations_found)
        total = sum(
            format_noise(name) ** 2 * (2 if weight.operator in inputs else 1)
            for name, weight in zip(
                formats, [w for w in evidence.weights if w.expected], strict=True
            )
        )
        count, origin = len(formats), "of their formats on normal data"
    if total <= 0:
        return None
    return Budget(
        metric="drift",
        limit=math.sqrt(total),
        source=(
            f"theory: rounding errors of {count} operators, {origin}, added as "
            "independent; `quantharness calibrate` proposes a measured one"
        ),
    )


#: Largest loss of right answers that was published for a faultless recipe, as a share
#: of the cases, with where. First match of a format's name decides.
PUBLISHED_LOSS: Final[Mapping[str, tuple[float, str]]] = {
    "fp8": (0.005, "MMLU -0.5 points at FP8, sgl-project/sglang#25794"),
    "mxfp8": (0.005, "MMLU -0.5 points at FP8, sgl-project/sglang#25794"),
    "int8": (0.03, "1 to 3% at INT8 W8A8, arXiv 2411.02355"),
    "nvfp4": (0.077, "GSM8K -7.7 points at NVFP4 RTN, arXiv 2509.23202"),
    "mxfp4": (0.077, "GSM8K -7.7 points at NVFP4 RTN, arXiv 2509.23202"),
    "int4": (0.077, "GSM8K -7.7 points at NVFP4 RTN, arXiv 2509.23202"),
    "nf4": (0.077, "GSM8K -7.7 points at NVFP4 RTN, arXiv 2509.23202"),
}


def published_margin(evidence: Evidence) -> tuple[float, str]:
    """The loss of answers that the scheme's own formats are known to cost.

    Stands in where nobody stated a margin: the largest of the formats that the
    weights should have; 0 for formats of which nothing was published.
    """
    formats = {w.expected for w in evidence.weights if w.expected}
    found = [
        entry
        for name in formats or {evidence.scheme}
        for prefix, entry in PUBLISHED_LOSS.items()
        if name.startswith(prefix)
    ]
    if not found:
        return 0.0, "no loss allowed: none is published for the format"
    margin, where = max(found)
    return margin, f"published for the format: {where}"


@functools.cache
def format_noise(format_name: str) -> float:
    """Relative L2 that a format adds to normal data, computed from the format.

    Raises:
        NumericsError: there is no such format.
    """
    import numpy as np

    from harness import numerics

    x = np.random.default_rng(0).standard_normal((128, 512)).astype(np.float32)
    decoded = numerics.quantize(x, format_name, axis=-1).dequantize()
    return float(np.linalg.norm(decoded - x) / np.linalg.norm(x))
