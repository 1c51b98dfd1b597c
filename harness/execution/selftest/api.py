"""`harness.selftest`: what the command line calls."""

from __future__ import annotations

import contextlib
import itertools
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np

from harness.backends.registry import Registry, load_registry
from harness.defects import DEFECTS, Defect, find_defect
from harness.errors import UsageError
from harness.execution.isolation import Worker
from harness.execution.observer import Observer, Silent
from harness.execution.selection import select
from harness.execution.selftest.engine import SelfTest
from harness.execution.selftest.journal import JOURNAL, Journal
from harness.execution.selftest.plan import plan, quantized_operators
from harness.execution.selftest.stage import Item, Stage, open_stage
from harness.execution.selftest.summary import summary
from harness.execution.selftest.trial import Trial
from harness.execution.source import plugin_digest
from harness.execution.suite import Suite, Target, find_suites, load_suite
from harness.files import alone_in, output_folder, write_json, write_text
from harness.reports.selftest import render

#: Trials of `--sample` without a number.
SAMPLE: Final = 60


def selftest(
    paths: Sequence[str | Path],
    *,
    backends: Sequence[str] | None = None,
    schemes: Sequence[str] | None = None,
    defects: Sequence[str] | None = None,
    plugins: Sequence[str] = (),
    strengths: Sequence[str] = ("low", "catalogue", "high"),
    places: Sequence[str] = ("one", "all"),
    sample: int = 0,
    controls: int = 1,
    bisect: bool = False,
    workers: int = 1,
    out: str | Path | None = None,
    observer: Observer | None = None,
) -> dict[str, Any]:
    """Plant defects in every target and tell what the suite's gate catches.

    Args:
        paths: folders that hold suites, or `suite.toml` files.
        backends: only targets of these backends.
        schemes: only targets of these schemes.
        defects: only these; None: the whole catalogue and what plugins add.
        plugins: modules or files whose `register(registry)` is called.
        strengths: "low", "catalogue", "high".
        places: "one" operator, "all" of them.
        sample: about so many trials, spread over targets and defects; 0: every one.
        controls: clean runs of each target.
        bisect: also find the smallest strength that is caught.
        workers: worker processes at the same time.
        out: folder for `selftest.json` and `selftest.html`; None: not written. Trials
            are kept there as they end, and the next call with the same folder goes on
            from there.
        observer: told of progress.

    Returns:
        plain values: what was caught, alarmed, named and missed (`summary`), and
        every trial under "all".

    Raises:
        UsageError: wrong paths or configuration, an unknown defect, nothing to plant.
        GoldenError: a suite has no golden.
    """
    watcher = observer or Silent()
    kept = None if out is None else output_folder(Path(out))
    registry = load_registry(plugins)
    suites = [load_suite(path, registry) for path in find_suites(paths)]
    chosen = select(suites, backends, schemes)
    known = _defects(registry, defects)
    with contextlib.ExitStack() as held:
        scratch = tempfile.TemporaryDirectory(prefix="quantharness-")
        folder = Path(held.enter_context(scratch))
        if kept is not None:
            held.enter_context(alone_in(kept))
        journal = Journal(None if kept is None else kept / JOURNAL)
        items: list[Item] = []
        plantable = False
        groups: dict[tuple[str, str], list[tuple[Suite, Target]]] = {}
        for suite, target in chosen:
            groups.setdefault((suite.name, target.backend), []).append((suite, target))
        for (_, backend), pairs in groups.items():
            suite, targets = pairs[0][0], [target for _, target in pairs]
            stage, whole = _open(suite, backend, registry, folder, plugins)
            stage.plugged = " ".join(map(plugin_digest, plugins))
            names = {t.name: quantized_operators(t, whole) for t in targets}
            plantable |= any(names[t.name] or t.scheme.kv_cache for t in targets)
            items += plan(
                stage,
                targets,
                names,
                defects=known,
                strengths=strengths,
                places=places,
                controls=controls,
            )
        if sample:
            items = sampled(items, sample)
        if not plantable or not any(item.planting for item in items):
            raise UsageError("nothing to plant: no target quantizes an operator")
        test = SelfTest(
            folder=folder,
            plugins=plugins,
            workers=workers,
            journal=journal,
            on_trial=lambda trial, _done, _all: _tell(watcher, trial),
        )
        watcher.on_start(len(items), "planting")
        try:
            test.run(items, bisect=bisect)
        except KeyboardInterrupt:
            if kept is not None:
                watcher.on_message(f"{kept}: trials are kept; the same command goes on")
            raise
        finally:
            watcher.on_finish()
    found = summary(test.trials, test.thresholds, known)
    found["all"] = [trial.as_dict() for trial in test.trials]
    if kept is not None:
        write_json(kept / "selftest.json", found)
        write_text(kept / "selftest.html", render(found))
    return found


def _defects(registry: Registry, wanted: Sequence[str] | None) -> Mapping[str, Defect]:
    if wanted is None:
        return {**DEFECTS, **registry.defects}
    return {name: find_defect(name, registry.defects) for name in wanted}


def _open(
    suite: Suite, backend: str, registry: Registry, folder: Path, plugins: Sequence[str]
) -> tuple[Stage, Any]:
    log = folder / "logs" / f"{suite.name}-{backend}.log"
    environment = registry.environment(backend)
    with Worker(log=log, plugins=plugins, threads=1, environment=environment) as worker:
        return open_stage(suite, backend, registry, worker)


def _tell(observer: Observer, trial: Trial) -> None:
    """Count it; say aloud what must not happen."""
    observer.on_step()
    if trial.planting is None and trial.caught:
        observer.on_message(
            f"FALSE ALARM {trial.suite}/{trial.target}: {trial.verdict} without any "
            f"defect: {trial.reason}"
        )
    elif trial.planted and not trial.caught and trial.level == "catalogue":
        assert trial.planting is not None  # sanity check
        observer.on_message(
            f"missed {trial.suite}/{trial.target}: {trial.planting.defect} in "
            f"{trial.planting.operator or 'all operators'}"
        )


def sampled(items: Sequence[Item], count: int) -> list[Item]:
    """About so many plantings: every target in turn, each with its own next defect.

    Clean controls of the targets that are used are kept. The draw depends on the
    suites' seeds alone, and a larger one begins with the smaller.
    """
    controls: dict[str, list[Item]] = {}
    queues: dict[str, list[Item]] = {}
    for item in items:
        key = f"{item.stage.suite.name}/{item.target.name}"
        if item.planting is None:
            controls.setdefault(key, []).append(item)
        else:
            queues.setdefault(key, []).append(item)
    for number, (key, queue) in enumerate(sorted(queues.items())):
        rng = np.random.default_rng([queue[0].stage.suite.seed, number])
        mixed = [queue[index] for index in rng.permutation(len(queue))]
        # Catalogue strength first; the sort keeps the drawn order within.
        queues[key] = sorted(mixed, key=lambda item: item.level != "catalogue")
    drawn = list(itertools.islice(_in_turn(list(queues.values())), count))
    used = {f"{i.stage.suite.name}/{i.target.name}" for i in drawn}
    clean = [item for key in controls if key in used for item in controls[key]]
    return [*clean, *drawn]


def _in_turn(queues: Sequence[Sequence[Item]]) -> Iterator[Item]:
    """One of each queue, again and again, until all are empty."""
    for row in itertools.zip_longest(*queues):
        yield from (item for item in row if item is not None)
