"""The specification's evaluator as a backend."""

from __future__ import annotations

import math

import numpy as np
import onnx
import pytest
from onnx import helper

from harness.backends.onnx_reference_backend import OnnxReferenceBackend
from harness.compare.explained import Explained
from harness.errors import BackendError, UnsupportedError
from harness.judge.statistics.quadratic import energy_factor
from harness.models.onnx_model import OnnxModel
from harness.schemes.catalogue import SCHEMES
from tests.backends.small_onnx import one_matmul


@pytest.fixture
def model(tmp_path):
    """One MatMul of 64 terms."""
    return one_matmul(tmp_path)


@pytest.mark.parametrize("scheme", ["fp8_e4m3", "mxfp8", "mxfp4", "int8", "int4"])
def test_every_scheme_is_explained(model, scheme):
    """The graphs that schemes become mean what the schemes say: no engine is in it."""
    x = np.random.default_rng(1).standard_normal((8, 64)).astype(np.float32)
    session = OnnxReferenceBackend().load(model, SCHEMES[scheme])
    outputs = session.run({"x": x}, capture=["fc"])
    explained = Explained(SCHEMES[scheme], session.arithmetic())
    explained.add(model.operators()[0], outputs["fc/input"], outputs["fc"])
    entry = explained.result()[0]

    limit = energy_factor(0.001) * math.sqrt(entry.explained_sq)
    assert math.sqrt(entry.residual_sq) <= limit
    assert "fc" in session.artifact().weights


def gather(axis, shape, indices):
    """A model of one GatherElements, named."""
    graph = helper.make_graph(
        [helper.make_node("GatherElements", ["x", "i"], ["y"], "rows", axis=axis)],
        "g",
        [
            helper.make_tensor_value_info("x", 1, shape),
            helper.make_tensor_value_info("i", 7, indices),
        ],
        [helper.make_tensor_value_info("y", 1, indices)],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)])


@pytest.mark.parametrize(
    ("axis", "shape", "indices"),
    [(1, (1, 512), (1, 3)), (0, (70, 4), (5, 3)), (-1, (2, 3, 65), (2, 2, 9))],
)
def test_the_second_target_gathers_from_any_number(tmp_path, axis, shape, indices):
    """Which the evaluator's own definition does not: it says in which node."""
    onnx.save(gather(axis, shape, indices), tmp_path / "m.onnx")
    rng = np.random.default_rng(2)
    x = rng.standard_normal(shape).astype(np.float32)
    index = rng.integers(-shape[axis], shape[axis], indices)
    given = {"x": x, "i": index}
    model = OnnxModel(tmp_path / "m.onnx")

    y = OnnxReferenceBackend(gathering=True).load(model, None).run(given)["y"]

    for place in np.ndindex(*indices):
        source = list(place)
        source[axis] = index[place]
        assert x[tuple(source)] == y[place]
    with pytest.raises(BackendError, match="in GatherElements rows: "):
        OnnxReferenceBackend().load(model, None).run(given)


def test_misuse_raises(model):
    """A precision it has not, a missing input, a closed session."""
    with pytest.raises(UnsupportedError, match="fp16"):
        OnnxReferenceBackend("fp16").load(model, None)
    session = OnnxReferenceBackend().load(model, None)
    with pytest.raises(BackendError, match=r"missing=\['x'\]"):
        session.run({})
    session.close()
    with pytest.raises(BackendError, match="closed=True"):
        session.run({"x": np.ones((1, 64), np.float32)})
