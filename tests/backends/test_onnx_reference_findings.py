"""Where onnx's own evaluator leaves the specification: repros that need only onnx.

Each test states what should be and is expected to fail (strict); see
docs/deviations.md. Measured with 1.23.2.
"""

from __future__ import annotations

import numpy as np
import pytest
from onnx import helper, numpy_helper
from onnx.reference import ReferenceEvaluator


@pytest.mark.xfail(
    strict=True, reason="onnx 1.23.2: QuantizeLinear to INT8 overflows int32 first"
)
@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")
def test_a_large_number_saturates():
    """1e30 is beyond the range, so it gets 127."""
    graph = helper.make_graph(
        [helper.make_node("QuantizeLinear", ["x", "s", "z"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", 1, [1])],
        [helper.make_tensor_value_info("y", 3, [1])],
        [
            numpy_helper.from_array(np.float32(1), "s"),
            numpy_helper.from_array(np.int8(0), "z"),
        ],
    )
    opset = [helper.make_opsetid("", 21)]
    model = helper.make_model(graph, opset_imports=opset)

    found = ReferenceEvaluator(model).run(None, {"x": np.float32([1e30])})[0]

    assert [127] == found.tolist()


@pytest.mark.xfail(
    strict=True, reason="onnx 1.23.2: GatherElements goes through numpy.choose"
)
def test_more_than_64_entries_are_gathered_from():
    """The entry with that index, however many there are."""
    values = [("x", 1, [1, 65, 1]), ("i", 7, [1, 65, 1])]
    graph = helper.make_graph(
        [helper.make_node("GatherElements", ["x", "i"], ["y"], axis=1)],
        "g",
        [helper.make_tensor_value_info(*value) for value in values],
        [helper.make_tensor_value_info("y", 1, [1, 65, 1])],
    )
    opset = [helper.make_opsetid("", 21)]
    model = helper.make_model(graph, opset_imports=opset)
    x = np.arange(65, dtype=np.float32).reshape(1, 65, 1)
    index = np.arange(65)[::-1].reshape(1, 65, 1).copy()

    found = ReferenceEvaluator(model).run(None, {"x": x, "i": index})[0]

    assert found.ravel().tolist() == x.ravel()[::-1].tolist()
