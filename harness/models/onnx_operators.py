"""The layers with weights in an ONNX graph, found once for everyone who needs them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal

import numpy as np

from harness.models.types import Operator

if TYPE_CHECKING:
    import onnx

Array = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True, kw_only=True)
class OnnxOperator:
    """Where an operator stands in its graph."""

    name: str
    kind: Literal["linear", "conv"]
    #: Index of the MatMul, Gemm or Conv in `graph.node`.
    node: int
    #: Tensor names: the input, the weight, the bias (or None), the output with bias.
    input: str
    weight: str
    bias: str | None
    output: str
    #: Whether the weight is stored (in, out).
    transposed: bool = False
    stride: tuple[int, ...] = ()
    padding: tuple[tuple[int, int], ...] = ()
    dilation: tuple[int, ...] = ()
    groups: int = 1

    def operator(self, initializers: Mapping[str, Array]) -> Operator:
        """The operator with its tensors, in the layout that torch gives it."""
        weight = initializers[self.weight]
        return Operator(
            name=self.name,
            kind=self.kind,
            weight=np.ascontiguousarray(weight.T if self.transposed else weight),
            bias=initializers[self.bias].reshape(-1) if self.bias else None,
            stride=self.stride,
            padding=self.padding,
            dilation=self.dilation,
            groups=self.groups,
        )


def initializers_of(model: onnx.ModelProto) -> dict[str, Array]:
    """Initializers as arrays."""
    from onnx import numpy_helper

    return {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}


def attributes(node: onnx.NodeProto) -> dict[str, Any]:
    """Attributes by name; strings as str."""
    from onnx import helper

    values = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    return {k: v.decode() if isinstance(v, bytes) else v for k, v in values.items()}


#: Public attributes of `torch.nn.Module`, which no layer may be called; transformers
#: adds `smart_apply` to it.
RESERVED: Final = frozenset(
    """T_destination add_module apply bfloat16 buffers call_super_init children compile
    cpu cuda double dump_patches eval extra_repr float forward get_buffer
    get_extra_state get_parameter get_submodule half ipu load_state_dict modules mtia
    named_buffers named_children named_modules named_parameters parameters
    register_backward_hook register_buffer register_forward_hook
    register_forward_pre_hook register_full_backward_hook
    register_full_backward_pre_hook register_load_state_dict_post_hook
    register_load_state_dict_pre_hook register_module register_parameter
    register_state_dict_post_hook register_state_dict_pre_hook requires_grad_
    set_extra_state set_submodule share_memory smart_apply state_dict to to_empty
    train training
    type xpu zero_grad""".split()  # noqa: SIM905 - reads better as text
)


def sanitize(name: str) -> str:
    """A node's name as one component of a module's path."""
    clean = re.sub(r"[^A-Za-z0-9_\-]+", "_", name).strip("_")
    return f"{clean}_node" if clean in RESERVED else clean


def name_nodes(model: onnx.ModelProto) -> None:
    """Give every node a unique name that is also a valid module name, in place."""
    taken: set[str] = set()
    for node in model.graph.node:
        first = node.output[0] if node.output else ""
        base = (
            sanitize(node.name) or sanitize(f"{node.op_type}_{first}") or node.op_type
        )
        name, count = base, 1
        while name in taken:
            count += 1
            name = f"{base}_{count}"
        taken.add(name)
        node.name = name


def find_operators(model: onnx.ModelProto) -> list[OnnxOperator]:
    """Every MatMul, Gemm and Conv with a constant weight, in order of the graph.

    A MatMul followed by nothing but an Add of a constant vector owns that bias.
    """
    graph = model.graph
    shapes = {t.name: tuple(t.dims) for t in graph.initializer}
    float_names = {t.name for t in graph.initializer if t.data_type in (1, 10, 11, 16)}
    consumers: dict[str, list[onnx.NodeProto]] = {}
    for node in graph.node:
        for name in node.input:
            consumers.setdefault(name, []).append(node)
    results = {output.name for output in graph.output}
    found = []
    for index, node in enumerate(graph.node):
        if len(node.input) < 2 or node.input[1] not in float_names:
            continue
        if node.input[0] in shapes:
            continue
        if node.op_type == "MatMul" and len(shapes[node.input[1]]) == 2:
            found.append(_matmul(index, node, shapes, consumers, results))
        elif node.op_type == "Gemm":
            entry = _gemm(index, node, shapes)
            if entry is not None:
                found.append(entry)
        elif node.op_type == "Conv":
            entry = _conv(index, node, shapes)
            if entry is not None:
                found.append(entry)
    return found


def _matmul(
    index: int,
    node: onnx.NodeProto,
    shapes: Mapping[str, tuple[int, ...]],
    consumers: Mapping[str, list[onnx.NodeProto]],
    results: set[str],
) -> OnnxOperator:
    bias, output = None, node.output[0]
    users = consumers.get(output, [])
    columns = shapes[node.input[1]][1]
    if len(users) == 1 and users[0].op_type == "Add" and output not in results:
        other = next(name for name in users[0].input if name != output)
        shape = shapes.get(other)
        # A bias with more axes could raise the rank of the result.
        if shape == (columns,):
            bias, output = other, users[0].output[0]
    return OnnxOperator(
        name=node.name,
        kind="linear",
        node=index,
        input=node.input[0],
        weight=node.input[1],
        bias=bias,
        output=output,
        transposed=True,
    )


def _gemm(
    index: int, node: onnx.NodeProto, shapes: Mapping[str, tuple[int, ...]]
) -> OnnxOperator | None:
    found = attributes(node)
    plain = found.get("alpha", 1.0) == 1.0 and found.get("beta", 1.0) == 1.0
    if not plain or found.get("transA", 0):
        return None
    bias = node.input[2] if len(node.input) > 2 and node.input[2] else None
    rows = shapes[node.input[1]][0 if found.get("transB", 0) else 1]
    if bias is not None and shapes.get(bias) not in ((rows,), (1, rows)):
        return None
    return OnnxOperator(
        name=node.name,
        kind="linear",
        node=index,
        input=node.input[0],
        weight=node.input[1],
        bias=bias,
        output=node.output[0],
        transposed=not found.get("transB", 0),
    )


def _conv(
    index: int, node: onnx.NodeProto, shapes: Mapping[str, tuple[int, ...]]
) -> OnnxOperator | None:
    found = attributes(node)
    spatial = len(shapes[node.input[1]]) - 2
    if spatial not in (1, 2) or found.get("auto_pad", "NOTSET") not in ("NOTSET", ""):
        return None
    bias = node.input[2] if len(node.input) > 2 and node.input[2] else None
    if bias is not None and bias not in shapes:
        return None
    pads = list(found.get("pads", [0] * (2 * spatial)))
    if pads[:spatial] != pads[spatial:]:
        # torch's layers pad both ends alike; `normalize` gives such a one a Pad node.
        return None
    return OnnxOperator(
        name=node.name,
        kind="conv",
        node=index,
        input=node.input[0],
        weight=node.input[1],
        bias=bias,
        output=node.output[0],
        stride=tuple(found.get("strides", [1] * spatial)),
        padding=tuple(zip(pads[:spatial], pads[spatial:], strict=True)),
        dilation=tuple(found.get("dilations", [1] * spatial)),
        groups=int(found.get("group", 1)),
    )


def replace_weights(
    model: onnx.ModelProto, weights: Mapping[str, Array]
) -> onnx.ModelProto:
    """The same model (changed in place) with other weights, by operator name."""
    from onnx import helper, numpy_helper

    dtypes = {
        t.name: helper.tensor_dtype_to_np_dtype(t.data_type)
        for t in model.graph.initializer
    }
    for entry in find_operators(model):
        if entry.name not in weights:
            continue
        array = np.asarray(weights[entry.name])
        stored = np.ascontiguousarray(array.T if entry.transposed else array)
        stored = stored.astype(dtypes[entry.weight])
        name = f"{entry.name}.replaced"
        model.graph.initializer.append(numpy_helper.from_array(stored, name))
        model.graph.node[entry.node].input[1] = name
    return model
