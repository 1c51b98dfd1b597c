"""Where Quark's operators leave what they promise: repros that need only Quark.

Each test that is expected to fail (strict) states what should be; see
docs/deviations.md. The others hold the rest of the operators to the numerics, bit for
bit. Measured with amd-quark 0.13, its library for ONNX Runtime's CPU provider. What
needs Quark runs in its environment, a process each, because some of it ends there.
"""

from __future__ import annotations

import os
import subprocess
import textwrap

import numpy as np
import pytest

from harness.backends.quark_backend import QuarkBackend
from harness.environments import interpreter, variables
from harness.numerics import FORMATS, quantize

REASON = QuarkBackend().probe().reason
pytestmark = [
    pytest.mark.skipif(bool(REASON), reason=f"quark: {REASON}"),
    pytest.mark.quant_slow,
]

#: Opens a session of one operator; `op` runs it once. Needs nothing of ours.
PRELUDE = """
import sys
import numpy as np
import onnxruntime
from onnx import helper
from quark.onnx import get_library_path

MX = {"axis": -1, "block_size": 32, "scale_dtype": "e8m0", "rounding_mode": 2}
BFP = {"axis": -1, "block_size": 8, "bfp_method": "to_bfp", "bit_width": 16,
       "rounding_mode": 2}

def opened(kind, rank=2, **attributes):
    node = helper.make_node(kind, ["x"], ["y"], domain="com.amd.quark", **attributes)
    value = [helper.make_tensor_value_info(n, 1, [None] * rank) for n in "xy"]
    graph = helper.make_graph([node], "g", value[:1], value[1:])
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("com.amd.quark", 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
    options = onnxruntime.SessionOptions()
    options.register_custom_ops_library(get_library_path("CPU"))
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )

def op(x, kind, **attributes):
    return opened(kind, x.ndim, **attributes).run(None, {"x": x})[0]

def bfp16(x):
    return op(x, "BFPQuantizeDequantize", **BFP)

def mx(x, element):
    return op(x, "MXQuantizeDequantize", element_dtype=element, **MX)
"""


def deviates(reason):
    """Expected to fail by what is found, not by a repro that does not run."""
    return pytest.mark.xfail(
        strict=True, raises=AssertionError, reason=f"amd-quark 0.13: {reason}"
    )


def run(script, folder, *, survives=False, **arrays):
    """Run a script after the prelude, `given` holding arrays; what it puts in `got`.

    `survives`: whether the process lives is what is tested.
    """
    np.savez(folder / "given.npz", **arrays)
    text = f"{PRELUDE}\ngiven = dict(np.load('given.npz'))\ngot = {{}}\n"
    text += textwrap.dedent(script) + "\nnp.savez('got.npz', **got)\n"
    (folder / "repro.py").write_text(text)
    done = subprocess.run(
        [interpreter("quark"), "repro.py"],
        cwd=folder,
        env={**os.environ, **variables("quark"), "PYTHONPATH": ""},
        capture_output=True,
        text=True,
        timeout=120,
    )
    if survives:
        assert done.returncode >= 0, f"killed by signal {-done.returncode}"
    if done.returncode:
        raise RuntimeError(done.stderr)
    with np.load(folder / "got.npz") as found:
        return dict(found)


def exact(x, fmt):
    """What the numerics make of it."""
    return quantize(x, fmt).dequantize()


def adversarial(fmt):
    """Rows with every value, every middle, its neighbours; random bits; tails."""
    element = FORMATS[FORMATS[fmt].element]
    size = FORMATS[fmt].block
    grid = np.unique(np.abs(element.decoded[np.isfinite(element.decoded)]))
    middle = ((grid[1:].astype(np.float64) + grid[:-1]) / 2).astype(np.float32)
    beside = [np.nextafter(middle, np.float32(to)) for to in (0, np.inf)]
    values = np.concatenate([grid, middle, *beside])
    values = np.concatenate([values, -values])
    count = -(-len(values) // (size - 1))
    blocks = np.resize(values, (count, size - 1))
    top = np.resize(2.0**element.emax * np.array([1, 1.5, 1.9375, 1.999]), count)
    blocks = np.column_stack([blocks, top]).astype(np.float32)
    ties = np.concatenate([np.ldexp(blocks, e) for e in (-90, -20, -1, 0, 1, 20, 90)])
    rng = np.random.default_rng(0)
    bits = rng.integers(0, 2**32, (4000, size), dtype=np.uint32) & 0x807FFFFF
    power = rng.integers(40, 250, (4000, 1)) - rng.integers(0, 12, (4000, size))
    wild = (bits | (power.astype(np.uint32) << 23)).view(np.float32)
    # Half of them with few bits, so that many lie on a middle.
    wild[::2] = (wild[::2].view(np.uint32) & 0xFFF80000).view(np.float32)
    tail = rng.standard_normal((100, 2 * size + 13)).astype(np.float32)
    return {
        "ties": ties.astype(np.float32),
        "wild": wild,
        "tail": tail,
        "zeros": np.zeros((2, size), np.float32),
    }


ELEMENTS = {
    "mxfp8_e4m3": "fp8_e4m3",
    "mxfp8_e5m2": "fp8_e5m2",
    "mxfp6_e3m2": "fp6_e3m2",
    "mxfp6_e2m3": "fp6_e2m3",
    "mxfp4": "fp4_e2m1",
}


@pytest.mark.parametrize("fmt", ELEMENTS)
def test_mx_is_that_of_the_numerics(fmt, tmp_path):
    """Every value is; only the sign of what becomes zero is not kept."""
    given = adversarial(fmt)
    script = f"got = {{n: mx(x, '{ELEMENTS[fmt]}') for n, x in given.items()}}"

    found = run(script, tmp_path, **given)

    for name, x in given.items():
        np.testing.assert_array_equal(found[name], exact(x, fmt), err_msg=name)


def test_bfp16_is_that_of_the_numerics(tmp_path):
    """Every value is; only the sign of what becomes zero is not kept."""
    given = adversarial("bfp16")

    found = run("got = {n: bfp16(x) for n, x in given.items()}", tmp_path, **given)

    for name, x in given.items():
        np.testing.assert_array_equal(found[name], exact(x, "bfp16"), err_msg=name)


@deviates("one element is handed through")
def test_a_tensor_of_one_element_is_rounded(tmp_path):
    """0.3 is no value of FP4 with a power of two as its scale."""
    x = np.full((1, 1), 0.3, np.float32)

    found = run("got['y'] = mx(given['x'], 'fp4_e2m1')", tmp_path, x=x)["y"]

    assert exact(x, "mxfp4").tolist() == found.tolist()


@deviates("scales below 2**-127")
def test_a_scale_is_one_that_e8m0_holds(tmp_path):
    """The smallest scale is 2**-127, so nothing below half of 2**-128 is left."""
    x = np.full((1, 32), 2.0**-130, np.float32)

    found = run("got['y'] = mx(given['x'], 'fp4_e2m1')", tmp_path, x=x)["y"]

    assert exact(x, "mxfp4").tolist() == found.tolist()


@deviates("Inf stays Inf in every format")
def test_infinity_is_no_fp4(tmp_path):
    """FP4 has no infinity: what is decoded is a number, or NaN by the block's scale."""
    x = np.ones((1, 32), np.float32)
    x[0, 3] = np.inf

    found = run("got['y'] = mx(given['x'], 'fp4_e2m1')", tmp_path, x=x)["y"]

    assert not np.isinf(found).any()


@deviates("-0 becomes 0")
def test_minus_zero_keeps_its_sign(tmp_path):
    """Every float element has a minus zero."""
    x = np.float32([[-0.0, 1.0]])

    found = run("got['y'] = mx(given['x'], 'fp4_e2m1')", tmp_path, x=x)["y"]

    assert np.signbit(exact(x, "mxfp4")[0]).tolist() == np.signbit(found[0]).tolist()


@deviates("convert_to_bfloat_before_bfp writes its input")
def test_an_input_is_not_written_to(tmp_path):
    """Not the caller's array, nor what other nodes read."""
    x = np.random.default_rng(0).standard_normal((2, 8)).astype(np.float32)
    script = """
    x = given["x"]
    op(x, "BFPQuantizeDequantize", convert_to_bfloat_before_bfp=1, **BFP)
    got["x"] = x
    """

    found = run(script, tmp_path, x=x)["x"]

    np.testing.assert_array_equal(x, found)


@deviates("buffers of a call belong to the session")
def test_two_threads_share_a_session(tmp_path):
    """A session of ONNX Runtime may be run by several at once."""
    script = """
    import threading

    session = opened("MXQuantizeDequantize", element_dtype="fp4_e2m1", **MX)
    draw = np.random.default_rng(0).standard_normal
    inputs = [draw((64, 64)).astype(np.float32) for _ in range(2)]
    wanted = [session.run(None, {"x": x})[0] for x in inputs]
    wrong = []

    def work(i):
        for _ in range(5000):
            found = session.run(None, {"x": inputs[i]})[0]
            if not np.array_equal(found, wanted[i]):
                wrong.append(i)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    got["wrong"] = np.array(len(wrong))
    """

    assert 0 == int(run(script, tmp_path, survives=True)["wrong"])


@deviates("abort() in the kernel")
def test_an_unknown_element_is_an_error(tmp_path):
    """Raised when the session is opened or run; the process goes on."""
    script = """
    try:
        mx(np.ones((1, 32), np.float32), "fp4")
    except Exception:
        got["raised"] = np.array(1)
    """

    assert 1 == int(run(script, tmp_path, survives=True)["raised"])
