"""Planting a defect in the ONNX graph that a scheme became.

A weight's defect puts the wrong decoded weight in place of the right one, so that every
defect of a weight can be had; with `Planting.stored` the artifact shows it too. Inputs
and outputs are changed by nodes that are put before or behind the operator.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from harness.backends.protocol import Session
from harness.defects.plant import (
    chosen_channels,
    clean_weight,
    planted_weight,
    sites,
)
from harness.defects.types import SHARE, Defect, Planting, Site, Trigger, Unfit
from harness.errors import UnsupportedError
from harness.models.types import Model
from harness.schemes.onnx_nodes import Nodes
from harness.schemes.types import Scheme

if TYPE_CHECKING:
    import onnx

    from harness.schemes.onnx_model import QuantizedModel

_ONE: Final = np.ones(1, np.int64)
#: Nodes, site, tensor, strength -> the changed tensor.
_Edit = Callable[[Nodes, Site, str, float], str]


def load_planted(
    backend: Any, model: Model, scheme: Scheme, defect: Defect, planting: Planting
) -> Session:
    """A session of the built model with the defect in it.

    Args:
        backend: one that has `build` and `open_built`: it runs our ONNX model.
        model: what is under test.
        scheme: what it becomes.
        defect: of a weight, an input or an output.
        planting: where and how much.

    Raises:
        UnsupportedError: it cannot be expressed in a graph, or fits no operator.
    """
    built = backend.build(model, scheme)
    planted = plant_graph(built, model, scheme, defect, planting)
    session: Session = backend.open_built(planted, scheme)
    return session


def plant_graph(
    built: QuantizedModel,
    model: Model,
    scheme: Scheme,
    defect: Defect,
    planting: Planting,
) -> QuantizedModel:
    """The built model with the defect in it (its graph is changed in place).

    Raises:
        UnsupportedError: it cannot be expressed in a graph, or fits no operator.
    """
    trigger = defect.trigger if planting.trigger is None else planting.trigger
    given = planting.strength
    strength = defect.parameter.catalogue if given is None else given
    weights = dict(built.weights)
    reason = "the scheme quantizes no operator that was named"
    done = 0
    for site in sites(model.operators(), scheme, planting):
        try:
            if defect.place in ("weight", "stored"):
                _always(trigger, defect)
                name = _replace_weight(built, site, defect, strength)
                if not weights[site.operator.name]:
                    # MatMulNBits gave way to a product; its codes show no longer.
                    shows = planting.stored or defect.place == "stored"
                    weights[site.operator.name] = _shown(built, site, name, shows)
                elif planting.stored or defect.place == "stored":
                    weights[site.operator.name] = name
            elif defect.place == "input":
                _always(trigger, defect)
                _edit_input(built, site, defect, strength)
            elif defect.place == "output":
                _edit_output(built, site, defect, strength, trigger)
        except Unfit as error:
            reason = str(error)
            continue
        done += 1
    if not done:
        raise UnsupportedError(f"{defect.name} fits nowhere: {reason}")
    return dataclasses.replace(built, weights=weights)


def _always(trigger: Trigger, defect: Defect) -> None:
    if trigger != Trigger():
        raise Unfit(f"{defect.name} is conditional on what a graph does not know")


def _find(graph: onnx.GraphProto, name: str) -> int:
    return next(i for i, node in enumerate(graph.node) if node.name == name)


def _find_node(graph: onnx.GraphProto, site: Site) -> onnx.NodeProto:
    return graph.node[_find(graph, site.operator.name)]


def _replace_weight(
    built: QuantizedModel, site: Site, defect: Defect, strength: float
) -> str:
    from onnx import helper, numpy_helper

    operator = site.operator
    weight = planted_weight(site, defect, strength)
    graph = built.proto.graph
    index = _find(graph, operator.name)
    node = graph.node[index]
    name = f"{operator.name}/planted/weight"
    turned = operator.name in built.transposed
    packed = node.op_type == "Identity"
    data = weight.T if turned or packed else weight
    graph.initializer.append(numpy_helper.from_array(np.ascontiguousarray(data), name))
    if not packed:
        node.input[1] = name
        return name
    product = next(n for n in graph.node if node.input[0] in n.output)
    matmul = helper.make_node("MatMul", [product.input[0], name], [node.output[0]])
    matmul.name = operator.name
    node.CopyFrom(matmul)
    return name


def _shown(built: QuantizedModel, site: Site, planted: str, stored: bool) -> str:
    """A tensor that shows the weight as the file stores it, as others are laid out."""
    from onnx import helper, numpy_helper

    graph = built.proto.graph
    name = f"{site.operator.name}/planted/shown"
    source = planted
    if not stored:
        source = f"{site.operator.name}/planted/clean"
        clean = np.ascontiguousarray(clean_weight(site).T)
        graph.initializer.append(numpy_helper.from_array(clean, source))
    turned = site.operator.name in built.transposed
    operation = "Identity" if turned else "Transpose"
    graph.node.append(helper.make_node(operation, [source], [name]))
    return name


def _edit_input(
    built: QuantizedModel, site: Site, defect: Defect, strength: float
) -> None:
    graph = built.proto.graph
    if site.scheme.activations is None:
        raise Unfit("activations are not quantized")
    if defect.name == "input_left_unquantized":
        _find_node(graph, site).input[0] = built.observed[site.operator.name][0]
        return
    edit = INPUT_EDITS.get(defect.name)
    if edit is None:
        raise Unfit(f"{defect.name} is not expressed in a graph")
    index = _find(graph, site.operator.name)
    node = graph.node[index]
    nodes = Nodes(f"{site.operator.name}/planted")
    node.input[0] = edit(nodes, site, node.input[0], strength)
    _insert(graph, index, nodes)


def _insert(graph: onnx.GraphProto, index: int, nodes: Nodes) -> None:
    graph.initializer.extend(nodes.initializers)
    for offset, node in enumerate(nodes.nodes):
        graph.node.insert(index + offset, node)


def _edit_output(
    built: QuantizedModel,
    site: Site,
    defect: Defect,
    strength: float,
    trigger: Trigger,
) -> None:
    """Rename what the operator gives, and make the old name the changed tensor."""
    edit = OUTPUT_EDITS.get(defect.name)
    if edit is None:
        raise Unfit(f"{defect.name} is not expressed in a graph")
    graph = built.proto.graph
    shown = built.observed[site.operator.name][1]
    index = next(i for i, node in enumerate(graph.node) if shown in node.output)
    producer = graph.node[index]
    before = f"{site.operator.name}/planted/before"
    nodes = Nodes(f"{site.operator.name}/planted")
    # What does not fit says so here, while the graph is still whole.
    changed = edit(nodes, site, before, strength)
    if defect.parameter is SHARE and strength < 1:
        changed = _where(nodes, _channel_mask(site, strength), changed, before)
    if trigger != Trigger():
        changed = _triggered(nodes, site, trigger, changed, before)
    nodes.add("Identity", [changed], output=shown)
    producer.output[list(producer.output).index(shown)] = before
    _insert(graph, index + 1, nodes)


def _along(site: Site, values: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Values of the output channels, so that they broadcast to the output."""
    if site.operator.kind == "linear":
        return values
    return values.reshape(1, -1, *(1,) * (site.operator.weight.ndim - 2))


def _channel_mask(site: Site, share: float) -> np.ndarray[Any, Any]:
    mask = np.zeros(site.operator.weight.shape[0], bool)
    mask[chosen_channels(site, share)] = True
    return _along(site, mask)


def _where(nodes: Nodes, mask: np.ndarray[Any, Any], yes: str, no: str) -> str:
    return nodes.add("Where", [nodes.constant(mask, "mask"), yes, no])


def _triggered(nodes: Nodes, site: Site, trigger: Trigger, yes: str, no: str) -> str:
    """Only batch entries, positions and lengths are known inside a graph."""
    if trigger != Trigger(
        batch=trigger.batch, position=trigger.position, length=trigger.length
    ):
        raise Unfit("a graph knows neither its calls nor its own magnitudes")
    linear = site.operator.kind == "linear"
    shape = nodes.add("Shape", [no])
    zero, one = (nodes.constant(np.array(v, np.int64), "i") for v in (0, 1))
    last = nodes.constant(np.array([-2 if linear else -1], np.int64), "axis")
    found = yes
    for axis, least in ((0, trigger.batch), (None, trigger.position)):
        if not least:
            continue
        at = nodes.constant(np.array([0], np.int64), "axis") if axis == 0 else last
        size = nodes.add("Gather", [shape, at])
        count = nodes.add("Reshape", [size, nodes.constant(np.zeros(0, np.int64), "s")])
        index = nodes.add("Range", [zero, count, one])
        limit = nodes.constant(np.array(least, np.int64), "limit")
        mask = nodes.add("GreaterOrEqual", [index, limit])
        if axis == 0:
            # As many ones as there are axes behind: a layer's input has two or more.
            rank = nodes.add("Shape", [shape])
            behind = nodes.add("Sub", [rank, nodes.constant(_ONE, "one")])
            ones = nodes.add("Expand", [nodes.constant(_ONE, "one"), behind])
            front = nodes.constant(-_ONE, "all")
            shaped = nodes.add("Concat", [front, ones], axis=0)
        else:
            to = [-1, 1] if linear else [-1]
            shaped = nodes.constant(np.array(to, np.int64), "shape")
        mask = nodes.add("Reshape", [mask, shaped])
        found = nodes.add("Where", [mask, found, no])
    if trigger.length:
        size = nodes.add("Gather", [shape, last])
        limit = nodes.constant(np.array([trigger.length], np.int64), "limit")
        mask = nodes.add("GreaterOrEqual", [size, limit])
        found = nodes.add("Where", [mask, found, no])
    return found


def _scalar(nodes: Nodes, value: float) -> str:
    return nodes.constant(np.array(value, np.float32), "c")


def _bias(nodes: Nodes, site: Site, factor: float, *, shift: int = 0) -> str:
    bias = site.operator.bias
    if bias is None or not np.any(bias):
        raise Unfit("no bias")
    values = np.asarray(bias, np.float32) * np.float32(factor)
    if shift:
        values = np.roll(values, shift) + np.asarray(-bias, np.float32)
    return nodes.constant(_along(site, values), "bias")


def _gain(nodes: Nodes, site: Site, y: str, strength: float) -> str:
    scaled = nodes.add("Mul", [y, _scalar(nodes, 1 + strength)])
    if site.operator.bias is None or not np.any(site.operator.bias):
        return scaled
    return nodes.add("Add", [scaled, _bias(nodes, site, -strength)])


def _stored_in(onnx_type: int) -> _Edit:
    def edit(nodes: Nodes, site: Site, y: str, strength: float) -> str:  # noqa: ARG001
        return nodes.add("Cast", [nodes.add("Cast", [y], to=onnx_type)], to=1)

    return edit


def _tail(nodes: Nodes, site: Site, y: str, strength: float) -> str:
    mask = np.ones(site.operator.weight.shape[0], np.float32)
    mask[max(1, mask.size - round(strength)) :] = 0
    return nodes.add("Mul", [y, nodes.constant(_along(site, mask), "mask")])


def _roll_input(nodes: Nodes, site: Site, x: str, strength: float) -> str:  # noqa: ARG001
    length = site.operator.weight.shape[1] * site.operator.groups
    order = np.arange(length)
    order[: length - length % 2] ^= 1
    axis = -1 if site.operator.kind == "linear" else 1
    return nodes.add("Gather", [x, nodes.constant(order, "order")], axis=axis)


#: Defect -> how its operator's output is changed in a graph.
OUTPUT_EDITS: Final[Mapping[str, _Edit]] = {
    "bias_missing": lambda n, s, y, _: n.add("Add", [y, _bias(n, s, -1)]),
    "bias_twice": lambda n, s, y, _: n.add("Add", [y, _bias(n, s, 1)]),
    "bias_shifted": lambda n, s, y, _: n.add("Add", [y, _bias(n, s, 1, shift=1)]),
    "zeros": lambda n, s, y, _: n.add("Mul", [y, _scalar(n, 0.0)]),  # noqa: ARG005
    "output_scale_ratio": _gain,
    "summed_twice": lambda n, s, y, _: _gain(n, s, y, 1.0),
    "output_in_bf16": _stored_in(16),
    "output_in_fp16": _stored_in(10),
    "last_channels_zero": _tail,
    "activation_fused_twice": lambda n, s, y, _: n.add("Relu", [y]),  # noqa: ARG005
    "wrong_after_first_batch_entry": _gain,
    "wrong_from_position_16": _gain,
    "wrong_for_long_inputs": _gain,
}

#: Defect -> how its operator's decoded input is changed in a graph.
INPUT_EDITS: Final[Mapping[str, _Edit]] = {
    "input_scale_ratio": lambda n, s, x, e: n.add(  # noqa: ARG005
        "Mul", [x, _scalar(n, 1 + e)]
    ),
    "input_nibbles_swapped": _roll_input,
}
