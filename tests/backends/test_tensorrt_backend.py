"""TensorRT's protocol, held with a stand-in for its library; the real one where it is.

The stand-in has the names, the order of calls and the refusals that TensorRT documents;
what it computes is the ONNX reference's. It says nothing about what a GPU computes.
"""

from __future__ import annotations

import ctypes
import json
import sys
from enum import IntEnum
from types import ModuleType, SimpleNamespace

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from harness.backends.tensorrt_backend import TensorRtBackend
from harness.compare.explained import Explained
from harness.errors import BackendError, UnsupportedError
from harness.models.onnx_model import OnnxModel
from harness.schemes.catalogue import SCHEMES, scheme_by_name


class Mode(IntEnum):
    """Of `TensorIOMode`."""

    NONE = 0
    INPUT = 1
    OUTPUT = 2


class Library(ModuleType):
    """`tensorrt`, as far as the adapter calls it."""

    __version__ = "11.4-stand-in"

    def __init__(self):
        super().__init__("tensorrt")
        self.Logger = type("Logger", (), {"ERROR": 1, "__init__": lambda *_: None})
        self.ProfilingVerbosity = SimpleNamespace(DETAILED=2)
        self.LayerInformationFormat = SimpleNamespace(JSON=1)
        self.NetworkDefinitionCreationFlag = SimpleNamespace(STRONGLY_TYPED=1)
        self.TensorIOMode = Mode
        self.built = 0
        library = self

        class Parser:
            def __init__(self, network, _logger):
                self.network = network
                self.num_errors = 0

            def parse(self, data):
                model = onnx.load_from_string(data)
                if any(node.op_type == "Softmax" for node in model.graph.node):
                    self.num_errors = 1
                    return False
                self.network.model = model
                return True

            def get_error(self, _index):
                return SimpleNamespace(
                    desc=lambda: "In node 0: no importer", node=lambda: 0
                )

        class Builder:
            def __init__(self, _logger):
                pass

            def create_network(self, flags):
                assert flags == 1 << 1
                return Network()

            def create_builder_config(self):
                return SimpleNamespace(add_optimization_profile=lambda _: 0)

            def create_optimization_profile(self):
                self.profile = {}
                return SimpleNamespace(
                    set_shape=lambda n, a, o, b: self.profile.update({n: (a, o, b)})
                )

            def build_serialized_network(self, network, config):
                assert config.profiling_verbosity == 2
                if not all(a <= o <= b for a, o, b in self.profile.values()):
                    return None
                library.built += 1
                return network.model, self.profile

        class Runtime:
            def __init__(self, _logger):
                pass

            def deserialize_cuda_engine(self, blob):
                return Engine(*blob)

        self.OnnxParser, self.Builder, self.Runtime = Parser, Builder, Runtime

    @staticmethod
    def nptype(dtype):
        return dtype


class Network:
    """What the parser fills."""

    model = None

    @property
    def num_inputs(self):
        return len(self.model.graph.input)

    def get_input(self, index):
        value = self.model.graph.input[index]
        dims = value.type.tensor_type.shape.dim
        shape = [d.dim_value if d.HasField("dim_value") else -1 for d in dims]
        return SimpleNamespace(name=value.name, shape=shape)


class Engine:
    """Inputs before outputs, by name; runs on addresses."""

    def __init__(self, model, profile):
        self.model, self.profile = model, profile
        self.inputs = [value.name for value in model.graph.input]
        self.outputs = [value.name for value in model.graph.output]
        self.num_io_tensors = len(self.inputs) + len(self.outputs)

    def get_tensor_name(self, index):
        return [*self.inputs, *self.outputs][index]

    def get_tensor_mode(self, name):
        return Mode.INPUT if name in self.inputs else Mode.OUTPUT

    def get_tensor_dtype(self, _name):
        return np.float32

    def create_execution_context(self):
        return Context(self)

    def create_engine_inspector(self):
        layers = [{"Name": "fc", "Inputs": [{"Format/Datatype": "FP8 Row major"}]}, {}]
        return SimpleNamespace(
            get_engine_information=lambda _: json.dumps({"Layers": layers})
        )


class Context:
    """Every input needs a shape within the profile, every tensor an address."""

    def __init__(self, engine):
        self.engine = engine
        self.shapes, self.addresses = {}, {}

    def set_input_shape(self, name, shape):
        least, _, most = self.engine.profile[name]
        fits = all(a <= n <= b for a, n, b in zip(least, shape, most, strict=True))
        if fits:
            self.shapes[name] = shape
        return fits

    def get_tensor_shape(self, name):
        zeros = {n: np.zeros(s, np.float32) for n, s in self.shapes.items()}
        return self.run(zeros)[name].shape

    def set_tensor_address(self, name, address):
        self.addresses[name] = address

    def execute_async_v3(self, _stream):
        feeds = {n: self.at(n, s).copy() for n, s in self.shapes.items()}
        for name, array in self.run(feeds).items():
            self.at(name, array.shape)[...] = array
        return True

    def run(self, feeds):
        found = ReferenceEvaluator(self.engine.model).run(None, feeds)
        return dict(zip(self.engine.outputs, found, strict=True))

    def at(self, name, shape):
        """The tensor that lies at the address it was given."""
        count = int(np.prod(shape))
        block = (ctypes.c_float * count).from_address(self.addresses[name])
        return np.frombuffer(block, np.float32).reshape(shape)


@pytest.fixture
def library(monkeypatch):
    found = Library()
    monkeypatch.setitem(sys.modules, "tensorrt", found)
    return found


def saved(folder, kind="MatMul"):
    """One layer of 64 terms."""
    weight = np.random.default_rng(0).standard_normal((64, 24)).astype(np.float32)
    nodes = [helper.make_node("MatMul", ["x", "w"], ["y"], "fc")]
    if kind != "MatMul":
        nodes = [
            helper.make_node("MatMul", ["x", "w"], ["h"], "fc"),
            helper.make_node(kind, ["h"], ["y"], "last"),
        ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", 1, ["n", 64])],
        [helper.make_tensor_value_info("y", 1, ["n", 24])],
        [numpy_helper.from_array(weight, "w")],
    )
    opset = [helper.make_opsetid("", 21)]
    onnx.save(helper.make_model(graph, opset_imports=opset), folder / "m.onnx")
    return OnnxModel(folder / "m.onnx")


X = np.random.default_rng(1).standard_normal((4, 64)).astype(np.float32)


def calibrated(name):
    """A static scheme that knows the largest input."""
    import dataclasses

    return dataclasses.replace(SCHEMES[name], calibration={"fc": 4.0})


@pytest.mark.parametrize("scheme", ["int8_static", "fp8_e4m3_static"])
def test_every_call_is_as_documented_and_explained(library, tmp_path, scheme):
    """Parse, profile, build, shapes, addresses, run, inspect."""
    model, chosen = saved(tmp_path), calibrated(scheme)
    session = TensorRtBackend(device="cpu").load(model, chosen)
    outputs = session.run({"x": X}, capture=["fc"])
    explained = Explained(chosen, session.arithmetic())
    explained.add(model.operators()[0], outputs["fc/input"], outputs["fc"])

    entry = explained.result()[0]

    assert entry.residual_sq <= entry.explained_sq
    assert session.artifact().activations == ["fc"]
    session.run({"x": X})
    assert "1 FP8, 1 float" in session.arithmetic().detail
    assert session.arithmetic().execution == "native"
    assert library.built == 2


def test_an_engine_is_built_again_only_for_shapes_beyond_it(library, tmp_path):
    """Up to eight times the first size; more is another engine."""
    session = TensorRtBackend(device="cpu").load(saved(tmp_path), None)
    for rows in (4, 1, 32):
        found = session.run({"x": np.resize(X, (rows, 64))})
        assert found["y"].shape == (rows, 24)
    assert library.built == 1

    session.run({"x": np.resize(X, (33, 64))})

    assert library.built == 2


def test_what_it_does_not_parse_is_unsupported_with_its_words(library, tmp_path):
    """The parser's own errors."""
    session = TensorRtBackend(device="cpu").load(saved(tmp_path, "Softmax"), None)
    with pytest.raises(UnsupportedError, match="In node 0: no importer"):
        session.run({"x": X})


def test_preflight_names_what_the_parser_refuses(library, tmp_path):
    """The operator of the node that an error is about, and what is dynamic."""
    model = saved(tmp_path, "Softmax")
    found = TensorRtBackend(device="cpu").preflight(model)
    missing = [entry for entry in found if entry.kind == "missing"]

    assert [(model.onnx().graph.node[0].op_type, 1)] == [
        (entry.what, entry.count) for entry in missing
    ]
    assert "no importer" in missing[0].detail


def test_a_closed_session_and_a_missing_input_say_so(library, tmp_path):
    """As every backend."""
    session = TensorRtBackend(device="cpu").load(saved(tmp_path), None)
    with pytest.raises(BackendError, match=r"missing=\['x'\]"):
        session.run({})
    session.close()
    with pytest.raises(BackendError, match="closed=True"):
        session.run({"x": X})


@pytest.mark.parametrize("scheme", sorted(SCHEMES))
def test_only_explicit_static_quantization_is_supported(tmp_path, scheme):
    """And each refusal says what it would take."""
    found = TensorRtBackend().supports(saved(tmp_path), scheme_by_name(scheme))

    assert found.supported == (scheme in ("int8_static", "fp8_e4m3_static"))
    assert found.supported or found.reason.startswith("tensorrt: ")


def test_without_the_library_or_a_gpu_it_says_what_is_missing(library, monkeypatch):
    """Never raises."""
    monkeypatch.delitem(sys.modules, "tensorrt")
    assert not TensorRtBackend().probe().available
    assert TensorRtBackend().probe().reason


@pytest.mark.skipif(
    not TensorRtBackend().probe().available,
    reason=f"tensorrt: {TensorRtBackend().probe().reason}",
)
def test_a_real_engine_computes_what_the_scheme_says(tmp_path):
    """The only test here that a GPU answers."""
    model, chosen = saved(tmp_path), calibrated("fp8_e4m3_static")
    session = TensorRtBackend().load(model, chosen)
    outputs = session.run({"x": X}, capture=["fc"])
    explained = Explained(chosen, session.arithmetic())
    explained.add(model.operators()[0], outputs["fc/input"], outputs["fc"])
    entry = explained.result()[0]
    assert entry.residual_sq <= 16 * entry.explained_sq
