"""Which of a suite's cases a worker runs."""

from __future__ import annotations

import numpy as np
import pytest

from harness.errors import CasesError
from harness.execution.jobs import SuiteRef
from harness.execution.loaded import LoadedSuite, _selected, drawn
from harness.models.types import Case

CASES = tuple(Case(id=f"c{n}", inputs={"x": np.zeros(1)}) for n in range(21))


def names(draw, seed=3):
    """Cases of a draw."""
    ref = SuiteRef(
        name="s", folder=".", model="m", cases="c", batch=4, seed=seed, draw=draw
    )
    return [c.id for c in drawn(LoadedSuite(None, CASES, ()), ref).cases]


def test_a_draw_is_half_of_the_cases_in_another_order():
    """Each number another half, and the same one again; 0 is all of them."""
    every = [c.id for c in CASES]

    assert names(0) == every
    assert len(names(1)) == len(set(names(1))) == 11
    assert names(1) != sorted(names(1), key=every.index)
    assert names(1) == names(1)
    assert set(names(1)) != set(names(2))
    assert set(names(1)) != set(names(1, seed=4))


def test_a_selected_variant_brings_its_original():
    """Through a chain; in the order of the file; nothing else comes along."""
    cases = [
        Case("o", {}),
        Case("v", {}, variant_of="o"),
        Case("w", {}, tags=("gate",), variant_of="v"),
        Case("u", {}, variant_of="o"),
        Case("x", {}, tags=("gate",)),
    ]

    def chosen(tag):
        ref = SuiteRef(
            name="s", folder="f", model="m", cases="c", batch=4, seed=3, select=tag
        )
        return [case.id for case in _selected(cases, ref)]

    assert chosen("gate") == ["o", "v", "w", "x"]
    assert chosen("") == ["o", "v", "w", "u", "x"]
    with pytest.raises(CasesError, match="no case has the tag 'gat'"):
        chosen("gat")
