"""The rule "ggml": tensors as llama.cpp makes them, and nothing else by that name."""

from __future__ import annotations

import numpy as np
import pytest

from harness.errors import NumericsError, UsageError
from harness.models.types import Operator
from harness.numerics.layouts import GGUF_TYPES, write_gguf
from harness.schemes.apply import quantize_activation, quantize_weight
from harness.schemes.catalogue import scheme_from_table
from harness.schemes.ggml import quantize_ggml
from harness.schemes.types import TensorScheme

ASK = {"format": "int8", "granularity": "block", "block": 32, "rule": "ggml"}
RNG = np.random.default_rng(7)


def tensor(block):
    return TensorScheme(format="int8", granularity="block", block=block, rule="ggml")


def table(fmt, group):
    """As a suite says it; block formats have their own blocks."""
    said = {"format": fmt, "granularity": "block", "rule": "ggml"}
    return said if fmt.endswith("fp4") else {**said, "block": group}


@pytest.mark.parametrize("kind", GGUF_TYPES)
def test_weights_are_ggml_s_own(kind):
    """Decoded, they are what the gguf package makes of them."""
    gguf = pytest.importorskip("gguf")
    made = GGUF_TYPES[kind]
    scheme = scheme_from_table("s", {"weights": table(made.format, made.group)})
    weight = RNG.normal(size=(5, 512)).astype(np.float32)
    operator = Operator(name="a", kind="linear", weight=weight)
    found = quantize_weight(operator, scheme)
    assert np.abs(found.dequantize() - weight).max() < 0.7
    number = gguf.GGMLQuantizationType[kind]
    if kind in ("NVFP4", "Q4_K"):
        # The package only decodes them: what is decoded is decoded alike.
        data = write_gguf(found, kind)
    else:
        data = gguf.quants.quantize(weight, number)

    assert np.array_equal(found.dequantize(), gguf.quants.dequantize(data, number))


@pytest.mark.parametrize("block", [32, 256])
def test_inputs_are_blocks_of_their_own(block):
    """A row of zeros stays zeros; NaN and Inf make their block NaN, and no other."""
    asked = {**ASK, "block": block}
    scheme = scheme_from_table("s", {"weights": ASK, "activations": asked})
    weight = np.ones((2, 2 * block), np.float32)
    operator = Operator(name="a", kind="linear", weight=weight)
    x = RNG.normal(size=(4, 2 * block)).astype(np.float32)
    x[0], x[1, 3], x[2, block + 8] = 0, np.nan, np.inf
    found = quantize_activation(operator, x, scheme).dequantize()

    assert (found[0] == 0).all()
    assert np.isnan(found[1, :block]).all()
    assert np.isfinite(found[1, block:]).all()
    assert np.isnan(found[2, block:]).all()
    assert np.abs(found[3] - x[3]).max() < 0.02


def test_a_weight_that_is_not_finite_is_not_written():
    """Its group decodes to NaN, and no file holds that."""
    weight = np.ones((2, 256), np.float32)
    weight[1, 40] = np.nan
    operator = Operator(name="a", kind="linear", weight=weight)
    scheme = scheme_from_table("s", {"weights": table("uint4", 32)})
    found = quantize_weight(operator, scheme)

    assert np.isnan(found.dequantize()[1, 32:64]).all()
    assert 32 == np.isnan(found.dequantize()).sum()
    with pytest.raises(NumericsError, match="not a number"):
        write_gguf(found, "Q4_K")


def test_rows_that_are_no_super_blocks():
    """What the width is, and what it should be."""
    operator = Operator(name="a", kind="linear", weight=np.ones((2, 576), np.float32))
    scheme = scheme_from_table("s", {"weights": table("uint4", 32)})

    with pytest.raises(NumericsError, match=r"\(2, 576\), but Q4_K has blocks of 256"):
        quantize_weight(operator, scheme)


@pytest.mark.parametrize("block", [32, 256])
def test_a_nudge_moves_only_codes_on_the_edge(block):
    """The scales stay; a code moves where the quotient is next to a half."""
    x = RNG.normal(size=(8, 1280)).astype(np.float32)
    plain = quantize_ggml(x, tensor(block))
    near = quantize_ggml(x, tensor(block), nudge=1 + 2**-22)
    far = quantize_ggml(x, tensor(block), nudge=1.01)

    assert np.array_equal(plain.scales, near.scales)
    assert (plain.codes != near.codes).mean() < 1e-3
    assert (plain.codes != far.codes).mean() > 0.1


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ({**ASK, "format": "fp8_e4m3"}, "rule 'ggml' is for int8, int4"),
        ({**ASK, "block": 64}, r"blocks of 32 \(Q8_0\) whose"),
        # llama.cpp makes it of inputs; no kernel multiplies such a weight.
        ({**ASK, "block": 256}, r"blocks of 32 \(Q8_0\) whose"),
        ({**ASK, "format": "uint4", "block": 256}, r"blocks of 32 \(Q4_K\) whose"),
        ({"format": "int8", "granularity": "channel", "rule": "ggml"}, "blocks of 32"),
        ({**ASK, "dynamic": False}, "found from them"),
    ],
)
def test_what_no_type_holds_is_refused(said, message):
    """With the file's key, and what the type has."""
    with pytest.raises(UsageError, match=message):
        scheme_from_table("s", {"weights": said})


def test_inputs_of_both_sizes_are_told():
    """For activations 256 is a block too."""
    with pytest.raises(UsageError, match=r"blocks of 32 \(Q8_0\) or 256 \(Q8_K\)"):
        scheme_from_table("s", {"weights": ASK, "activations": {**ASK, "block": 64}})


@pytest.mark.parametrize(
    ("block", "stands"), [(16, 32), (64, 32), (128, 32), (512, 256)]
)
def test_blocks_of_another_size_are_the_next_smaller_type_s(block, stands):
    """What imitates a mistake asks for them; a suite cannot."""
    x = RNG.normal(size=(3, 512)).astype(np.float32)
    found, wanted = (quantize_ggml(x, tensor(size)) for size in (block, stands))

    assert stands == found.block
    assert np.array_equal(found.dequantize(), wanted.dequantize())
