"""Recording goldens: run the reference, trust it or refuse it, seal it."""

from __future__ import annotations

import getpass
import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import numpy as np

from harness.backends.registry import load_registry
from harness.behaviours.kinds import KINDS
from harness.behaviours.types import Reply
from harness.errors import GoldenCorrupt, GoldenError, GoldenMissing, ReferenceInvalid
from harness.execution.answers import REPLIES, answers_of
from harness.execution.isolation import Worker
from harness.execution.jobs import DescribeJob, Description, ReferenceJob, ReferenceRun
from harness.execution.matrix import suite_ref
from harness.execution.observer import Observer, Silent
from harness.execution.suite import Suite, find_suites, load_suite
from harness.golden.diff import diff
from harness.golden.environment import environment
from harness.golden.guards import check_may_write
from harness.golden.store import (
    SCHEMA,
    CompactOutput,
    Golden,
    compact,
    read_golden,
    write_golden,
)

Array = np.ndarray[Any, np.dtype[Any]]

#: A reference may be at most this far (relative L2) from the same model in the
#: widest precision that runs. One rounding to FP8 (E4M3) has a relative error of up
#: to 2**-4; a reference that is itself off by a quarter of that cannot tell what FP8
#: did to the model from what FP16 did.
LARGEST_REFERENCE_ERROR: Final = 2.0**-4 / 4


@dataclass(frozen=True, kw_only=True)
class SuiteRecord:
    """What became of one suite's golden."""

    name: str
    #: "recorded", "renewed", "unchanged" or "refused".
    status: str
    changes: tuple[str, ...] = ()
    message: str = ""


@dataclass(frozen=True, kw_only=True)
class RecordReport:
    """What `quantharness record` did."""

    suites: tuple[SuiteRecord, ...]

    @property
    def exit_code(self) -> int:
        """1 when a golden was refused."""
        return int(any(suite.status == "refused" for suite in self.suites))


def record(
    paths: Sequence[str | Path],
    *,
    renew: bool = False,
    reason: str = "",
    plugins: Sequence[str] = (),
    allow_ci: bool = False,
    allow_dirty: bool = False,
    missing_only: bool = False,
    observer: Observer | None = None,
) -> RecordReport:
    """Record the goldens of suites.

    A sealed golden is only overwritten with `renew`; without it, what would change is
    said and nothing is written.

    Raises:
        UsageError: wrong paths, configuration, model or cases; or a CI machine or a
            dirty tree without leave.
        BackendError: the reference backend crashed.
    """
    watcher = observer or Silent()
    registry = load_registry(plugins)
    suites = [load_suite(path, registry) for path in find_suites(paths)]
    watcher.on_start(len(suites), "recording")
    try:
        records = [
            _Recorder(suite, {**KINDS, **registry.behaviours}, plugins, watcher).record(
                renew=renew,
                reason=reason,
                allow_ci=allow_ci,
                allow_dirty=allow_dirty,
                missing_only=missing_only,
            )
            for suite in suites
        ]
    finally:
        watcher.on_finish()
    return RecordReport(suites=tuple(records))


@dataclass(frozen=True)
class _Recorder:
    """Records one suite."""

    suite: Suite
    kinds: dict[str, object]
    plugins: Sequence[str]
    observer: Observer

    def record(
        self,
        *,
        renew: bool,
        reason: str,
        allow_ci: bool,
        allow_dirty: bool,
        missing_only: bool,
    ) -> SuiteRecord:
        before = self._existing()
        if before is not None and missing_only:
            return self._result("unchanged", message="already recorded")
        if before is None or renew:
            check_may_write(
                sources(self.suite), allow_ci=allow_ci, allow_dirty=allow_dirty
            )
        self.observer.on_target(self.suite.name)
        golden = self._run(reason or ("renewed" if before else "first recording"))
        if before is None:
            write_golden(golden, self.suite.golden)
            return self._result("recorded", message=str(self.suite.golden))
        changes = tuple(str(change) for change in diff(before, golden))
        for change in changes:
            self.observer.on_message(f"{self.suite.name}: {change}")
        if not changes:
            return self._result("unchanged", message="the same to the last bit")
        if not renew:
            return self._result(
                "refused",
                changes,
                f"{self.suite.golden} is sealed; --renew writes these changes",
            )
        write_golden(golden, self.suite.golden)
        return self._result("renewed", changes, str(self.suite.golden))

    def _result(
        self, status: str, changes: tuple[str, ...] = (), message: str = ""
    ) -> SuiteRecord:
        return SuiteRecord(
            name=self.suite.name, status=status, changes=changes, message=message
        )

    def _existing(self) -> Golden | None:
        """The golden that is there; a damaged one is named and replaced only anew."""
        try:
            return read_golden(self.suite.golden, suite=self.suite.name)
        except GoldenMissing:
            return None
        except GoldenCorrupt as error:
            self.observer.on_message(
                f"{self.suite.name}: replacing a damaged one: {error}"
            )
            return None
        except GoldenError as error:
            self.observer.on_message(f"{self.suite.name}: {error}")
            return None

    def _run(self, reason: str) -> Golden:
        """The reference run, as a golden.

        Raises:
            ReferenceInvalid: NaN or Inf, or too far from the exact run.
        """
        suite = self.suite
        name = suite.name
        log = Path("reports") / "logs" / f"record-{name}.log"
        started = load_registry(self.plugins).environment(suite.reference.backend)
        with Worker(log=log, plugins=self.plugins, environment=started) as worker:
            described: Description = worker.run(DescribeJob(suite=suite_ref(suite)))
            reference: ReferenceRun = worker.run(
                ReferenceJob(
                    suite=suite_ref(suite),
                    backend=suite.reference.backend,
                    precision=suite.reference.precision,
                ),
                progress=lambda done, total: self.observer.on_progress(
                    name, done, total
                ),
            )
        _check_valid(suite, reference)
        answers = answers_of(
            suite,
            described,
            reference.outputs,
            self.kinds,
            replies=reference.replies,
        )
        kinds = {spec.name: spec.kind for spec in described.outputs}
        return Golden(
            suite=name,
            model_fingerprint=described.model_fingerprint,
            cases_fingerprint=described.cases_fingerprint,
            schema=SCHEMA,
            environment={
                **environment(),
                "reference_backend": suite.reference.backend,
                "reference_version": reference.version,
                "reference_device": reference.device,
            },
            precision={
                **reference.precision,
                "exact": reference.exact_precision,
                "error_against_exact": reference.against_exact,
            },
            noise_floor=reference.noise_floor,
            operators=reference.operators,
            outputs={
                case: {
                    output: _kept(
                        array, kinds.get(output, "tensor"), reference.labels.get(case)
                    )
                    for output, array in arrays.items()
                }
                for case, arrays in reference.outputs.items()
            },
            behaviours={
                behaviour: {
                    case: {"answer": answer.text, "right": answer.both}
                    | (
                        _written(reference.replies[case])
                        if behaviour == REPLIES
                        else {}
                    )
                    for case, answer in by_case.items()
                }
                for behaviour, by_case in answers.items()
            },
            reason=reason,
            date=datetime.now(UTC).isoformat(timespec="seconds"),
            author=getpass.getuser(),
        )


def _kept(array: Array, kind: str, labels: Array | None) -> CompactOutput:
    """What a golden keeps of an output; right tokens where they are its rows'."""
    rows = array.shape[:-1]
    fitting = labels is not None and labels.shape == rows
    return compact(array, kind=kind, labels=labels if fitting else None)


def _written(reply: Reply) -> dict[str, Any]:
    """What a golden keeps of a reply beside its text."""
    return {
        "tokens": reply.tokens.tolist(),
        "probabilities": [round(float(p), 4) for p in reply.probabilities],
        "ended": reply.ended,
    }


def sources(suite: Suite) -> list[Path]:
    """Files and folders that a golden depends on: the suite's, its model's, its cases'.

    Of a Python function its own module counts, wherever it lies.
    """
    found = [suite.folder]
    for spec in (suite.model, suite.cases):
        module, colon, _ = spec.partition(":")
        path = (suite.folder / spec).resolve()
        if colon and not path.exists():
            path = _module_file(module, suite.folder) or path
        if path.exists() and not path.is_relative_to(suite.folder.resolve()):
            found.append(path)
    return found


def _module_file(name: str, folder: Path) -> Path | None:
    """Where a module lies; None where it cannot be found."""
    beside = folder / Path(*name.split(".")).with_suffix(".py")
    if beside.is_file():
        return beside
    try:
        spec = importlib.util.find_spec(name)
    except (ImportError, ValueError):
        return None
    return Path(spec.origin) if spec is not None and spec.origin else None


def _check_valid(suite: Suite, reference: ReferenceRun) -> None:
    """A reference that is itself broken may not become a golden.

    Raises:
        ReferenceInvalid: says which output, by how much, and what to do.
    """
    precision = suite.reference.precision
    remedy = (
        f"record in fp32 instead (reference = {{ backend = "
        f'"{suite.reference.backend}", precision = "fp32" }} in {suite.path})'
    )
    if reference.nonfinite:
        first = reference.nonfinite[0]
        raise ReferenceInvalid(
            f"{suite.name}: the {precision} reference gives NaN or Inf in "
            f"{len(reference.nonfinite)} outputs, first {first}; {remedy}"
        )
    for output, error in reference.against_exact.items():
        if not error <= LARGEST_REFERENCE_ERROR:
            raise ReferenceInvalid(
                f"{suite.name}: {output} of the {precision} reference is {error:.3g} "
                f"(relative L2) from {reference.exact_precision}, but should be "
                f"at most {LARGEST_REFERENCE_ERROR:.3g}; {remedy}"
            )
