"""Models and cases that a worker holds, each loaded once."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from harness.behaviours.schema import check_schema
from harness.errors import CasesError, ConfigError
from harness.execution.cases_run import spread
from harness.execution.jobs import CaseInfo, Description, SuiteRef
from harness.models.cases import load_cases
from harness.models.digest import cases_fingerprint
from harness.models.load import load_model
from harness.models.types import Case, Model, Operator


@dataclass(frozen=True, eq=False)
class LoadedSuite:
    """A suite's model and cases in memory."""

    model: Model
    cases: tuple[Case, ...]
    operators: tuple[Operator, ...]
    #: With those that were not selected: the golden holds them all.
    every: tuple[Case, ...] = ()


def _selected(cases: Sequence[Case], suite: SuiteRef) -> tuple[Case, ...]:
    """The cases to run: those with the tag, and what they are variants of.

    Raises:
        CasesError: none has the tag.
    """
    chosen = tuple(c for c in cases if not suite.select or suite.select in c.tags)
    if not chosen:
        raise CasesError(
            f"{suite.folder}: no case has the tag {suite.select!r} that suite.select "
            "asks for"
        )
    # A variant says nothing without its original.
    by_id = {case.id: case for case in cases}
    wanted = {case.id for case in chosen}
    for case in chosen:
        while case.variant_of:
            case = by_id[case.variant_of]  # noqa: PLW2901 - up to the original
            wanted.add(case.id)
    return tuple(case for case in cases if case.id in wanted)


def check_schemas(cases: Sequence[Case], file: str) -> None:
    """Whether the schemas that replies are held against are understood.

    Here, and not when the first reply is judged: that is minutes later.

    Raises:
        CasesError: with the file, the case and the key.
    """
    for case in cases:
        if "positions" in case.inputs and "json" in case.expected:
            try:
                check_schema(case.expected["json"], "expected.json")
            except ConfigError as error:
                raise CasesError(f"{file}: case {case.id!r}: {error}") from None


class Loaded:
    """The last suite that was asked for; another one replaces it."""

    def __init__(self) -> None:
        self._key: SuiteRef | None = None
        self._suite: LoadedSuite | None = None
        self._model: SuiteRef | None = None
        self._whole: LoadedSuite | None = None

    def get(self, suite: SuiteRef) -> LoadedSuite:
        """Load the suite's model and cases, or return them.

        Raises:
            ModelError: the model cannot be loaded.
            CasesError: the cases are empty, malformed or do not fit the model.
        """
        if self._suite is None or self._key != suite:
            whole = dataclasses.replace(suite, few=0, draw=0)
            if self._whole is None or self._model != whole:
                self._suite = self._whole = None
                folder = Path(suite.folder)
                model = load_model(suite.model, folder)
                cases = load_cases(suite.cases, folder, model)
                check_schemas(cases, str(folder / suite.cases))
                self._whole = LoadedSuite(
                    model, _selected(cases, suite), model.operators(), tuple(cases)
                )
                self._model = whole
            self._suite = _few(drawn(self._whole, suite), suite.few)
            self._key = suite
        return self._suite

    def describe(self, suite: SuiteRef) -> Description:
        """What the parent process needs to know of the suite."""
        loaded = self.get(suite)
        return Description(
            model_fingerprint=loaded.model.fingerprint,
            cases_fingerprint=cases_fingerprint(loaded.every or loaded.cases),
            cases=tuple(
                CaseInfo(
                    id=case.id,
                    expected=case.expected,
                    tags=case.tags,
                    variant_of=case.variant_of,
                )
                for case in loaded.cases
            ),
            outputs=loaded.model.outputs,
            metadata=dict(loaded.model.metadata),
            operators=tuple((o.name, tuple(o.weight.shape)) for o in loaded.operators),
        )


def drawn(suite: LoadedSuite, ref: SuiteRef) -> LoadedSuite:
    """The suite with a random half of its cases, in another order."""
    if not ref.draw:
        return suite
    order = np.random.default_rng([ref.seed, ref.draw]).permutation(len(suite.cases))
    half = order[: -(-order.size // 2)]
    return dataclasses.replace(suite, cases=tuple(suite.cases[i] for i in half))


def _few(suite: LoadedSuite, count: int) -> LoadedSuite:
    """The suite with some of its cases."""
    if not count:
        return suite
    return dataclasses.replace(suite, cases=tuple(spread(suite.cases, count)))
