"""The picture of an operator's error: output channel by block of inputs."""

from __future__ import annotations

import dataclasses

import numpy as np

from harness.diagnose import heat_map


def test_the_wrong_block_of_the_weight_stands_out(make):
    """One scale of one channel is wrong: one cell is dark."""

    def weight(stored):
        scales = stored.scales.copy()
        scales[30, 2] *= 8
        return dataclasses.replace(stored, scales=scales).dequantize()

    found = heat_map(make["seen"]("mxfp8", weight=weight))

    cells = np.array(found.cells)
    assert cells.shape == (48, 3)
    assert np.unravel_index(cells.argmax(), cells.shape) == (30, 2)
    assert np.delete(cells, 30, axis=0).max() < 1e-3
    assert found.inputs == (0, 32, 64)


def test_a_faithful_operator_is_blank(make):
    """Rounding alone moves no cell by a thousandth of the weight."""
    found = heat_map(make["seen"]("mxfp8"))

    assert np.max(found.cells) < 1e-3


def test_what_is_not_finite_has_no_picture(make):
    """A NaN would blacken everything."""

    def output(y, _):
        wrong = y.copy()
        wrong[0, 0, 0] = np.nan
        return wrong

    assert heat_map(make["seen"]("mxfp8", output=output)) is None
