"""What a suite's gate would catch: every defect that fits, in every target.

A planting is run as the gate runs a target, on as many cases as cover the suite's
shapes; what is missed there is run again on all of them, so that "missed" means that
the whole gate misses it. Clean targets run beside: an alarm there is as bad as a miss.
"""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from harness.defects import DEFECTS
from harness.defects.types import SHARE
from harness.execution.isolation import Stop, Worker
from harness.execution.selftest.journal import Journal, key_of
from harness.execution.selftest.stage import Item, Stage
from harness.execution.selftest.trial import Threshold, Trial

#: Steps of the bisection for the smallest strength that is caught.
_STEPS: Final = 5


@dataclass(kw_only=True)
class SelfTest:
    """The plan of a self-test and what came of it.

    Attributes:
        folder: where workers log.
        plugins: loaded by the workers.
        workers: worker processes at the same time.
        on_trial: told of every trial.
        journal: what was tried before and need not be tried again.
        trials: in the order that they ended.
    """

    folder: Path
    plugins: Sequence[str] = ()
    workers: int = 1
    on_trial: Callable[[Trial, int, int], None] | None = None
    journal: Journal = field(default_factory=lambda: Journal(None))
    trials: list[Trial] = field(default_factory=list)
    thresholds: list[Threshold] = field(default_factory=list)
    #: Ends all workers when it is interrupted.
    stop: Stop = field(default_factory=Stop)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def run(self, items: Sequence[Item], *, bisect: bool = False) -> list[Trial]:
        """Run what was planned; workers keep a suite's model between trials.

        Args:
            items: from `plan`.
            bisect: also look for the smallest strength of every caught defect.
        """
        queues: dict[tuple[str, str], list[Item]] = {}
        for item in items:
            known = self.journal.trials.get(key_of(item))
            if known is not None:
                self._ended(known, len(items))
            if known is None or (bisect and self._unbisected(item, known)):
                queues.setdefault(item.stage.key, []).append(item)
        lanes: list[list[Item]] = []
        for entries in queues.values():
            size = max(1, -(-len(entries) // self.workers))
            lanes += [entries[i : i + size] for i in range(0, len(entries), size)]
        total = len(items)
        with ThreadPoolExecutor(max_workers=max(1, self.workers)) as pool:
            try:
                list(
                    pool.map(lambda lane: self._lane(lane, total, bisect=bisect), lanes)
                )
            except BaseException:
                self.stop.now()
                raise
        self.thresholds = [
            self.journal.thresholds[key]
            for key in map(key_of, items)
            if key in self.journal.thresholds
        ]
        return self.trials

    def _unbisected(self, item: Item, trial: Trial) -> bool:
        wanted = trial.caught and item.level == "catalogue"
        return wanted and key_of(item) not in self.journal.thresholds

    def _ended(self, trial: Trial, total: int) -> None:
        with self._lock:
            self.trials.append(trial)
            done = len(self.trials)
        if self.on_trial is not None:
            self.on_trial(trial, done, total)

    def _lane(self, items: Sequence[Item], total: int, *, bisect: bool) -> None:
        """Trials of one suite and backend, one after another in one worker."""
        stage = items[0].stage
        with stage.worker(self.folder, self.plugins, self.stop) as worker:
            for item in items:
                trial = self.journal.trials.get(key_of(item))
                if trial is None:
                    trial = self._tried(item, worker)
                    self.journal.add(key_of(item), trial)
                    self._ended(trial, total)
                if bisect and self._unbisected(item, trial):
                    there = dataclasses.replace(item, planting=trial.planting)
                    found = _bisect(there, stage, worker)
                    if found is not None:
                        self.journal.add(key_of(item), found)

    def _tried(self, item: Item, worker: Worker) -> Trial:
        """One trial; what few cases miss, or never meet, is tried on all of them.

        Where a defect does not fit the operator that was drawn, the others are tried.
        """
        trial = item.stage.trial(item, worker)
        for name in item.elsewhere:
            if not trial.unfit:
                break
            assert item.planting is not None  # sanity check
            there = dataclasses.replace(item.planting, operator=name)
            item = dataclasses.replace(item, planting=there)
            trial = item.stage.trial(item, worker)
        if item.planting is not None and not trial.caught and not trial.unfit:
            return item.stage.trial(item, worker, whole=True)
        return trial


def _bisect(item: Item, stage: Stage, worker: Worker) -> Threshold | None:
    """The smallest strength that is caught, on a logarithmic scale."""
    whole = item.planting
    assert whole is not None  # sanity check
    defect = DEFECTS.get(whole.defect)
    if defect is None or defect.parameter.catalogue == defect.parameter.low:
        return None
    parameter = defect.parameter

    def caught(strength: float) -> bool:
        planting = dataclasses.replace(whole, strength=strength)
        tried = dataclasses.replace(item, planting=planting, level="bisect")
        return stage.trial(tried, worker).caught

    bad, good = parameter.catalogue, parameter.low
    missed: float | None = None
    if caught(good):
        bad = good
    else:
        missed = good
        for _ in range(_STEPS):
            middle = (bad * good) ** 0.5
            if defect.parameter is not SHARE and parameter.low >= 1:
                middle = round(middle)
            if middle in (bad, good):
                break
            if caught(middle):
                bad = middle
            else:
                good = missed = middle
    return Threshold(
        suite=item.stage.suite.name,
        target=item.target.name,
        defect=defect.name,
        parameter=parameter.name,
        caught=bad,
        missed=missed,
    )
