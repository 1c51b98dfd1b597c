"""A defect that does not fit the operator that was drawn is tried in others."""

from __future__ import annotations

from contextlib import nullcontext
from types import SimpleNamespace

import pytest

from harness.defects import Planting
from harness.execution.selftest.engine import SelfTest
from harness.execution.selftest.stage import Item
from harness.execution.selftest.trial import Trial


class Stage:
    """A stage where a defect fits some operators."""

    key = ("toy", "torch")
    plugged = ""

    def __init__(self, folder, fits):
        self.suite = SimpleNamespace(name="toy", path=folder / "suite.toml")
        self.golden = SimpleNamespace(model_fingerprint="m", cases_fingerprint="c")
        self.fits = fits
        self.tried = []

    def worker(self, *_):
        return nullcontext()

    def trial(self, item, *_, whole=False):
        name = item.planting.operator
        self.tried.append((name, whole))
        trial = Trial(suite="toy", target="t", planting=item.planting, fired=True)
        if name not in self.fits:
            return Trial(suite="toy", target="t", planting=item.planting, unfit="no")
        return trial


@pytest.mark.parametrize(
    ("fits", "tried", "planted_in"),
    [
        # What is not caught is tried on all cases, where it fits.
        ({"a", "b"}, [("a", False), ("a", True)], "a"),
        ({"b"}, [("a", False), ("b", False), ("b", True)], "b"),
        (set(), [("a", False), ("b", False), ("c", False)], None),
    ],
)
def test_the_first_operator_that_it_fits_has_it(tmp_path, fits, tried, planted_in):
    """In the order that was planned; one that fits nowhere is `unfit`."""
    stage = Stage(tmp_path, fits)
    item = Item(
        stage=stage,
        target=SimpleNamespace(name="t"),
        planting=Planting(defect="scales_of_other", operator="a"),
        elsewhere=("b", "c"),
    )

    (trial,) = SelfTest(folder=tmp_path).run([item])

    assert tried == stage.tried
    assert bool(trial.unfit) is (planted_in is None)
    if planted_in is not None:
        assert planted_in == trial.planting.operator
