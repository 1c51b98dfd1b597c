"""A run that was interrupted: what its folder holds already need not be run again.

A target counts as done while nothing that it depends on has changed since: the harness,
the packages and the machine, the suite with its budgets and its golden, plugins, and
the baseline. All of that is in the folder's `inputs.json`, in words, so that what has
changed can be named. The model and its cases are held against the golden anyway, before
anything is compared.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self

from harness.errors import UsageError
from harness.execution.run_folder import EVIDENCE, VERDICT, target_folder
from harness.execution.source import digest_of, plugin_digest, source_digest
from harness.execution.suite import Suite, Target
from harness.files import write_json
from harness.golden.environment import differences, environment
from harness.golden.manifest import MANIFEST
from harness.judge.evidence import Evidence
from harness.judge.evidence_file import evidence_from_dict

#: What a run's targets depend on, in its folder.
INPUTS: Final = "inputs.json"
#: Version of that file.
SCHEMA: Final = 1
#: What the digest of a suite's files is called, before its name.
_SUITE: Final = "suite "
#: Changes that a message names.
_NAMED: Final = 4


@dataclass(frozen=True)
class Done:
    """A target that had its verdict before the run was interrupted."""

    evidence: Evidence
    #: `Diagnosis.as_dict` of each cause that was found.
    diagnosis: tuple[Mapping[str, Any], ...]


@dataclass(frozen=True)
class Unfinished:
    """The part of a run that its folder holds."""

    folder: Path

    @classmethod
    def open(cls, folder: Path, inputs: Mapping[str, str]) -> Self:
        """Take up what is there; note the inputs that nothing there depends on yet.

        A suite that was not run before, or is not run now, is no change of the others.

        Raises:
            UsageError: what is there depends on other inputs; says on which.
        """
        file = folder / INPUTS
        before = _read(file) if file.exists() else dict(inputs)
        suites = {n for n in {*before, *inputs} if n.startswith(_SUITE)}
        apart = suites - (before.keys() & inputs.keys())
        changed = differences(
            {n: value for n, value in before.items() if n not in apart},
            {n: value for n, value in inputs.items() if n not in apart},
        )
        if changed:
            told = [
                f"{name}: {_short(then)} there, {_short(now)} here"
                for name, (then, now) in changed.items()
            ]
            more = f" and {len(told) - _NAMED} more" if len(told) > _NAMED else ""
            raise UsageError(
                f"{folder}: holds part of a run that was interrupted, and since then "
                f"changed {'; '.join(told[:_NAMED])}{more}. Name another --out, or "
                "remove the folder"
            )
        write_json(file, {"schema": SCHEMA, "inputs": {**before, **inputs}})
        return cls(folder)

    def target(self, suite: Suite, target: Target) -> Done | None:
        """What the target gave; None: it has to be run.

        So it has where a process died or ran out of time, which may not happen again,
        and where something was missing that can be installed.
        """
        folder = target_folder(self.folder, suite.name, target.name)
        try:
            verdict = json.loads((folder / VERDICT).read_text(encoding="utf-8"))
            data = json.loads((folder / EVIDENCE).read_text(encoding="utf-8"))
            evidence = evidence_from_dict(data, source=str(folder / EVIDENCE))
            diagnosis = tuple(dict(entry) for entry in verdict["diagnosis"])
        except (OSError, ValueError, KeyError, TypeError, UsageError):
            return None
        failure = evidence.failure
        if failure is not None and (failure.kind != "unsupported" or failure.missing):
            return None
        return Done(evidence, diagnosis)

    def count(self, pairs: Iterable[tuple[Suite, Target]]) -> int:
        """How many of these targets need not be run."""
        return sum(self.target(*pair) is not None for pair in pairs)


def inputs_of(
    suites: Iterable[Suite],
    plugins: Sequence[str],
    *,
    baseline: str = "",
    nights: Mapping[str, Any] | None = None,
) -> dict[str, str]:
    """What the targets of a run depend on: name -> digest or value.

    Args:
        suites: that are run.
        plugins: as `--plugin` names them.
        baseline: id of the run that targets are compared with.
        nights: the state before a nightly run; None: it is none.
    """
    found = {"harness": source_digest()}
    found |= {name: str(value) for name, value in environment().items()}
    for suite in suites:
        files = (suite.path, suite.path.parent / "budgets.toml", suite.golden)
        found[f"{_SUITE}{suite.name}"] = digest_of(
            path / MANIFEST if path == suite.golden else path for path in files
        )
    for spec in plugins:
        found[f"plugin {spec}"] = plugin_digest(spec)
    found["baseline"] = baseline
    found["nights"] = "" if nights is None else json.dumps(nights, sort_keys=True)
    return found


def _read(file: Path) -> dict[str, str]:
    try:
        data = json.loads(file.read_text(encoding="utf-8"))
        if data["schema"] != SCHEMA:
            raise UsageError(
                f"{file}: schema={data['schema']!r}, but this version reads {SCHEMA}; "
                "name another --out, or remove the folder"
            )
        return dict(data["inputs"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UsageError(
            f"{file}: does not say what a run depends on ({error!r}); name another "
            "--out, or remove the folder"
        ) from None


def _short(value: str) -> str:
    """A digest as its first digits; what is not there as `nothing`."""
    return value[:12] if len(value) == 64 else value[:60] or "nothing"
