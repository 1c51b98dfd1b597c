"""`hunt`: the search of every target of a suite, each in its worker."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from harness.backends.registry import load_registry
from harness.errors import GoldenError
from harness.execution.calibrated import calibrated
from harness.execution.isolation import Worker
from harness.execution.jobs import HardPrompt, HuntJob, HuntRun
from harness.execution.matrix import suite_ref
from harness.execution.selection import select
from harness.execution.suite import Suite, Target, load_suite
from harness.golden.store import read_golden


def hunt(
    path: str | Path,
    *,
    backends: Sequence[str] | None = None,
    schemes: Sequence[str] | None = None,
    plugins: Sequence[str] = (),
    seconds: float = 300.0,
    count: int = 5,
) -> list[dict[str, Any]]:
    """Search for prompts with most drift, target by target.

    Args:
        path: the suite's folder or file.
        backends: only targets of these.
        schemes: only targets of these.
        plugins: as of `run`.
        seconds: time a target, loading not counted.
        count: findings a target, at most.

    Returns:
        By target: how many prompts were tried, the mean KL of the suite's own, and
        the findings as records for `cases.jsonl`.

    Raises:
        UsageError: wrong suite or filters.
        UnsupportedError: the model is no language model.
    """
    registry = load_registry(plugins)
    suite = load_suite(path, registry)
    found = []
    for _, target in select([suite], backends, schemes):
        log = Path("reports") / "logs" / f"hunt-{suite.name}-{target.backend}.log"
        environment = registry.environment(target.backend)
        with Worker(log=log, plugins=plugins, environment=environment) as worker:
            found.append(_one(suite, target, worker, seconds, count))
    return found


def _one(
    suite: Suite, target: Target, worker: Worker, seconds: float, count: int
) -> dict[str, Any]:
    try:
        golden = read_golden(suite.golden, suite=suite.name)
        scheme = calibrated(target.scheme, golden)
    except GoldenError:
        # Only static schemes need it, and say so.
        scheme = target.scheme
    found: HuntRun = worker.run(
        HuntJob(
            suite=suite_ref(suite),
            backend=target.backend,
            scheme=scheme,
            precision=suite.reference.precision,
            seconds=seconds,
            count=count,
        )
    )
    return {
        "target": f"{suite.name}/{target.name}",
        "tried": found.tried,
        "seed_kl": found.seed_kl,
        "file": str(suite.folder / suite.cases),
        "cases": proposals(target.scheme.name, found.findings),
    }


def proposals(scheme: str, findings: Sequence[HardPrompt]) -> list[dict[str, Any]]:
    """Findings as records for `cases.jsonl`.

    An id is that of its text: what another hunt found before is the same case, and
    what it did not is none that is there.
    """
    return [
        {
            "id": f"hunt-{scheme}-{hashlib.sha256(one.text.encode()).hexdigest()[:8]}",
            "text": one.text,
            "tags": ["hunt", f"kl={one.kl:.3g}"],
        }
        for one in findings
    ]
