"""A minimal failing input as a folder that runs: `repro.py`, inputs, the operator."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np

from harness.backends.registry import load_registry
from harness.errors import ModelError, UnsupportedError, UsageError
from harness.execution.calibrated import calibrated
from harness.execution.isolation import Worker
from harness.execution.jobs import Bisection, BisectJob, Repro, ReproJob
from harness.execution.matrix import suite_ref
from harness.execution.run_folder import target_folder
from harness.execution.suite import Suite, Target, find_suites, load_suite
from harness.files import write_bytes, write_text
from harness.golden.store import read_golden
from harness.judge.types import Judgement, Report
from harness.schemes.types import Scheme

Array = np.ndarray[Any, np.dtype[Any]]

#: Seconds that shrinking may take.
_TIMEOUT: Final = 900.0
#: The backend that emulates every scheme exactly.
_ORACLE: Final = "torch"
_SCRIPT: Final = '''\
"""{target}: {operator} is not what its scheme says.

{sentence}
Input: case {case}, shrunk in {tried} tries to {shapes}.
{alone}
Exit code 1 while it is wrong, 0 once it is right. Run it where the suite lies:
    python {here}
"""

from pathlib import Path

from harness.execution.repro import reproduce

raise SystemExit(
    reproduce(
        suite={suite!r},
        target={name!r},
        operator={operator!r},
        inputs=Path(__file__).parent / "inputs.npz",
        plugins={plugins!r},
    )
)
'''


def write_repro(
    report: Report,
    judgement: Judgement,
    *,
    suites: Sequence[str | Path] = ("suites",),
    plugins: Sequence[str] = (),
) -> Path:
    """Find and write the minimal failing input of a target's worst operator.

    Args:
        report: of the run.
        judgement: the failing target of it.
        suites: where the suite is looked for.
        plugins: modules or files, as the run had them.

    Returns:
        the folder `targets/SUITE/TARGET/repro` of the run, with `repro.py`,
        `inputs.npz`, `operator.onnx`, `operator.npz` (input, observed and right
        output) and, where ONNX can say the scheme, `operator.quantized.onnx`.

    Raises:
        UsageError: no operator is beyond its limit, or the suite is not found.
    """
    guilty = [entry for entry in judgement.operators if entry.guilty]
    if not guilty:
        raise UsageError(
            f"{judgement.name}: no operator is beyond its limit, so there is nothing "
            "to reproduce in one"
        )
    diagnosis = judgement.diagnosis[0] if judgement.diagnosis else {}
    operator = str(diagnosis.get("operator") or guilty[0].name)
    suite, target = _find(judgement, suites, plugins)
    path = target_folder(
        Path(report.folder), suite.name, f"{target.backend}/{target.scheme.name}"
    )
    folder = path / "repro"
    scheme = calibrated(target.scheme, read_golden(suite.golden, suite=suite.name))
    job = ReproJob(
        suite=suite_ref(suite),
        backend=target.backend,
        scheme=scheme,
        operator=operator,
    )
    log = Path(report.folder) / "logs" / "repro.log"
    found = _worked(job, log, plugins)
    assert isinstance(found, Repro)  # sanity check
    _write_arrays(folder, found)
    _write_models(folder, found, scheme)
    shapes = ", ".join(f"{n} {list(a.shape)}" for n, a in found.inputs.items())
    alone = (
        "A model of this operator alone (operator.onnx, operator.npz) is wrong too."
        if found.alone
        else "A model of this operator alone (operator.onnx, operator.npz) is right or "
        "cannot be loaded: what is around it matters."
    )
    script = _SCRIPT.format(
        target=judgement.name,
        operator=operator,
        sentence=diagnosis.get("sentence")
        or f"unexplained={found.unexplained:.3g}, at most {found.limit:.3g}",
        case=found.case,
        tried=found.tried,
        shapes=shapes,
        alone=alone,
        here=os.path.relpath(folder / "repro.py"),
        suite=str(suite.path),
        name=target.name,
        plugins=[str(Path(p).resolve()) if Path(p).exists() else p for p in plugins],
    )
    write_text(folder / "repro.py", script)
    return folder


def bisect(
    judgement: Judgement,
    log: Path,
    *,
    suites: Sequence[str | Path] = ("suites",),
    plugins: Sequence[str] = (),
) -> Bisection:
    """The guilty operator of a target whose backend shows nothing inside.

    Args:
        judgement: the failing target.
        log: where the worker writes.
        suites: where the suite is looked for.
        plugins: modules or files, as the run had them.

    Raises:
        UsageError: noise explains the outputs, or the suite is not found.
    """
    suite, target = _find(judgement, suites, plugins)
    golden = read_golden(suite.golden, suite=suite.name)
    job = BisectJob(
        suite=suite_ref(suite),
        backend=target.backend,
        oracle=_ORACLE,
        scheme=calibrated(target.scheme, golden),
    )
    found = _worked(job, log, plugins)
    assert isinstance(found, Bisection)  # sanity check
    return found


def reproduce(
    *,
    suite: str | Path,
    target: str,
    operator: str,
    inputs: str | Path,
    plugins: Sequence[str] = (),
) -> int:
    """Run one input and hold one operator against its oracle; prints both numbers.

    Args:
        suite: a `suite.toml`.
        target: `backend/scheme`.
        operator: its name.
        inputs: an `.npz` of the model's inputs.
        plugins: modules or files whose `register(registry)` is called.

    Returns:
        1 while the operator is beyond its limit, else 0.
    """
    from harness.execution.loaded import Loaded
    from harness.execution.repro_run import Probe
    from harness.models.npz import read_npz

    registry = load_registry(plugins)
    found = load_suite(suite, registry)
    chosen = _target(found, target)
    loaded = Loaded().get(suite_ref(found))
    golden = read_golden(found.golden, suite=found.name)
    scheme = calibrated(chosen.scheme, golden)
    named = {entry.name: entry for entry in loaded.operators}
    if operator not in named:
        raise UsageError(f"{operator}: the model has no such operator")
    session = registry.backend(chosen.backend).load(loaded.model, scheme)
    try:
        probe = Probe(session, loaded.model, named[operator], scheme)
        wrong = probe(read_npz(Path(inputs)))
    finally:
        session.close()
    sys.stdout.write(
        f"{operator}: unexplained={probe.unexplained:.3g}, at most {probe.limit:.3g}: "
        f"{'wrong' if wrong else 'right'}\n"
    )
    return int(wrong)


def _worked(job: ReproJob | BisectJob, log: Path, plugins: Sequence[str]) -> Any:
    """What a fresh worker makes of a job."""
    environment = load_registry(plugins).environment(job.backend)
    worker = Worker(log=log, plugins=plugins, threads=1, environment=environment)
    with worker:
        return worker.run(job, timeout=_TIMEOUT)


def _find(
    judgement: Judgement, suites: Sequence[str | Path], plugins: Sequence[str]
) -> tuple[Suite, Target]:
    registry = load_registry(plugins)
    for path in find_suites(suites):
        suite = load_suite(path, registry)
        if suite.name == judgement.suite:
            return suite, _target(suite, f"{judgement.backend}/{judgement.scheme}")
    names = ", ".join(str(path) for path in suites)
    raise UsageError(
        f"suite {judgement.suite!r} is not under {names}; name its folder with --suite"
    )


def _target(suite: Suite, name: str) -> Target:
    for target in suite.targets:
        if target.name == name:
            return target
    raise UsageError(f"{suite.path}: no target {name!r}")


def _write_arrays(folder: Path, found: Repro) -> None:
    _write_npz(folder / "inputs.npz", dict(found.inputs))
    arrays = {"x": found.x, "observed": found.observed, "expected": found.expected}
    _write_npz(folder / "operator.npz", arrays)


def _write_npz(path: Path, arrays: dict[str, Array]) -> None:
    with tempfile.TemporaryFile() as stream:
        np.savez_compressed(stream, allow_pickle=False, **arrays)
        stream.seek(0)
        write_bytes(path, stream.read())


def _write_models(folder: Path, found: Repro, scheme: Scheme) -> None:
    """The operator alone, as it is and as the scheme makes it."""
    from harness.models.onnx_single import single_operator
    from harness.schemes.onnx_qdq import build

    plain = single_operator(found.operator)
    write_bytes(folder / "operator.onnx", plain.SerializeToString())
    try:
        quantized = build(plain, scheme)
    except (UnsupportedError, ModelError):
        return
    path = folder / "operator.quantized.onnx"
    write_bytes(path, quantized.proto.SerializeToString())
