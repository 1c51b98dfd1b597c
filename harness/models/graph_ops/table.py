"""All operators that torch runs here, by ONNX name; adding one is adding an entry.

Semantics: the ONNX operator specification, opset 21 and later (earlier models are
raised to it). What a name is not found for is not run: see `GraphModule`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from harness.models.graph_ops.common import Op
from harness.models.graph_ops.elementwise import ELEMENTWISE
from harness.models.graph_ops.layers import LAYERS
from harness.models.graph_ops.reductions import REDUCTIONS
from harness.models.graph_ops.shapes import SHAPES

#: ONNX operator -> how torch computes it.
OPS: Final[Mapping[str, Op]] = {**ELEMENTWISE, **LAYERS, **REDUCTIONS, **SHAPES}
