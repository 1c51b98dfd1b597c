"""Bare graphs in QNN, for tests: `python qnn_bare.py` reads requests as JSON.

In a process of their own, because what the plugin's first session names stays with it.

A request is `{"x": rows, "w": rows, "options": {...}}` for a float MatMul; with
`"scales": [of x, of w, of the result]` and `"type": "int8"` or `"int16"`, x and w are
codes and the graph is Q/DQ: the codes of the result are printed. With `"rounded"`, a
scale, x is negated, rounded to INT8 of that scale and multiplied by w as floats. "nan",
"inf" and "-inf" are texts, both ways.
"""

from __future__ import annotations

import json
import sys

import numpy as np
import onnxruntime
import onnxruntime_qnn
from onnx import helper, numpy_helper

QNN = "QNNExecutionProvider"
node = helper.make_node


def session(nodes, tensors, x, w, options):
    """A graph from `x` to `y`; raises unless QNN runs the product."""
    ends = [("x", x.shape), ("y", (x.shape[0], w.shape[1]))]
    values = [helper.make_tensor_value_info(name, 1, shape) for name, shape in ends]
    given = [numpy_helper.from_array(np.asarray(v), k) for k, v in tensors.items()]
    graph = helper.make_graph(nodes, "g", values[:1], values[1:], given)
    opset = [helper.make_opsetid("", 21)]
    model = helper.make_model(graph, opset_imports=opset, ir_version=10)
    settings = onnxruntime.SessionOptions()
    settings.log_severity_level = 3
    settings.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    devices = [d for d in onnxruntime.get_ep_devices() if d.ep_name == QNN]
    settings.add_provider_for_devices(devices, {"backend_type": "htp"} | options)
    made = onnxruntime.InferenceSession(model.SerializeToString(), settings)
    taken = [
        n.op_type
        for part in made.get_provider_graph_assignment_info()
        if part.ep_name == QNN
        for n in part.get_nodes()
    ]
    assert "MatMul" in taken or "Gemm" in taken, taken
    return made


def answer(request):
    """Rows of the result."""
    x, w = (np.array(request[name], np.float32) for name in "xw")
    options = request.get("options", {})
    if "rounded" in request:
        tensors = {"s": np.float32(request["rounded"]), "z": np.int8(0), "w": w}
        nodes = [
            node("Neg", ["x"], ["n"]),
            node("QuantizeLinear", ["n", "s", "z"], ["c"]),
            node("DequantizeLinear", ["c", "s", "z"], ["d"]),
            node("MatMul", ["d", "w"], ["y"]),
        ]
        return session(nodes, tensors, x, w, options).run(None, {"x": x})[0]
    if "scales" not in request:
        found = session([node("MatMul", ["x", "w"], ["y"])], {"w": w}, x, w, options)
        return found.run(None, {"x": x})[0]
    kind = np.dtype(request["type"]).type
    sx, sw, sy = (np.float32(s) for s in request["scales"])
    tensors = {"sx": sx, "sw": sw, "sy": sy, "z": kind(0), "zw": np.int8(0)}
    nodes = [
        node("QuantizeLinear", ["x", "sx", "z"], ["xc"]),
        node("DequantizeLinear", ["xc", "sx", "z"], ["xd"]),
        node("DequantizeLinear", ["wc", "sw", "zw"], ["wd"]),
        node("MatMul", ["xd", "wd"], ["p"]),
        node("QuantizeLinear", ["p", "sy", "z"], ["pc"]),
        node("DequantizeLinear", ["pc", "sy", "z"], ["y"]),
    ]
    made = session(nodes, tensors | {"wc": w.astype(np.int8)}, x, w, options)
    return np.rint(made.run(None, {"x": x * sx})[0] / sy)


if __name__ == "__main__":
    onnxruntime.register_execution_provider_library(
        QNN, onnxruntime_qnn.get_library_path()
    )
    answers = [answer(request) for request in json.load(sys.stdin)]
    rows = [[[str(v) for v in row] for row in found] for found in answers]
    # The plugin writes to standard output as well.
    sys.stdout.write("ANSWERS " + json.dumps(rows))
