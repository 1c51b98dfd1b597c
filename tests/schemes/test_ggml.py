"""The rule "ggml": tensors as llama.cpp makes them, and nothing else by that name."""

from __future__ import annotations

import numpy as np
import pytest

from harness.errors import UsageError
from harness.models.types import Operator
from harness.schemes.apply import quantize_activation, quantize_weight
from harness.schemes.catalogue import scheme_from_table
from harness.schemes.ggml import KINDS, quantize_ggml
from harness.schemes.types import TensorScheme

ASK = {"format": "int8", "granularity": "block", "block": 32, "rule": "ggml"}
RNG = np.random.default_rng(7)


def tensor(fmt):
    block = 32 if fmt.startswith("int") else None
    return TensorScheme(format=fmt, granularity="block", block=block, rule="ggml")


@pytest.mark.parametrize("fmt", KINDS)
def test_weights_are_ggml_s_own(fmt):
    """Decoded, they are what the gguf package makes of them."""
    gguf = pytest.importorskip("gguf")
    table = {k: v for k, v in {**ASK, "format": fmt}.items() if k != "block"}
    if fmt.startswith("int"):
        table["block"] = 32
    scheme = scheme_from_table("s", {"weights": table})
    weight = RNG.normal(size=(5, 128)).astype(np.float32)
    operator = Operator(name="a", kind="linear", weight=weight)
    found = quantize_weight(operator, scheme).dequantize()
    assert np.abs(found - weight).max() < 0.6
    kind = gguf.GGMLQuantizationType[KINDS[fmt]]
    if fmt == "nvfp4":
        # The package only decodes it: what is decoded is decoded alike.
        from harness.numerics.layouts.gguf import write_gguf

        data = write_gguf(quantize_weight(operator, scheme), "NVFP4")
    else:
        data = gguf.quants.quantize(weight, kind)

    assert np.array_equal(found, gguf.quants.dequantize(data, kind))


def test_inputs_are_blocks_of_their_own():
    """A row of zeros stays zeros; NaN and Inf make their block NaN, and no other."""
    scheme = scheme_from_table("s", {"weights": ASK, "activations": ASK})
    operator = Operator(name="a", kind="linear", weight=np.ones((2, 64), np.float32))
    x = RNG.normal(size=(4, 64)).astype(np.float32)
    x[0], x[1, 3], x[2, 40] = 0, np.nan, np.inf
    found = quantize_activation(operator, x, scheme).dequantize()

    assert (found[0] == 0).all()
    assert np.isnan(found[1, :32]).all()
    assert np.isfinite(found[1, 32:]).all()
    assert np.isnan(found[2, 32:]).all()
    assert np.abs(found[3] - x[3]).max() < 0.02


def test_a_nudge_moves_only_codes_on_the_edge():
    """The scales stay; a code moves where the quotient is next to a half."""
    x = RNG.normal(size=(8, 320)).astype(np.float32)
    plain = quantize_ggml(x, tensor("int8"))
    near = quantize_ggml(x, tensor("int8"), nudge=1 + 2**-22)
    far = quantize_ggml(x, tensor("int8"), nudge=1.01)

    assert np.array_equal(plain.scales, near.scales)
    assert (plain.codes != near.codes).mean() < 1e-3
    assert (plain.codes != far.codes).mean() > 0.1


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({**ASK, "format": "fp8_e4m3"}, "rule 'ggml' is for int8, int4"),
        ({**ASK, "block": 64}, "blocks of 32"),
        ({"format": "int8", "granularity": "channel", "rule": "ggml"}, "blocks of 32"),
        ({**ASK, "dynamic": False}, "found from them"),
    ],
)
def test_what_no_type_holds_is_refused(table, message):
    """With the file's key, and what the type has."""
    with pytest.raises(UsageError, match=message):
        scheme_from_table("s", {"weights": table})
