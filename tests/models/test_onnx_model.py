"""A user's ONNX file as a model, and what is said when it is none."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import helper

from harness.errors import CasesError, ModelError
from harness.models.load import load_model
from harness.models.onnx_model import OnnxModel

from .graphs import model, perceptron, random, run_ort


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "model.onnx"
    onnx.save(perceptron(), path)
    return path


def test_a_file_is_a_model(file):
    """Inputs, outputs, operators, graph and name come from the file."""
    loaded = load_model("model.onnx", file.parent)

    assert loaded.name == "model"
    assert loaded.source == "onnx"
    assert [(s.name, s.dtype, s.shape) for s in loaded.inputs] == [
        ("x", "float32", (None, 4))
    ]
    assert [s.name for s in loaded.outputs] == ["y"]
    assert [o.name for o in loaded.operators()] == ["fc1_MatMul", "fc2"]
    x = random(3, 4)
    np.testing.assert_allclose(
        run_ort(loaded.onnx(), x=x)["y"], run_ort(perceptron(), x=x)["y"], rtol=1e-6
    )


def test_each_graph_is_a_fresh_one(file):
    """What is done to one graph is not seen in the next."""
    loaded = OnnxModel(file)
    del loaded.onnx().graph.node[:]

    assert len(loaded.onnx().graph.node) == 4


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "git-LFS"),
        (b"this is a text, not a graph", "not an ONNX"),
        (b"", "no nodes"),
        (None, "no such file"),
    ],
)
def test_what_is_no_onnx_is_named(tmp_path, data, words):
    """The message has the file and what it is instead."""
    path = tmp_path / "model.onnx"
    if data is not None:
        path.write_bytes(data)

    with pytest.raises(ModelError, match=words) as caught:
        load_model("model.onnx", tmp_path)
    assert str(path) in str(caught.value)


def test_a_broken_graph_is_named(tmp_path):
    """A node that reads what nobody wrote."""
    broken = model([helper.make_node("Relu", ["z"], ["y"])], {"x": [1]}, {"y": [1]})
    onnx.save(broken, tmp_path / "model.onnx")

    with pytest.raises(ModelError, match="not a valid ONNX model"):
        load_model("model.onnx", tmp_path)


def external(folder, location):
    """A model file whose weight lies in another file."""
    proto = perceptron()
    weight = proto.graph.initializer[0]
    (folder / "outside.bin").write_bytes(weight.raw_data)
    weight.ClearField("raw_data")
    weight.data_location = onnx.TensorProto.EXTERNAL
    weight.external_data.add(key="location", value=location)
    inner = folder / "inner"
    inner.mkdir()
    (inner / "inside.bin").write_bytes((folder / "outside.bin").read_bytes())
    (inner / "model.onnx").write_bytes(proto.SerializeToString())
    return inner


def test_weights_may_lie_beside_the_file(tmp_path):
    """External data in the model's folder are read."""
    inner = external(tmp_path, "inside.bin")

    found = load_model("model.onnx", inner).operators()[0].weight
    np.testing.assert_array_equal(found, random(4, 3, seed=1).T)


def test_weights_may_not_lie_elsewhere(tmp_path):
    """External data outside the model's folder are refused."""
    inner = external(tmp_path, "../outside.bin")

    with pytest.raises(ModelError, match="not a valid ONNX model"):
        load_model("model.onnx", inner)


def test_the_fingerprint_is_of_content(tmp_path, file):
    """Names of nodes, documentation and metadata do not count; each weight does."""
    original = OnnxModel(file).fingerprint
    same = perceptron()
    same.graph.node[0].name = "other"
    same.doc_string = "said otherwise"
    same.metadata_props.add(key="author", value="somebody")
    onnx.save(same, tmp_path / "same.onnx")
    other = perceptron()
    raw = bytearray(other.graph.initializer[0].raw_data)
    raw[0] ^= 1
    other.graph.initializer[0].raw_data = bytes(raw)
    onnx.save(other, tmp_path / "other.onnx")

    assert original.startswith("content-v1:")
    assert OnnxModel(tmp_path / "same.onnx").fingerprint == original
    assert OnnxModel(tmp_path / "other.onnx").fingerprint != original


@pytest.mark.parametrize("change", ["attribute", "wiring", "fixed"])
def test_the_fingerprint_is_of_structure(tmp_path, change):
    """Another attribute, another input of a node or another constant counts."""

    def graph(alpha, source):
        return model(
            [
                helper.make_node("LeakyRelu", ["x"], ["a"], alpha=alpha),
                helper.make_node("Add", ["a", source], ["y"]),
            ],
            {"x": [None], "k": [None]},
            {"y": [None]},
        )

    onnx.save(graph(0.1, "k"), tmp_path / "a.onnx")
    onnx.save(
        graph(
            0.2 if change == "attribute" else 0.1, "x" if change == "wiring" else "k"
        ),
        tmp_path / "b.onnx",
    )
    value = np.ones(1, np.float32)
    first = OnnxModel(tmp_path / "a.onnx", fixed={"k": value})
    second = OnnxModel(
        tmp_path / "b.onnx", fixed={"k": 2 * value if change == "fixed" else value}
    )

    assert first.fingerprint != second.fingerprint


def test_a_bare_graph_reads_no_text(file):
    """A record without literal inputs is refused with what it should have."""
    with pytest.raises(CasesError, match=r"should have \"inputs\""):
        OnnxModel(file).prepare({"text": "hello"}, "")
