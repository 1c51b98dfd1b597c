"""pytest collects every `suite.toml`: one item a target and check.

Nothing heavy is imported here: pytest loads this module at every start, whether suites
are collected or not. The suites themselves run in worker processes of their own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest

if TYPE_CHECKING:
    from harness.compare import Comparison
    from harness.execution.suite import Suite, Target
    from harness.golden import Golden
    from harness.judge.types import CheckResult, Judgement

#: Check -> the last part of its item's id.
_NAMES: Final = {
    "artifact": "artifact",
    "anomaly": "anomaly",
    "stability": "stability",
    "explained": "unexplained",
    "distance": "drift",
    "direction": "direction",
    "regression": "regression",
    "behaviour": "behaviour",
    "cost": "cost",
}
#: Key under which an item carries what the terminal summary needs.
_SUMMARY: Final = "quantharness"
_RUNS: Final = pytest.StashKey["_Runs"]()


def pytest_addoption(parser: pytest.Parser) -> None:
    """The options, all under one group."""
    group = parser.getgroup("quantharness", "quantization regression suites")
    group.addoption(
        "--quant-backend",
        action="append",
        metavar="NAME",
        help="only targets of this backend (repeatable)",
    )
    group.addoption(
        "--quant-scheme",
        action="append",
        metavar="NAME",
        help="only targets of this scheme (repeatable)",
    )
    group.addoption(
        "--quant-plugin",
        action="append",
        default=[],
        metavar="MODULE_OR_FILE",
        help="call register(registry) of a module or file (repeatable)",
    )
    group.addoption(
        "--quant-language",
        metavar="SUITE",
        help="the suite whose language model `pytest suites/language` asks",
    )
    group.addoption(
        "--quant-report", metavar="DIR", help="write run.json and the reports there"
    )
    group.addoption(
        "--quant-baseline", metavar="RUN", help="compare with this run's folder too"
    )
    group.addoption(
        "--quant-record",
        action="store_true",
        help="record the goldens that are missing",
    )
    group.addoption(
        "--quant-renew", action="store_true", help="renew the goldens that changed"
    )


def pytest_configure(config: pytest.Config) -> None:
    """The markers; and a place for what was run."""
    for line in (
        "quant_backend(name): the test needs this backend",
        "quant_slow: takes long; left out of the fast tier",
        "quant_gpu: needs a CUDA device",
    ):
        config.addinivalue_line("markers", line)
    config.stash[_RUNS] = _Runs(config)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Under `-n N` a suite stays on one worker: its model is loaded once."""
    if config.getoption("dist") != "load":
        return None
    from xdist.scheduler import LoadScopeScheduling

    class BySuite(LoadScopeScheduling):  # type: ignore[misc, unused-ignore]
        """Items of a `suite.toml` together, every other test by itself."""

        def _split_scope(self, nodeid: str) -> str:
            file = nodeid.partition("::")[0]
            return file if file.endswith("suite.toml") else nodeid

    return BySuite(config, log)


def pytest_collect_file(parent: pytest.Collector, file_path: Path) -> SuiteFile | None:
    """A `suite.toml` is a file of items."""
    if file_path.name != "suite.toml":
        return None
    found: SuiteFile = SuiteFile.from_parent(parent, path=file_path)
    return found


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip what needs a backend or a device that is not here, with the reason."""
    for mark in item.iter_markers("quant_backend"):
        from harness.backends.registry import load_registry

        registry = load_registry(item.config.option.quant_plugin)
        available = registry.backend(mark.args[0]).probe()
        if not available.available:
            pytest.skip(available.reason)
    if item.get_closest_marker("quant_gpu") and not _has_gpu():
        pytest.skip("no CUDA device here")


def _has_gpu() -> bool:
    import importlib.util

    if importlib.util.find_spec("torch") is None:
        return False
    import torch

    return bool(torch.cuda.is_available())


class SuiteFile(pytest.File):
    """One `suite.toml`."""

    def collect(self) -> Iterator[CheckItem]:
        """One item a target and check, of the targets that the options leave."""
        from harness.backends.registry import load_registry
        from harness.execution.suite import load_suite

        options = self.config.option
        suite = load_suite(self.path, load_registry(options.quant_plugin))
        for target in suite.targets:
            if options.quant_backend and target.backend not in options.quant_backend:
                continue
            if options.quant_scheme and target.scheme.name not in options.quant_scheme:
                continue
            asked = options.quant_backend or options.quant_scheme
            if target.nightly and not asked:
                continue
            for check, name in _NAMES.items():
                item: CheckItem = CheckItem.from_parent(
                    self,
                    name=f"{suite.name}/{target.name}/{name}",
                    suite=suite,
                    target=target,
                    check=check,
                )
                # Under --dist loadgroup too a suite stays on one worker.
                item.add_marker(pytest.mark.xdist_group(suite.name))
                yield item

    def repr_failure(
        self,
        excinfo: pytest.ExceptionInfo[BaseException],
        style: Any = None,  # noqa: ARG002 - a node has it, a collector does not
    ) -> Any:
        """A wrong suite.toml is one clear line, not a traceback."""
        from harness.errors import HarnessError

        if isinstance(excinfo.value, HarnessError):
            return str(excinfo.value)
        return super().repr_failure(excinfo)


class VerdictError(Exception):
    """A check failed; its text is the judgement's."""


class CheckItem(pytest.Item):
    """One check of one target; the target is run once for all its checks."""

    def __init__(
        self, *, suite: Suite, target: Target, check: str, **arguments: Any
    ) -> None:
        super().__init__(**arguments)
        self.suite = suite
        self.target = target
        self.check = check

    def runtest(self) -> None:
        """Take the check's result out of the target's judgement.

        Raises:
            VerdictError: the check's verdict fails, or nothing could be judged.
        """
        runs = self.config.stash[_RUNS]
        judgement = runs.judgement(self)
        for name, entry in judgement.measurements.items():
            self.user_properties.append((name, float(entry.value)))
        self.user_properties.append((_SUMMARY, judgement.name))
        self.user_properties.append((f"{_SUMMARY}.verdict", str(judgement.verdict)))
        found = _check(judgement, self.check)
        if found is None:
            _without_check(judgement, self.check)
        elif found.verdict.fails or found.verdict.infrastructure:
            since = runs.elsewhere.get(judgement.suite, "")
            raise VerdictError(_message(judgement, found, since))
        elif str(found.verdict) == "unsupported":
            _unsupported(judgement, found.reason)

    def repr_failure(
        self, excinfo: pytest.ExceptionInfo[BaseException], style: Any = None
    ) -> Any:
        """The judgement's words, without a traceback through the harness."""
        from harness.errors import HarnessError

        if isinstance(excinfo.value, VerdictError | HarnessError):
            return str(excinfo.value)
        return super().repr_failure(excinfo, style)

    def reportinfo(self) -> tuple[Path, int, str]:
        """Where it stands, for the terminal."""
        return self.path, 0, self.name


def _check(judgement: Judgement, check: str) -> CheckResult | None:
    return next((c for c in judgement.checks if c.check == check), None)


def _without_check(judgement: Judgement, check: str) -> None:
    """A check that was not taken: fail with the target, or say that it is not."""
    if str(judgement.verdict) == "unsupported":
        _unsupported(judgement, judgement.reason)
    if judgement.exit_code:
        raise VerdictError(f"{judgement.verdict}: {judgement.reason}")
    # The same words for every target: pytest folds them into one line.
    pytest.skip(f"{check} does not apply here")


def _unsupported(judgement: Judgement, reason: str) -> None:
    if judgement.required:
        raise VerdictError(f"unsupported, but required: {reason}")
    pytest.skip(reason)


def _message(judgement: Judgement, found: CheckResult, elsewhere: str) -> str:
    lines = [f"{judgement.name}: {found.verdict}", found.reason]
    lines += [
        f"operator {entry.name}: unexplained={entry.unexplained:.3g}, "
        f"but should be at most {entry.limit:.3g}"
        for entry in judgement.operators
        if entry.guilty and found.check == "explained"
    ][:5]
    if elsewhere:
        lines.append(f"since its golden was recorded: {elsewhere}")
    return "\n".join([*lines, judgement.command])


class _Runs:
    """Judgements of this session; a suite's chosen targets run together, once."""

    def __init__(self, config: pytest.Config) -> None:
        self.config = config
        self._done: dict[tuple[Path, str], Judgement] = {}
        #: Suite -> what differs from where its golden was recorded.
        self.elsewhere: dict[str, str] = {}

    def judgement(self, item: CheckItem) -> Judgement:
        """The judgement of an item's target."""
        key = (item.suite.path, item.target.name)
        if key not in self._done:
            chosen = {
                other.target.name
                for other in item.session.items
                if isinstance(other, CheckItem) and other.suite.path == item.suite.path
            }
            self._run(item.suite, chosen)
        return self._done[key]

    def _run(self, suite: Suite, chosen: set[str]) -> None:
        from harness.execution.api import environment_differences, run_targets
        from harness.reports.artifacts import write_artifacts
        from harness.reports.wording import elsewhere

        options = self.config.option
        self._record(suite)
        out = options.quant_report
        report = run_targets(
            [(suite, target) for target in suite.targets if target.name in chosen],
            plugins=options.quant_plugin,
            out=Path(out) / suite.name if out else None,
            baseline=options.quant_baseline,
        )
        self.elsewhere[suite.name] = elsewhere(report, suite.name)
        if out:
            changed = environment_differences(report, options.quant_baseline)
            write_artifacts(report, Path(report.folder), differences=changed)
        for judgement, name in zip(
            report.targets,
            [target.name for target in suite.targets if target.name in chosen],
            strict=True,
        ):
            self._done[suite.path, name] = judgement

    def _record(self, suite: Suite) -> None:
        options = self.config.option
        if not (options.quant_record or options.quant_renew):
            return
        from harness.execution.api import record

        record(
            [suite.path],
            renew=options.quant_renew,
            missing_only=not options.quant_renew,
            plugins=options.quant_plugin,
            reason="recorded by pytest",
        )


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """The matrix: a line a target."""
    verdicts: dict[str, str] = {}
    for reports in terminalreporter.stats.values():
        for report in reports:
            found = dict(getattr(report, "user_properties", ()))
            if _SUMMARY in found:
                verdicts[found[_SUMMARY]] = found[f"{_SUMMARY}.verdict"]
    if not verdicts:
        return
    terminalreporter.section("quantharness")
    width = max(len(name) for name in verdicts)
    for name, verdict in sorted(verdicts.items()):
        green = verdict in ("pass", "changed")
        terminalreporter.write_line(
            f"{name:{width}}  {verdict}", green=green, red=not green
        )


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """All skipped is not green: a run that compared nothing has not passed."""
    items = [item for item in session.items if isinstance(item, CheckItem)]
    if not items or len(items) != len(session.items) or session.testsfailed:
        return
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if reporter is None or session.config.option.collectonly:
        return
    if not reporter.stats.get("passed"):
        reporter.write_line(
            "quantharness: every check was skipped: nothing was compared"
        )
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def _suite_of(request: pytest.FixtureRequest) -> Suite:
    from harness.backends.registry import load_registry
    from harness.execution.suite import load_suite

    registry = load_registry(request.config.option.quant_plugin)
    return load_suite(request.path.parent / "suite.toml", registry)


@pytest.fixture
def golden(request: pytest.FixtureRequest) -> Golden:
    """The golden of the suite in whose folder the test stands."""
    from harness.golden import read_golden

    suite = _suite_of(request)
    return read_golden(suite.golden, suite=suite.name)


@pytest.fixture
def quantized(request: pytest.FixtureRequest) -> Callable[[str, str], Judgement]:
    """Runs a target of the test's suite: `quantized("torch", "mxfp4")`."""

    def run(backend: str, scheme: str) -> Judgement:
        from harness.execution.api import run as run_suites

        suite = _suite_of(request)
        options = request.config.option
        report = run_suites(
            [suite.path],
            backends=[backend],
            schemes=[scheme],
            plugins=options.quant_plugin,
        )
        return report.targets[0]

    return run


@pytest.fixture
def check_drift() -> Callable[..., Comparison]:
    """`check_drift(reference, candidate, budget=0.05)`: relative L2 within a budget."""

    def check(reference: Any, candidate: Any, *, budget: float) -> Comparison:
        __tracebackhide__ = True
        from harness.compare import compare

        comparison = compare(reference, candidate)
        # NaN satisfies no limit.
        if not comparison.relative_l2 <= budget:
            pytest.fail(
                f"relative_l2={comparison.relative_l2:.4g}, but should be at most "
                f"{budget:.4g} [max_abs={comparison.max_abs:.4g} at "
                f"{comparison.worst_index}]",
                pytrace=False,
            )
        return comparison

    return check
