"""Budgets from what a clean run measures, for a person to review and commit."""

from __future__ import annotations

import datetime as dt
import getpass
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.backends.registry import load_registry
from harness.execution.matrix import Matrix
from harness.execution.observer import Observer, Silent
from harness.execution.selection import select
from harness.execution.suite import Suite, find_suites, load_suite
from harness.files import write_text
from harness.golden.store import read_golden
from harness.judge import Judgement, Verdict
from harness.judge.budgets import LEDGER
from harness.judge.calibrate import Proposal, ledger_text, propose
from harness.judge.ledger import read_ledger

#: Checks that say something about the backend, not about the budget: a target that
#: fails one of these measures a defect, and no limit is made of that.
_MUST_HOLD = ("artifact", "anomaly", "stability", "explained")


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """What is proposed for one suite."""

    suite: str
    proposals: tuple[Proposal, ...]
    #: Targets without a proposal, and why.
    skipped: tuple[str, ...]
    #: The ledger that was written, or "".
    written: str = ""

    def as_dict(self) -> dict[str, Any]:
        """JSON of the proposals."""
        return {
            "suite": self.suite,
            "proposals": [
                {
                    "target": p.target,
                    "metric": p.metric,
                    "value": p.value,
                    "low": p.low,
                    "high": p.high,
                    "limit": p.limit,
                    "current": p.current,
                    "slack_sigma": p.slack_sigma,
                    "theory": p.theory,
                    "change": p.change,
                    "cases": p.cases,
                }
                for p in self.proposals
            ],
            "skipped": list(self.skipped),
            "written": self.written,
        }


def calibrate(
    paths: Sequence[str | Path],
    *,
    backends: Sequence[str] | None = None,
    schemes: Sequence[str] | None = None,
    plugins: Sequence[str] = (),
    write: bool = False,
    reason: str = "",
    observer: Observer | None = None,
) -> tuple[Calibration, ...]:
    """Run targets, those of the nightly too, and propose a limit for their drift.

    Args:
        paths: folders that hold suites, or `suite.toml` files.
        backends: only these.
        schemes: only these.
        plugins: modules or files that register more.
        write: write `budgets.toml`; entries about anything else stay in it.
        reason: why a limit is loosened.
        observer: told of progress.

    Raises:
        UsageError: wrong paths or configuration; or a limit would be loosened without
            a reason.
    """
    watcher = observer or Silent()
    registry = load_registry(plugins)
    suites = [load_suite(path, registry) for path in find_suites(paths)]
    chosen = select(suites, backends, schemes, nightly=True)
    watcher.on_start(len(chosen), "calibrating")
    results = []
    try:
        with tempfile.TemporaryDirectory(prefix="quantharness-") as folder:
            for suite in suites:
                pairs = [pair for pair in chosen if pair[0] is suite]
                matrix = Matrix(
                    registry=registry,
                    folder=Path(folder),
                    run_id="calibrate",
                    observer=watcher,
                    plugins=plugins,
                )
                judged = matrix.run(pairs)
                results.append(_calibrate(suite, matrix, judged, write, reason))
    finally:
        watcher.on_finish()
    return tuple(results)


def _calibrate(
    suite: Suite,
    matrix: Matrix,
    judged: Sequence[Judgement],
    write: bool,
    reason: str,
) -> Calibration:
    proposals: list[Proposal] = []
    skipped = []
    for judgement in judged:
        broken = [
            check
            for check in judgement.checks
            if check.check in _MUST_HOLD and check.verdict is not Verdict.PASS
        ]
        evidence = matrix.evidence.get(judgement.name)
        if evidence is None or evidence.failure is not None or broken:
            skipped.append(
                f"{judgement.name} ({judgement.verdict}: {judgement.reason})"
            )
            continue
        proposals += [p for p in propose(evidence) if p.metric == "drift"]
    written = _write(suite, proposals, reason) if write and proposals else ""
    return Calibration(
        suite=suite.name,
        proposals=tuple(proposals),
        skipped=tuple(skipped),
        written=written,
    )


def _write(suite: Suite, proposals: Sequence[Proposal], reason: str) -> str:
    """The ledger with the new limits; whatever they do not replace stays."""
    path = suite.folder / LEDGER
    model = read_golden(suite.golden, suite=suite.name).model_fingerprint
    names = [target.name for target in suite.targets]
    known = read_ledger(path, targets=names, model=model)
    today = dt.datetime.now(dt.UTC).date()
    author = f"quantharness calibrate ({getpass.getuser()})"
    tables: list[dict[str, Any]] = []
    for proposal in proposals:
        entry = proposal.as_entry(
            model=model, author=author, today=today, reason=reason
        )
        target = entry["target"].removeprefix(f"{suite.name}/")
        tables.append({**entry, "target": target})
    replaced = {(table["target"], table["metric"]) for table in tables}
    kept = [dict(e.values) for e in known if e.kind == "acknowledgement"]
    tables += [
        dict(entry.values)
        for entry in known
        if entry.kind == "budget" and (entry["target"], entry["metric"]) not in replaced
    ]
    write_text(path, ledger_text(tables, kept))
    return str(path)
