"""Asking a backend that cannot be asked: each operator in a model of its own, once.

What came of it is remembered in the user's cache folder, by the backend's version. That
an operator is being tried is remembered too: one under which two workers ended is
missing, and the next worker goes on behind it.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import tempfile
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from harness.backends.protocol import Backend, Finding
from harness.files import write_json
from harness.models.export import cache_folder
from harness.models.onnx_model import OnnxModel

if TYPE_CHECKING:
    import onnx

#: Called with operators tried and operators in all.
OnProgress = Callable[[int, int], None]

#: Numbers of a constant that may decide whether an operator is there: axes, shapes.
_FEW: Final = 64
_DIED: Final = "the backend's process ended while it was tried, twice"
_TWICE: Final = 2
_LONGEST: Final = 200


@dataclasses.dataclass(frozen=True)
class Trial:
    """An operator as a model, and how many nodes of the whole are like it."""

    title: str
    count: int
    #: None: the types of its inputs follow from an operator that ONNX does not define.
    model: bytes | None


def try_operators(
    backend: Backend, version: str, model: onnx.ModelProto, on_progress: OnProgress
) -> list[Finding] | None:
    """Operators that a backend does not load, each tried once a version.

    Args:
        backend: loads graphs of ONNX; one that does not is not asked.
        version: its own.
        model: in normal form.
        on_progress: called after every operator.

    Returns:
        What is missing; None: the backend loads no graph at all.
    """
    memory = _Memory(backend.name, version)
    if memory.ask(backend, _control(model)):
        return None
    entries = trials(model)
    reasons: Counter[tuple[str, str, str]] = Counter()
    for done, entry in enumerate(entries, start=1):
        if entry.model is None:
            detail = "its inputs come from an operator that ONNX does not define"
            reasons["untried", entry.title, detail] += entry.count
        else:
            reason = memory.ask(backend, entry.model)
            if reason:
                reasons["missing", entry.title, reason] += entry.count
        on_progress(done, len(entries))
    return [
        Finding(kind, title, count, detail)  # type: ignore[arg-type]
        for (kind, title, detail), count in reasons.items()
    ]


class _Memory:
    """Reasons by model, in a file of the backend's version."""

    def __init__(self, backend: str, version: str) -> None:
        name = "".join(c if c.isalnum() or c in "@.-+" else "_" for c in backend)
        self._file = cache_folder() / "preflight" / f"{name}-{version}.json"
        try:
            known: dict[str, str | int] = json.loads(
                self._file.read_text(encoding="utf-8")
            )
        except (OSError, ValueError):
            # None yet, or a file that somebody cut: everything is tried again.
            known = {}
        self._known = known

    def ask(self, backend: Backend, model: bytes) -> str:
        """Why the backend does not load a model; "" if it does."""
        key = hashlib.sha256(model).hexdigest()
        # A reason; or how many workers began to try it and did not say.
        found: str | int = self._known.get(key, 0)
        if isinstance(found, str):
            return found
        if found >= _TWICE:
            return _DIED
        self._remember(key, found + 1)
        reason = _try(backend, model)
        self._remember(key, reason)
        return reason

    def _remember(self, key: str, found: str | int) -> None:
        self._known[key] = found
        write_json(self._file, self._known)


def _try(backend: Backend, model: bytes) -> str:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "operator.onnx"
        path.write_bytes(model)
        try:
            backend.load(OnnxModel(path), None).close()
        except Exception as error:  # noqa: BLE001 - a backend may raise anything
            return (" ".join(str(error).split()) or type(error).__name__)[:_LONGEST]
    return ""


def trials(model: onnx.ModelProto) -> list[Trial]:
    """Every operator of a graph as a model; those that are alike only once.

    Names are those of their places, and large constants other numbers of the same
    shape: layers that differ in their weights alone are one trial.
    """
    import onnx

    inferred = onnx.shape_inference.infer_shapes(model, data_prop=True).graph
    types = {
        value.name: value.type
        for value in (*inferred.input, *inferred.output, *inferred.value_info)
    }
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    counts: Counter[tuple[str, bytes | None]] = Counter()
    for node in model.graph.node:
        title = f"{node.domain}.{node.op_type}" if node.domain else node.op_type
        counts[title, _alone(model, node, types, constants)] += 1
    return [Trial(title, count, data) for (title, data), count in counts.items()]


def _alone(
    model: onnx.ModelProto,
    node: onnx.NodeProto,
    types: Mapping[str, onnx.TypeProto],
    constants: Mapping[str, onnx.TensorProto],
) -> bytes | None:
    import onnx
    from onnx import helper

    from harness.models.onnx_normalize import reads

    named = dict.fromkeys((*node.input, *sorted(reads(node) - set(node.input))))
    inside = {n for a in node.attribute for g in (a.g, *a.graphs) for n in _made(g)}
    read = [name for name in named if name and name not in inside]
    # Names inside a subgraph stay: they are the node's own.
    places = {} if inside else {name: f"i{at}" for at, name in enumerate(read)}
    places |= {name: f"o{at}" for at, name in enumerate(node.output) if name}
    inputs, held = [], []
    for name in read:
        if name in constants:
            held.append(_constant(constants[name], places.get(name, name)))
        elif name in types and types[name].tensor_type.elem_type:
            value = onnx.ValueInfoProto(name=places.get(name, name))
            value.type.CopyFrom(types[name])
            inputs.append(value)
        else:
            return None
    outputs = []
    for name in filter(None, node.output):
        value = onnx.ValueInfoProto(name=places[name])
        if name in types:
            value.type.CopyFrom(types[name])
        outputs.append(value)
    alone = onnx.NodeProto()
    alone.CopyFrom(node)
    alone.name, alone.doc_string = "tried", ""
    del alone.input[:], alone.output[:]
    alone.input.extend(places.get(name, name) for name in node.input)
    alone.output.extend(places.get(name, name) for name in node.output)
    found = helper.make_model(
        helper.make_graph([alone], "tried", inputs, outputs, held),
        opset_imports=model.opset_import,
        ir_version=model.ir_version,
    )
    data: bytes = found.SerializeToString(deterministic=True)
    return data


def _made(graph: onnx.GraphProto) -> set[str]:
    """Names that a graph gives itself, those of graphs inside it too."""
    names = {value.name for value in graph.input}
    names.update(tensor.name for tensor in graph.initializer)
    for node in graph.node:
        names.update(node.output)
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs):
                names |= _made(inner)
    return names


def _constant(tensor: onnx.TensorProto, name: str) -> onnx.TensorProto:
    from onnx import numpy_helper

    array = numpy_helper.to_array(tensor)
    if array.size > _FEW and array.dtype.kind == "f":
        rng = np.random.default_rng(0)
        array = rng.standard_normal(array.shape).astype(array.dtype)
    return numpy_helper.from_array(np.ascontiguousarray(array), name)


def _control(model: onnx.ModelProto) -> bytes:
    """What every backend that takes graphs loads: a sum, and a layer that is one."""
    from onnx import TensorProto, helper, numpy_helper

    weight = numpy_helper.from_array(np.eye(8, dtype=np.float32), "w")
    ends: list[Any] = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 8]) for name in "xy"
    ]
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["p"], "product"),
        helper.make_node("Add", ["p", "x"], ["y"], "sum"),
    ]
    found = helper.make_model(
        helper.make_graph(nodes, "control", ends[:1], ends[1:], [weight]),
        opset_imports=model.opset_import,
        ir_version=model.ir_version,
    )
    data: bytes = found.SerializeToString(deterministic=True)
    return data
