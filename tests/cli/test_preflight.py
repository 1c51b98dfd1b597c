"""`quantharness preflight`: what is missing is named before anything is compiled."""

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from harness.cli.main import main

ROOT = Path(__file__).parents[2]
VENDOR = str(ROOT / "examples" / "vendor_backend" / "vendor_backend" / "__init__.py")


def save(path, nodes, *, kind=TensorProto.FLOAT, opsets=(("", 21),), columns=8):
    """A model from `x` to `y` with one weight."""
    dtype = helper.tensor_dtype_to_np_dtype(kind)
    weight = numpy_helper.from_array(np.ones((8, 8), dtype), "w")
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", kind, ["n", columns])],
        [helper.make_tensor_value_info("y", kind, ["n", columns])],
        [weight],
    )
    model = helper.make_model(
        graph,
        opset_imports=[helper.make_opsetid(*opset) for opset in opsets],
        ir_version=10,
    )
    onnx.save(model, path)
    return str(path)


@pytest.fixture
def plain(tmp_path):
    """One MatMul."""
    return save(
        tmp_path / "plain.onnx", [helper.make_node("MatMul", ["x", "w"], ["y"])]
    )


@pytest.fixture
def custom(tmp_path):
    """A tokenizer, as it were, behind the MatMul."""
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["t"]),
        helper.make_node("Tokenizer", ["t"], ["y"], domain="my.company"),
    ]
    return save(tmp_path / "custom.onnx", nodes, opsets=(("", 21), ("my.company", 1)))


slow = pytest.mark.quant_slow
BACKENDS = [
    "onnxruntime",
    *(pytest.param(n, marks=slow) for n in ("openvino", "onnx-reference", "torch")),
]


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_plain_model_would_run(plain, backend, capsys):
    """Exit 0, and every scheme asked for is answered."""
    assert 0 == main(["preflight", plain, "--backend", backend, "--scheme", "mxfp4"])
    found = capsys.readouterr().out

    assert "scheme     mxfp4: supported" in found
    assert "it would run" in found


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_custom_operator_is_named(custom, backend, capsys):
    """Exit 1, and the operator's name, with every backend."""
    assert 1 == main(["preflight", custom, "--backend", backend])
    found = capsys.readouterr().out

    assert "missing" in found
    assert "Tokenizer" in found
    assert "it would not run" in found


def test_float16_on_onnxruntime_is_a_cast(tmp_path, capsys):
    """Its CPU provider has no FP16 MatMul: computed in float32, said so."""
    nodes = [helper.make_node("MatMul", ["x", "w"], ["y"])]
    path = save(tmp_path / "half.onnx", nodes, kind=TensorProto.FLOAT16)

    assert 0 == main(["preflight", path, "--backend", "onnxruntime", "--json"])
    found = json.loads(capsys.readouterr().out)

    assert ["cast"] == [entry["kind"] for entry in found["findings"]]
    assert "MatMul" == found["findings"][0]["what"]


def test_a_free_axis_beside_the_batch_is_dynamic(tmp_path, capsys):
    """An engine that compiles for one shape must know."""
    nodes = [helper.make_node("Relu", ["x"], ["y"])]
    path = save(tmp_path / "free.onnx", nodes, columns="time")

    assert 0 == main(["preflight", path, "--backend", "onnxruntime"])

    assert "dynamic    x: 1 x, axes time have any length" in capsys.readouterr().out


def test_a_scheme_that_is_not_supported_is_exit_1(plain, capsys):
    """The reason is the backend's own."""
    arguments = ["--backend", "vendor", "--plugin", VENDOR, "--scheme", "int8"]
    assert 1 == main(["preflight", plain, *arguments])
    found = capsys.readouterr().out

    assert "scheme     int8: not supported: int8 is not FP8 by rows" in found
    assert "missing" not in found


def test_a_backend_that_cannot_be_asked_is_tried(custom, tmp_path, monkeypatch, capsys):
    """An operator at a time: the one that it does not load is named."""
    monkeypatch.setenv("QUANTHARNESS_CACHE", str(tmp_path / "cache"))
    arguments = ["--backend", "vendor", "--plugin", VENDOR]
    assert 1 == main(["preflight", custom, *arguments])

    assert "missing    my.company.Tokenizer: 1 x" in capsys.readouterr().out


def test_a_model_that_is_not_there_is_exit_2(capsys):
    """Wrong usage, in one line."""
    assert 2 == main(["preflight", "nowhere.onnx", "--backend", "onnxruntime"])

    assert 1 == len(capsys.readouterr().err.strip().splitlines())
