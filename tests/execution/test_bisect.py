"""Halving the quantized operators until the wrong one is left."""

from __future__ import annotations

import fnmatch
import json
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.cli.main import main
from harness.execution.bisect import distance, find_first, fnmatch_escape

PLUGIN = """
from harness.backends.torch_backend import TorchBackend
from harness.defects import PlantedBackend, Planting


class Blind(PlantedBackend):
    '''Shows no operators.'''
    name = "blind"

    def supports(self, model, scheme):
        return self._backend.supports(model, scheme)

    def load(self, model, scheme):
        try:
            session = super().load(model, scheme)
        except Exception as error:
            if "fits nowhere" not in str(error):
                raise
            session = self._backend.load(model, scheme)
        run = session.run
        session.run = lambda inputs, *, capture=(): run(inputs)
        return session


def register(registry):
    planting = Planting(defect="scales_of_pairs", operator="node_conv1d_3")
    registry.add_backend(Blind(TorchBackend(), planting))
"""


@given(st.integers(1, 300), st.data())
def test_one_wrong_part_is_found_in_two_log_n_runs(count, data):
    """Wherever it is."""
    guilty = data.draw(st.integers(0, count - 1))

    found, asked = find_first(count, lambda part: guilty in part)

    assert found == (guilty,)
    assert asked <= 2 * math.ceil(math.log2(count)) if count > 1 else asked == 0


def test_parts_that_are_only_wrong_together_stay_together():
    """It does not name one that is right."""
    found, _ = find_first(8, lambda part: {1, 6} <= set(part))

    assert found == tuple(range(8))


def test_of_two_wrong_parts_the_first_is_found():
    """The one that runs first."""
    found, _ = find_first(16, lambda part: bool({5, 12} & set(part)))

    assert found == (5,)


def test_distance_counts_what_only_one_has_as_infinitely_far():
    """NaN never passes."""
    one = {"a": {"y": np.array([1.0, 2.0])}}
    nan = {"a": {"y": np.array([1.0, np.nan])}}

    assert distance(one, one) == 0
    assert distance(one, nan) == math.inf
    assert distance(one, {"a": {"y": np.array([1.0])}}) == math.inf


def test_names_with_brackets_are_no_patterns():
    """A module list's names."""
    pattern = fnmatch_escape("layers[0].fc*")

    assert fnmatch.fnmatchcase("layers[0].fc*", pattern)
    assert not fnmatch.fnmatchcase("layers0.fcx", pattern)


@pytest.mark.quant_slow
def test_a_backend_that_shows_nothing_is_halved(tmp_path, capsys):
    """A real model, one layer wrong, no captures: it is named all the same."""
    plugin = tmp_path / "blind.py"
    plugin.write_text(PLUGIN)
    suite = tmp_path / "suite"
    suite.mkdir()
    shipped = Path("suites/vad")
    head = (shipped / "suite.toml").read_text().split("[[")[0]
    (suite / "suite.toml").write_text(
        head + '[[target]]\nbackend = "blind"\nscheme = "mxfp8"\n'
    )
    for name in ("cases.jsonl", "clips.jsonl", "clips.npz"):
        (suite / name).write_bytes((shipped / name).read_bytes())
    assert main(["record", str(suite), "--allow-ci", "--plugin", str(plugin)]) == 0
    run = tmp_path / "run"
    code = main(["run", str(suite), "--plugin", str(plugin), "--out", str(run)])
    capsys.readouterr()
    main(
        [
            *("explain", str(run), "vad/blind/mxfp8", "--bisect", "--json"),
            *("--suite", str(suite), "--plugin", str(plugin)),
        ]
    )

    said = capsys.readouterr()
    assert said.out, said.err
    found = json.loads(said.out)["bisection"]
    assert code in (1, 3)
    assert found["operators"] == ["node_conv1d_3"]
    assert len(found["steps"]) <= 8
