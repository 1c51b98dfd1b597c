"""Scales of every granularity and rule, against loops written for reading."""

from __future__ import annotations

import math

import numerics_oracles as oracles
import numpy as np
import pytest
import torch

from harness.numerics import FORMATS, decode, encode, quantize


def rng(seed=0):
    """A generator of this file's data."""
    return np.random.default_rng(seed)


def mx_scale(amax, name, rule):
    """The scale of one block by the specification's formula, in Python numbers."""
    element = FORMATS[FORMATS[name].element]
    if amax == 0:
        return 2.0**-127
    log = math.floor(math.log2(amax))
    power = {
        "floor": log - element.emax,
        "ceil": math.ceil(math.log2(amax)) - element.emax,
        "rceil": math.ceil(math.log2(amax / element.max)),
        "even": math.floor(
            math.log2(math.ldexp(round_half_up(amax, log, element.mantissa), log))
        )
        - element.emax,
    }[rule]
    return 2.0 ** min(max(power, -127), 127)


def round_half_up(amax, log, mantissa):
    """The significand of amax, rounded to the element's mantissa bits."""
    steps = math.ldexp(amax, -log + mantissa)
    return math.floor(steps + 0.5) / 2**mantissa


@pytest.mark.parametrize("rule", ["floor", "ceil", "rceil", "even"])
@pytest.mark.parametrize("name", [n for n in oracles.BLOCKS if n != "nvfp4"])
def test_mx_scales_by_the_formula(name, rule):
    """Every block's scale is the rule's, also around powers of two."""
    amax = np.concatenate(
        [
            np.exp2(rng().uniform(-30, 30, 200)),
            np.exp2(np.arange(-20, 20)),
            np.nextafter(np.exp2(np.arange(-20, 20)).astype(np.float32), np.float32(0)),
            FORMATS[name].max * np.exp2(np.arange(-9, 9)),
            [0.0],
        ]
    ).astype(np.float32)
    x = np.zeros((amax.size, 32), np.float32)
    x[:, 5] = -amax

    made = quantize(x, name, rule=rule)
    double = quantize(x.astype(np.float64), name, rule=rule)

    wanted = [mx_scale(float(a), name, rule) for a in amax]
    assert made.scales[:, 0].tolist() == wanted
    assert double.scales[:, 0].tolist() == wanted


def test_nvfp4_by_hand():
    """Scales are amax / (6 * 448) and e4m3(amax_b / 6 / it); codes e2m1(x / both)."""
    x = rng(1).standard_normal((4, 64)).astype(np.float32)

    made = quantize(x, "nvfp4")

    tensor = np.float32(np.abs(x).max() / (6 * 448))
    amax = np.abs(x).reshape(4, 4, 16).max(-1)
    scales = decode(encode(amax / np.float32(6) / tensor, "fp8_e4m3"), "fp8_e4m3")
    total = np.repeat(scales * tensor, 16, axis=1)
    assert made.global_scale == float(tensor)
    assert np.array_equal(made.scales, scales)
    assert np.array_equal(made.codes, encode(x / total, "fp4_e2m1"))
    assert np.array_equal(made.dequantize(), decode(made.codes, "fp4_e2m1") * total)


def test_four_over_six_is_never_worse():
    """Each block's error is at most that of the plain choice."""
    x = rng(2).standard_normal((32, 64)).astype(np.float32)
    made = quantize(x, "nvfp4", rule="4over6")
    plain = quantize(x, "nvfp4", global_scale=made.global_scale)

    def error(q):
        return ((q.dequantize() - x) ** 2).reshape(32, 4, 16).sum(-1)

    assert (error(made) <= error(plain) * (1 + 1e-6)).all()
    assert (made.scales != plain.scales).any()


@pytest.mark.parametrize(
    ("options", "groups"),
    [
        ({"axis": None}, (0, 1, 2)),
        ({"axis": -1}, (2,)),
        ({"axis": 1}, (1,)),
        ({"axis": (1, 2)}, (1, 2)),
        ({"axis": (0, 2)}, (0, 2)),
        ({"axis": (0, 1)}, (0, 1)),
    ],
)
@pytest.mark.parametrize("name", ["fp8_e4m3", "int8", "int4", "nf4"])
def test_whole_axes_share(name, options, groups):
    """One scale for each position of the other axes: amax over the axis / max."""
    x = rng(3).standard_normal((3, 5, 7)).astype(np.float32)

    made = quantize(x, name, **options)

    amax = np.abs(x).max(axis=groups, keepdims=True)
    assert np.array_equal(made.scales, amax / np.float32(FORMATS[name].max))
    assert np.array_equal(made.codes, encode(x / made.scales, name))


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("name", ["int4", "mxfp4", "nvfp4", "mxfp8_e4m3"])
def test_blocks_along_any_axis(name, axis):
    """Blocks along an axis are blocks along the last one of the moved tensor."""
    x = rng(4).standard_normal((40, 33, 50)).astype(np.float32)
    block = 32 if name == "int4" else None

    made = quantize(x, name, axis=axis, block=block)
    moved = quantize(np.moveaxis(x, axis, -1).copy(), name, block=block)

    assert np.array_equal(np.moveaxis(made.codes, axis, -1), moved.codes)
    assert np.array_equal(np.moveaxis(made.scales, axis, -1), moved.scales)
    assert np.array_equal(np.moveaxis(made.dequantize(), axis, -1), moved.dequantize())


def test_boxes():
    """block=(m, n) has one scale for each box, the last ones smaller."""
    x = rng(5).standard_normal((2, 130, 200)).astype(np.float32)

    made = quantize(x, "fp8_e4m3", block=(128, 128))

    assert made.scales.shape == (2, 2, 2)
    assert made.scales[1, 1, 0] == np.abs(x[1, 128:, :128]).max() / np.float32(448)
    assert np.array_equal(
        made.codes[1, 128:, 128:],
        encode(x[1, 128:, 128:] / made.scales[1, 1, 1], "fp8_e4m3"),
    )


@pytest.mark.parametrize("name", oracles.BLOCKS)
def test_a_tail_is_a_smaller_block(name):
    """The last values of a row that does not fill a block are a block of their own."""
    x = rng(6).standard_normal((3, 44)).astype(np.float32)
    tensor = 1.0 if name == "nvfp4" else None
    size = FORMATS[name].block

    made = quantize(x, name, global_scale=tensor)
    tail = quantize(x[:, 44 // size * size :], name, global_scale=tensor)

    assert np.array_equal(made.scales[:, -1:], tail.scales)
    assert np.array_equal(made.codes[:, 44 // size * size :], tail.codes)


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("shape", [(0,), (3, 0), (0, 4), (2, 0, 5)])
def test_empty(name, shape):
    """An empty tensor stays empty."""
    made = quantize(np.zeros(shape, np.float32), name)

    assert made.codes.shape == made.dequantize().shape == shape
    assert made.pack() == b""


@pytest.mark.parametrize("name", [n for n in FORMATS if n != "fp8_e8m0"])
def test_zeros_stay_zeros(name):
    """All-zero groups decode to zeros; every scale is positive and finite."""
    made = quantize(np.zeros((2, 48), np.float32), name)

    assert np.isfinite(made.scales).all()
    assert (made.scales > 0).all()
    assert not made.dequantize().any()


@pytest.mark.parametrize("name", [n for n in FORMATS if n != "fp8_e8m0"])
def test_nan_stays_in_its_group(name):
    """NaN is kept where the element has one, else it takes its group; no other."""
    x = rng(7).standard_normal((4, 64)).astype(np.float32)
    clean = quantize(x, name)
    x[1, 3] = np.nan
    given = clean.global_scale if FORMATS[name].kind == "block" else None

    values = quantize(x, name, global_scale=given).dequantize()

    nan = np.isnan(values)
    assert nan[1, 3]
    size = FORMATS[name].block or 64
    assert not nan[[0, 2, 3]].any()
    assert not nan[1, size:].any()
    if FORMATS[made_of(name)].nan_code is not None:
        assert nan.sum() == 1
    else:
        assert nan[1, :size].all()


def made_of(name):
    """The element of a format."""
    return FORMATS[name].element or name


@pytest.mark.parametrize("name", ["fp8_e4m3", "int8", "mxfp4", "nvfp4"])
def test_inf_saturates_and_does_not_scale(name):
    """Inf becomes the group's largest value; the scale is that of the finite ones."""
    x = rng(8).standard_normal((2, 32)).astype(np.float32)
    x[0, 0] = 0
    clean = quantize(x, name)
    x[0, 0] = np.inf

    made = quantize(x, name)

    assert np.array_equal(made.scales, clean.scales)
    assert np.array_equal(made.codes[:, 1:], clean.codes[:, 1:])
    assert decode(made.codes, made.element)[0, 0] == FORMATS[name].max


@pytest.mark.parametrize("name", ["int8", "int4", "uint8", "uint4"])
@pytest.mark.parametrize("block", [None, 32])
def test_zero_points_cover_the_range(name, block):
    """With zero points the error is at most half a step, and zero is exact."""
    x = (rng(9).standard_normal((5, 64)) + 3).astype(np.float32)
    x[0, 0] = 0

    made = quantize(x, name, symmetric=False, block=block)
    values = made.dequantize()

    assert values[0, 0] == 0
    assert made.zero_points.dtype == np.int32
    # The zero point is rounded: the ends of the range move by at most half a step.
    assert (np.abs(values - x) <= made.expanded_scales() * 1.0001).all()


def test_symmetric_integers():
    """int8 uses amax / 127, int4 amax / 7; "full" amax / 127.5; uint8 the middle."""
    x = np.array([[-2.0, 1.0]], np.float32)

    assert quantize(x, "int8").scales[0, 0] == np.float32(2) / np.float32(127)
    assert quantize(x, "int4").scales[0, 0] == np.float32(2) / np.float32(7)
    assert quantize(x, "int8", rule="full").scales[0, 0] == np.float32(2 / 127.5)
    assert quantize(x, "uint8").zero_points.tolist() == [[128]]
    assert np.array_equal(
        quantize(x, "uint4").dequantize(), quantize(x, "int4").dequantize()
    )


def test_static_scales():
    """Given scales are used as they are; what is beyond them saturates."""
    x = np.array([[1.0, 1000.0]], np.float32)

    made = quantize(x, "fp8_e4m3", scale=0.5)
    points = quantize(x, "uint8", scale=1.0, zero_point=3)

    assert made.dequantize().tolist() == [[1.0, 224.0]]
    assert points.codes.tolist() == [[4, 255]]
    assert points.dequantize().tolist() == [[1.0, 252.0]]


def test_power_of_two_scales():
    """The rule "pow2" rounds the scale up to a power of two, and keeps one that is."""
    x = np.array([[448.0], [449.0], [0.0]], np.float32)

    assert quantize(x, "fp8_e4m3", rule="pow2").scales.ravel().tolist() == [1, 2, 1]


def test_sixteen_bits_are_cast():
    """fp16 and bf16 have the scale 1."""
    x = rng(10).standard_normal((3, 4)).astype(np.float32)

    assert np.array_equal(quantize(x, "fp16").dequantize(), x.astype(np.float16))


def test_float64_is_not_rounded_to_float32_first():
    """A quotient just above a tie, seen only in float64, goes up."""
    x = np.array([[448.0, 17.0 * (1 + 2.0**-40)]])

    assert quantize(x, "fp8_e4m3").dequantize()[0, 1] == 18
    assert quantize(x.astype(np.float32), "fp8_e4m3").dequantize()[0, 1] == 16


@pytest.mark.parametrize("name", ["fp8_e4m3", "int4", "mxfp4", "nvfp4"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_torch_gives_what_numpy_gives(name, dtype):
    """Tensors in, tensors out, on the same device, with the same bits."""
    x = torch.from_numpy(rng(11).standard_normal((3, 64)).astype(np.float32)).to(dtype)

    made = quantize(x, name)
    ours = quantize(x.float().numpy(), name)

    assert isinstance(made.codes, torch.Tensor)
    assert made.codes.device == made.scales.device == x.device
    assert np.array_equal(made.codes.numpy(), ours.codes)
    assert np.array_equal(made.dequantize().numpy(), ours.dequantize())
    assert made.pack() == ours.pack()


@pytest.mark.quant_gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
@pytest.mark.parametrize("name", ["fp8_e4m3", "mxfp4", "nvfp4"])
def test_cuda_gives_what_the_cpu_gives(name):
    """A tensor on a CUDA device is quantized to tensors on that device."""
    x = torch.randn(64, 128, generator=torch.Generator().manual_seed(0))

    made = quantize(x.cuda(), name)

    assert made.codes.is_cuda
    assert torch.equal(made.codes.cpu(), quantize(x, name).codes)
    assert torch.equal(made.dequantize().cpu(), quantize(x, name).dequantize())


def test_rounding_modes_reach_the_elements():
    """Truncation never increases a magnitude; the stochastic mode repeats its seed."""
    x = rng(12).standard_normal((4, 64)).astype(np.float32)

    cut = quantize(x, "mxfp4", rounding="toward_zero").dequantize()
    drawn = quantize(x, "mxfp4", rounding="stochastic", seed=5)

    assert (np.abs(cut) <= np.abs(x)).all()
    assert np.array_equal(
        drawn.codes, quantize(x, "mxfp4", rounding="stochastic", seed=5).codes
    )
