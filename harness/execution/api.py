"""`harness.run` and its siblings: what the command line and pytest call."""

from __future__ import annotations

import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from harness.backends.registry import load_registry
from harness.errors import UsageError
from harness.execution.baseline import Baseline
from harness.execution.golden_inventory import check_unused
from harness.execution.matrix import LATENCY_SECONDS, Matrix
from harness.execution.observer import Observer, Silent
from harness.execution.record import RecordReport, record
from harness.execution.run_folder import (
    find_baseline,
    new_run_id,
    read_report,
    write_report,
)
from harness.execution.selection import select
from harness.execution.suite import Suite, Target, find_suites, load_suite
from harness.execution.unfinished import Unfinished, inputs_of
from harness.files import alone_in, output_folder
from harness.golden.environment import differences, environment
from harness.history import load
from harness.history.nights import Nights
from harness.judge.budgets import check_ledger
from harness.judge.types import Judgement, Report

__all__ = ["RecordReport", "explain", "record", "run", "run_targets"]

#: Where runs and their history are written unless `--out` says otherwise.
REPORTS = Path("reports")


def run(
    paths: Sequence[str | Path],
    *,
    backends: Sequence[str] | None = None,
    schemes: Sequence[str] | None = None,
    plugins: Sequence[str] = (),
    workers: int = 1,
    timeout: float | None = None,
    memory: float | None = None,
    out: str | Path | None = None,
    baseline: str | None = None,
    across_versions: bool = False,
    history: str | Path | None = None,
    everything: bool = False,
    observer: Observer | None = None,
) -> Report:
    """Run suites against their goldens.

    Args:
        paths: folders that hold suites, or `suite.toml` files.
        backends: only targets of these backends.
        schemes: only targets of these schemes.
        plugins: modules or files whose `register(registry)` is called.
        workers: suites run at the same time, each with its share of the cores.
        timeout: seconds that one target may take; None: no limit.
        memory: gigabytes (10^9 bytes) that a backend's process may have resident;
            None: no limit.
        out: the run's folder; None: `reports/<run id>`. With a run that was
            interrupted in it, the targets that are missing there are run.
        baseline: a run's folder or `history:latest`, to compare with.
        across_versions: compare with a baseline of another version of the backend,
            which is `stale` otherwise.
        history: folder of the nights before, for a nightly run: it holds the rate of
            false discoveries instead of the family-wise error, spends its share of
            all nights' level, and judges the answers lost over the nights. The run is
            not appended.
        everything: every scheme on every backend that can be used here, not only the
            suites' own targets.
        observer: told of the run's course.

    Returns:
        The report; also written to `run.json` in the run's folder.

    Raises:
        UsageError: wrong paths, filters, configuration, model or cases.
    """
    registry = load_registry(plugins)
    suites = [load_suite(path, registry) for path in find_suites(paths)]
    _unique([suite.name for suite in suites])
    return run_targets(
        select(
            suites,
            backends,
            schemes,
            nightly=history is not None,
            everything=registry if everything else None,
        ),
        plugins=plugins,
        workers=workers,
        timeout=timeout,
        memory=memory,
        out=out,
        baseline=baseline,
        across_versions=across_versions,
        history=history,
        observer=observer,
    )


def run_targets(
    pairs: Sequence[tuple[Suite, Target]],
    *,
    plugins: Sequence[str] = (),
    workers: int = 1,
    timeout: float | None = None,
    memory: float | None = None,
    out: str | Path | None = None,
    baseline: str | None = None,
    across_versions: bool = False,
    history: str | Path | None = None,
    observer: Observer | None = None,
) -> Report:
    """Run targets that were chosen already; see `run`."""
    if workers < 1:
        raise UsageError(f"workers={workers}, but should be at least 1")
    if timeout is not None and not timeout > 0:
        raise UsageError(f"timeout={timeout}, but should be more than 0 seconds")
    if memory is not None and not memory > 0:
        raise UsageError(f"memory={memory}, but should be more than 0 gigabytes")
    watcher = observer or Silent()
    started = datetime.now(UTC)
    clock = time.perf_counter()
    run_id = new_run_id(started)
    folder = Path(out) if out is not None else REPORTS / run_id
    if (folder / "run.json").exists():
        raise UsageError(f"{folder}: holds a run already; give another --out")
    check_unused(suite for suite, _ in pairs)
    for suite in {suite.path: suite for suite, _ in pairs}.values():
        check_ledger(suite)
    nights = None
    if history is not None:
        nights = nights_before(output_folder(Path(history)))
    found = None
    if baseline is not None:
        found = Baseline.read(
            find_baseline(baseline, REPORTS / "history"),
            across_versions=across_versions,
        )
    with alone_in(output_folder(folder)):
        matrix = Matrix(
            registry=load_registry(plugins),
            folder=folder,
            run_id=run_id,
            observer=watcher,
            plugins=plugins,
            timeout=timeout,
            memory=None if memory is None else memory * 1e9,
            workers=workers,
            baseline=found,
            mode="gate" if history is None else "nightly",
            nights=nights,
            latency_seconds=LATENCY_SECONDS if found is not None else 0.0,
        )
        targets = _judged(matrix, pairs)
        report = Report(
            run=run_id,
            environment=environment(),
            targets=targets,
            folder=str(folder),
            started=started.isoformat(timespec="seconds"),
            seconds=time.perf_counter() - clock,
            baseline=found.run if found else None,
            nights=matrix.nights.as_dict() if matrix.nights is not None else {},
            since_golden=matrix.since_golden,
        )
        write_report(report, folder)
    return report


def _judged(
    matrix: Matrix, pairs: Sequence[tuple[Suite, Target]]
) -> tuple[Judgement, ...]:
    """Every target's verdict, told as they come.

    Raises:
        UsageError: the folder holds part of another run.
    """
    folder, watcher, nights = matrix.folder, matrix.observer, matrix.nights
    inputs = inputs_of(
        {suite.path: suite for suite, _ in pairs}.values(),
        matrix.plugins,
        baseline=matrix.baseline.run if matrix.baseline else "",
        nights=nights.as_dict() if nights is not None else None,
    )
    matrix.unfinished = Unfinished.open(folder, inputs)
    done = matrix.unfinished.count(pairs)
    if done:
        watcher.on_message(
            f"{folder}: goes on; {done} of {len(pairs)} targets have their verdict"
        )
    watcher.on_start(len(pairs), f"{len(pairs)} targets")
    try:
        return matrix.run(pairs)
    except KeyboardInterrupt:
        watcher.on_message(
            f"{folder}: what has its verdict is kept; the same command with --out "
            f"{folder} goes on"
        )
        raise
    finally:
        watcher.on_finish()


def nights_before(history: Path) -> Nights:
    """The state that a history's newest night left; a fresh one where none is.

    Raises:
        UsageError: it cannot be read.
    """
    return Nights.after(load(history).reports) if history.is_dir() else Nights()


def environment_differences(
    report: Report, baseline: str | None
) -> dict[str, tuple[str, str]]:
    """What differs from the baseline's environment: name -> (then, now).

    Raises:
        UsageError: the baseline is no run.
    """
    if baseline is None:
        return {}
    then = read_report(find_baseline(baseline, REPORTS / "history"))
    return differences(then.environment, report.environment)


def _unique(names: Sequence[str]) -> None:
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise UsageError(f"two suites are called {twice[0]!r}; rename one")


def explain(run_folder: str | Path, target: str | None = None) -> Report:
    """A run's report, or the part of it about one target.

    Args:
        run_folder: a folder that `run` wrote.
        target: `suite/backend/scheme`, or a part of it that fits just one or more.

    Raises:
        UsageError: no such run, or no such target in it.
    """
    import dataclasses

    report = read_report(Path(run_folder))
    if target is None:
        return report
    chosen = tuple(
        entry
        for entry in report.targets
        if entry.name == target or entry.name.endswith(f"/{target}")
    )
    if not chosen:
        names = "\n  ".join(entry.name for entry in report.targets)
        raise UsageError(f"{target}: no such target in {run_folder}; it has\n  {names}")
    return dataclasses.replace(report, targets=chosen)
