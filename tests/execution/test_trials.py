"""Each operator in a model of its own: what is missing is named, and remembered."""

from __future__ import annotations

import json

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from harness.backends.onnx_reference_backend import OnnxReferenceBackend
from harness.backends.registry import load_registry
from harness.execution.preflight import preflight
from harness.execution.trials import trials, try_operators


def graph(*, custom=False, layers=3):
    """Layers alike but for their weights, and a Loop that reads from outside."""
    rng = np.random.default_rng(0)
    nodes, tensors, last = [], [], "x"
    for index in range(layers):
        weight = rng.standard_normal((16, 16)).astype(np.float32)
        tensors.append(numpy_helper.from_array(weight, f"w{index}"))
        nodes += [
            helper.make_node("MatMul", [last, f"w{index}"], [f"p{index}"]),
            helper.make_node("Softmax", [f"p{index}"], [f"s{index}"], axis=-1),
        ]
        last = f"s{index}"
    if custom:
        nodes.append(helper.make_node("Odd", [last], ["odd"], domain="my.company"))
        nodes.append(helper.make_node("Relu", ["odd"], ["rest"]))
        last = "rest"
    body = helper.make_graph(
        [
            helper.make_node("Add", ["carried", "x"], ["more"]),
            helper.make_node("Identity", ["go"], ["on"]),
        ],
        "body",
        [
            helper.make_tensor_value_info("step", TensorProto.INT64, []),
            helper.make_tensor_value_info("go", TensorProto.BOOL, []),
            helper.make_tensor_value_info("carried", TensorProto.FLOAT, ["n", 16]),
        ],
        [
            helper.make_tensor_value_info("on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("more", TensorProto.FLOAT, ["n", 16]),
        ],
    )
    tensors.append(numpy_helper.from_array(np.array(2, np.int64), "times"))
    nodes.append(helper.make_node("Loop", ["times", "", last], ["y"], body=body))
    ends = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 16])
        for name in "xy"
    ]
    opsets = [helper.make_opsetid("", 21)]
    if custom:
        opsets.append(helper.make_opsetid("my.company", 1))
    return helper.make_model(
        helper.make_graph(nodes, "g", ends[:1], ends[1:], tensors),
        opset_imports=opsets,
        ir_version=10,
    )


class Picky:
    """Loads what has no Softmax; counts what it is asked."""

    name = "picky"

    def __init__(self):
        self.asked = []

    def load(self, model, scheme):
        """As a backend's."""
        assert scheme is None
        kinds = [node.op_type for node in model.onnx().graph.node]
        self.asked.append(kinds)
        if "Softmax" in kinds:
            raise ValueError("no\nSoftmax here")
        return OnnxReferenceBackend().load(model, None)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """A cache of its own."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("QUANTHARNESS_CACHE", str(folder))
    return folder


def quiet(_done, _total):
    """No bar."""


def test_layers_that_are_alike_are_one_trial():
    """However many there are; each is a model that the checker accepts."""
    found = {entry.title: entry for entry in trials(graph())}

    assert {"MatMul": 3, "Softmax": 3, "Loop": 1} == {
        title: entry.count for title, entry in found.items()
    }
    for entry in found.values():
        onnx.checker.check_model(onnx.load_from_string(entry.model), full_check=True)


def test_what_is_missing_is_named_once_with_its_reason():
    """In one line, and how many nodes it is about."""
    (found,) = try_operators(Picky(), "1", graph(), quiet)

    assert ("missing", "Softmax", 3) == (found.kind, found.what, found.count)
    assert "no Softmax here" == found.detail


def test_what_was_tried_is_remembered_by_version():
    """The second time nothing is loaded; another version is asked anew."""
    first, second, third = Picky(), Picky(), Picky()
    found = [
        try_operators(backend, version, graph(), quiet)
        for backend, version in ((first, "1"), (second, "1"), (third, "2"))
    ]

    assert found[0] == found[1] == found[2]
    assert (4, 0, 4) == tuple(len(b.asked) for b in (first, second, third))


def test_a_memory_that_was_cut_is_made_anew(cache):
    """Nothing depends on it."""
    try_operators(Picky(), "1", graph(), quiet)
    (file,) = (cache / "preflight").iterdir()
    file.write_text(file.read_text()[:40])
    backend = Picky()

    assert try_operators(backend, "1", graph(), quiet)
    assert 4 == len(backend.asked)


def test_behind_an_operator_of_its_own_nothing_is_claimed():
    """A custom operator is tried; what follows it has no known type."""
    found = try_operators(Picky(), "1", graph(custom=True), quiet)
    kinds = {(entry.what, entry.kind) for entry in found}

    assert ("my.company.Odd", "missing") in kinds
    assert {("Relu", "untried"), ("Loop", "untried")} <= kinds


def test_a_backend_that_takes_no_graph_is_not_asked():
    """One that refuses even a sum runs something else."""

    class Other(Picky):
        def load(self, _model, _scheme):
            raise ValueError("language models only")

    assert try_operators(Other(), "1", graph(), quiet) is None


PLUGIN = """
import os
from harness.backends.protocol import Availability, Support
from harness.backends.onnx_reference_backend import OnnxReferenceBackend

class Frail(OnnxReferenceBackend):
    preflight = None

    def load(self, model, scheme):
        if "Softmax" in [node.op_type for node in model.onnx().graph.node]:
            os.abort()
        return super().load(model, scheme)

def register(registry):
    registry.add_backend(Frail(name="frail"))
"""


def test_an_operator_that_ends_the_worker_is_missing_and_the_rest_is_tried(tmp_path):
    """Two workers die under it; the third goes on."""
    plugin = tmp_path / "frail.py"
    plugin.write_text(PLUGIN)
    path = tmp_path / "model.onnx"
    onnx.save(graph(), path)
    seen = []
    found = preflight(
        load_registry([str(plugin)]),
        str(path),
        "frail",
        [],
        plugins=[str(plugin)],
        on_progress=lambda done, total: seen.append((done, total)),
    )

    (missing,) = [entry for entry in found.findings if entry.kind == "missing"]
    assert "Softmax" == missing.what
    assert "ended while it was tried, twice" in missing.detail
    assert (3, 3) == seen[-1]


def test_one_that_was_interrupted_once_is_tried_again(cache):
    """That a worker ended is no proof: somebody may have stopped it."""
    try_operators(Picky(), "1", graph(), quiet)
    (file,) = (cache / "preflight").iterdir()
    known = json.loads(file.read_text())
    (key,) = [key for key, reason in known.items() if reason]
    file.write_text(json.dumps(known | {key: 1}))
    backend = Picky()

    assert "no Softmax here" == try_operators(backend, "1", graph(), quiet)[0].detail
    assert 1 == len(backend.asked)
