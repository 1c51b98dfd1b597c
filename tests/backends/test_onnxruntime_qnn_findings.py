"""Where QNN's HTP simulator does not compute what its graph says: bare repros.

Each test states what the ONNX specification asks for and is expected to fail. One that
passes fails the suite (strict): then the engine has been mended, and the entry in
docs/deviations.md goes. Measured with onnxruntime-qnn 2.7.0 on x86-64.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("onnxruntime_qnn", reason="onnxruntime-qnn: extra qnn")

#: A process each.
pytestmark = pytest.mark.quant_slow

SCRIPT = Path(__file__).with_name("qnn_bare.py")
#: The NPU of a Snapdragon X Elite.
X_ELITE = {"soc_model": "60"}


def deviates(reason):
    """A test of what should be, on an engine of which it is known that it is not."""
    return pytest.mark.xfail(
        strict=True, raises=AssertionError, reason=f"onnxruntime-qnn 2.7.0: {reason}"
    )


def ask(*requests):
    """The answers of one fresh process, as float32 arrays."""
    found = subprocess.run(
        [sys.executable, SCRIPT],
        input=json.dumps(requests),
        capture_output=True,
        text=True,
        timeout=120,
    )
    if found.returncode:
        raise RuntimeError(found.stderr[-2000:])
    rows = found.stdout.rpartition("ANSWERS ")[2]
    return [np.array(answer, np.float32) for answer in json.loads(rows)]


def times_one(values, **more):
    """Each value, a row of its own, multiplied by the weight 1."""
    column = [[v if np.isfinite(v) else str(v)] for v in map(float, values)]
    return {"x": column, "w": [[1.0]], **more}


def codes(values, result_scale, **more):
    """Integer codes times the weight 1, rounded to another scale."""
    return times_one(values, scales=[1.0, 1.0, result_scale], **more)


def test_without_a_processor_floats_are_float32():
    """What is not found fault with: 1 + 2^-12 comes back."""
    (found,) = ask(times_one([1 + 2.0**-12]))

    assert found.item() == np.float32(1 + 2.0**-12)


def test_integer_products_are_right_where_scales_agree():
    """What is not found fault with: every INT8 code times 1, at the same scale."""
    every = np.arange(-127, 128)

    (found,) = ask(codes(every, 1.0, type="int8"))

    assert np.array_equal(found[:, 0], every)


@deviates("a Quantize and the Dequantize after it are dropped inside its graph")
def test_what_the_graph_rounds_is_rounded():
    """-4.75 in INT8 of scale 1 is -5; the product is a float one."""
    (found,) = ask(times_one([4.75], rounded=1.0))

    assert found.item() == -5


@deviates("INT8 results are scaled by a coarse factor: -127 / 1.7 gives -74")
def test_int8_results_are_the_nearest_codes():
    """-127 / 1.7 is -74.7, so -75."""
    (found,) = ask(codes([-127], 1.7, type="int8"))

    assert found.item() == -75


@deviates("middles between two INT8 codes are rounded up, not to the even one")
def test_middles_between_int8_codes_go_to_the_even_one():
    """-3 / 2 is in the middle of -2 and -1, -2 is even."""
    (found,) = ask(codes([-3, -1, 1, 3], 2.0, type="int8"))

    assert [-2, 0, 0, 2] == found[:, 0].tolist()


@deviates("products of 16-bit inputs lose their last 8 bits: 192 * 1 gives 0")
def test_int16_results_are_the_nearest_codes():
    """At the same scale every code times 1 is itself."""
    (found,) = ask(codes([192, 8240], 1.0, type="int16"))

    assert [192, 8240] == found[:, 0].tolist()


@deviates("as an X Elite, FP16 results are a last bit of float32 too large")
def test_one_times_one_is_one():
    """Exact in every float format."""
    (found,) = ask(times_one([1.0], options=X_ELITE))

    assert found.item() == 1


@deviates("as an X Elite, NaN, Inf and -Inf are all multiplied as 131008")
def test_what_is_not_finite_stays_so():
    """NaN times 1 is NaN, -Inf is -Inf."""
    (found,) = ask(times_one([np.nan, np.inf, -np.inf], options=X_ELITE))

    assert np.array_equal(found[:, 0], [np.nan, np.inf, -np.inf], equal_nan=True)


@deviates("as an X Elite, a middle between two FP16 numbers is rounded away from zero")
def test_middles_between_fp16_numbers_go_to_the_even_one():
    """1 + 2^-11 is in the middle of 1 and 1 + 2^-10."""
    (found,) = ask(times_one([1 + 2.0**-11], options=X_ELITE))

    assert abs(found.item() - 1) < 2.0**-20


@deviates("a session without a processor is given the one that an earlier one named")
def test_a_session_does_not_change_the_next_one():
    """Asked for float32 after another session was an X Elite."""
    _, found = ask(times_one([1.0], options=X_ELITE), times_one([1 + 2.0**-12]))

    assert found.item() == np.float32(1 + 2.0**-12)


@deviates("an option that does not exist is taken without a word")
def test_an_unknown_option_is_refused():
    """A misspelt option would otherwise be the default in its name."""
    refused = False
    try:
        ask(times_one([1.0], options={"no_such_option": "1"}))
    except RuntimeError:
        refused = True

    assert refused
