"""Where ModelOpt's quantizer of ONNX files does what it should not, we say so.

Measured with 0.47.0. Each test states what should be, and is expected to fail.
"""

from __future__ import annotations

import importlib.util
import subprocess
import sys

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import helper

from harness.schemes.modelopt_quantizer import IMPORTS
from tests.models.graphs import model, random

MISSING = [name for name in IMPORTS if importlib.util.find_spec(name) is None]
pytestmark = [
    pytest.mark.quant_slow,
    pytest.mark.skipif(bool(MISSING), reason=f"not installed: {MISSING}"),
]

#: In a process of its own: what it changes stays changed.
CALL = """
import sys
import numpy as np
from onnxruntime.quantization.calibrate import HistogramCalibrater, MinMaxCalibrater
from modelopt.onnx.quantization import quantize

before = HistogramCalibrater.collect_data, MinMaxCalibrater.merge_range
x = np.random.default_rng(0).standard_normal((16, 32)).astype(np.float32)
quantize(sys.argv[1], quantize_mode=sys.argv[2], calibration_data={"x": x},
         calibration_eps=["cpu"], high_precision_dtype="fp32", output_path=sys.argv[3],
         block_size=16 if sys.argv[2] == "int4" else None)
after = HistogramCalibrater.collect_data, MinMaxCalibrater.merge_range
print("unchanged" if before == after else "changed")
"""


def called(tmp_path, mode, transposed, rows="N"):
    """Its file of a Gemm, and the last line that was printed."""
    weight = random(24, 32) if transposed else random(32, 24)
    node = helper.make_node("Gemm", ["x", "w"], ["y"], name="fc", transB=transposed)
    proto = model([node], {"x": [None, 32]}, {"y": [None, 24]}, {"w": weight})
    if rows:
        for value in (proto.graph.input[0], proto.graph.output[0]):
            value.type.tensor_type.shape.dim[0].dim_param = rows
    proto.ir_version = 10
    onnx.save(proto, tmp_path / "model.onnx")
    made = tmp_path / "made.onnx"
    done = subprocess.run(
        [sys.executable, "-c", CALL, tmp_path / "model.onnx", mode, made],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
    )
    assert not done.returncode, done.stderr[-200:]
    return made, done.stdout.splitlines()[-1]


@pytest.mark.xfail(
    strict=True,
    raises=AssertionError,
    reason="ModelOpt 0.47 names the outputs' axis",
)
def test_four_bits_of_a_transposed_gemm_run(tmp_path):
    """Scales of blocks of inputs, (24, 2), belong to axis 1 of a weight (24, 32)."""
    made, _ = called(tmp_path, "int4", 1)

    (node,) = (n for n in onnx.load(made).graph.node if n.op_type == "DequantizeLinear")
    axis = next(a.i for a in node.attribute if a.name == "axis")
    scales = next(
        t for t in onnx.load(made).graph.initializer if t.name == node.input[1]
    )

    assert (list(scales.dims), axis) == ([24, 2], 1)


def test_four_bits_of_a_gemm_run(tmp_path):
    """The same with the weight the other way round, so the form is known."""
    made, _ = called(tmp_path, "int4", 0)

    onnxruntime.InferenceSession(made).run(None, {"x": np.zeros((16, 32), np.float32)})


@pytest.mark.xfail(
    strict=True,
    raises=AssertionError,
    reason="ModelOpt 0.47 replaces ONNX Runtime's methods",
)
def test_onnx_runtime_s_quantizer_is_what_it_was(tmp_path):
    """What others quantize afterwards in the same process is not ModelOpt's doing."""
    assert called(tmp_path, "int8", 0)[1] == "unchanged"


@pytest.mark.xfail(
    strict=True,
    raises=AssertionError,
    reason="ModelOpt 0.47 compares None with a number",
)
def test_dimensions_without_a_name_are_dynamic_too(tmp_path):
    """ONNX leaves it open whether an unknown dimension has a name."""
    assert called(tmp_path, "int4", 0, rows=None)[0].exists()
