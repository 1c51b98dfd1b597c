"""benchmarks/unseen: defects that the catalogue has not, as a plugin brings them."""

from pathlib import Path

import numpy as np
import pytest

from harness.backends.registry import load_registry
from harness.defects import DEFECTS, Planting, Unfit
from harness.defects.plant import PlantedOperator
from tests.defects.faultless import right_output

PLUGIN = Path(__file__).parents[2] / "benchmarks/unseen/defects.py"
UNSEEN = load_registry([str(PLUGIN)]).defects


def test_none_of_them_is_in_the_catalogue():
    """Else nothing would be unseen."""
    assert len(UNSEEN) == 24
    assert not set(UNSEEN) & set(DEFECTS)


@pytest.mark.parametrize("name", UNSEEN)
def test_each_changes_what_an_operator_gives(make, name):
    """Under one scheme at least; where it fits it is planted, and fires."""
    fired = []
    for scheme in ("fp8_e4m3", "mxfp4", "int8"):
        site, x = make["site"](scheme), make["input"]()
        planting = Planting(defect=name)
        try:
            planted = PlantedOperator(site, UNSEEN[name], planting)
            wrong = planted(x, right_output(site, x))
        except Unfit:
            continue
        assert np.isfinite(wrong).all()
        fired.append(planted.fired)

    assert 1 in fired
