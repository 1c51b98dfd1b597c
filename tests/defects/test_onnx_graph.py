"""Planting in the graph that ONNX Runtime runs: the engine itself is wrong."""

from __future__ import annotations

import numpy as np
import pytest

from harness.backends.onnxruntime_backend import OnnxRuntimeBackend
from harness.defects import PlantedBackend, Planting
from harness.errors import UnsupportedError
from harness.models.onnx_model import OnnxModel
from harness.models.onnx_single import INPUT, single_operator
from harness.schemes.catalogue import SCHEMES

pytest.importorskip("onnxruntime")


@pytest.fixture
def model(make, tmp_path):
    """One linear layer as a file."""
    path = tmp_path / "model.onnx"
    path.write_bytes(single_operator(make["operator"]()).SerializeToString())
    return OnnxModel(path)


def run(backend, model, scheme, x):
    """Output and the weight that the artifact shows."""
    session = backend.load(model, SCHEMES[scheme])
    try:
        name = model.operators()[0].name
        shown = session.artifact().weights[name].decoded
        return session.run({INPUT: x})["y"], shown
    finally:
        session.close()


@pytest.mark.parametrize("scheme", ["fp8_e4m3", "mxfp8", "int8", "int4"])
@pytest.mark.parametrize("name", ["scale_ratio", "codes_off_by_one", "bias_missing"])
def test_the_engine_computes_the_wrong_thing_and_the_file_looks_right(
    make, model, scheme, name
):
    """A kernel's bug: what is stored is as it should be, the output is not."""
    x = make["input"]()[0]
    plain = OnnxRuntimeBackend()
    planted = PlantedBackend(plain, Planting(defect=name))

    right, clean = run(plain, model, scheme, x)
    wrong, shown = run(planted, model, scheme, x)

    assert np.linalg.norm(wrong - right) > 1e-3 * np.linalg.norm(right)
    np.testing.assert_array_equal(shown, clean)


@pytest.mark.parametrize("scheme", ["fp8_e4m3", "int4"])
def test_a_bad_file_shows_the_wrong_weight(make, model, scheme):
    """With `stored`, the artifact check has something to see."""
    x = make["input"]()[0]
    plain = OnnxRuntimeBackend()
    planting = Planting(defect="scale_ratio", strength=0.5, stored=True)

    _, clean = run(plain, model, scheme, x)
    _, shown = run(PlantedBackend(plain, planting), model, scheme, x)

    np.testing.assert_allclose(shown, 1.5 * clean, rtol=1e-6)


def test_what_fits_nothing_is_unsupported(model):
    """Block exponents where there are no blocks."""
    planted = PlantedBackend(
        OnnxRuntimeBackend(), Planting(defect="exponent_too_small")
    )

    with pytest.raises(UnsupportedError, match="fits nowhere"):
        planted.load(model, SCHEMES["fp8_e4m3"])
