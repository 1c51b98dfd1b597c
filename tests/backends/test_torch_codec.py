"""torch's own rounding, packing and scales, against the oracle's numerics."""

from __future__ import annotations

import numpy as np
import pytest

from harness.errors import UnsupportedError
from harness.numerics import FORMATS, decode, encode, quantize

torch = pytest.importorskip("torch")
codec = pytest.importorskip("harness.backends.torch_codec")

ELEMENTS = ["fp8_e4m3", "fp8_e5m2", "fp8_e4m3fnuz", "fp8_e5m2fnuz"]
ELEMENTS += ["fp4_e2m1", "fp8_e1m6"]
BLOCKS = ["mxfp8_e4m3", "mxfp8_e5m2", "mxfp4", "nvfp4", "bfp16"]


def every_half():
    """Every finite float16, as float32."""
    values = np.arange(65536, dtype=np.uint16).view(np.float16)
    return values[np.isfinite(values)].astype(np.float32)


@pytest.mark.parametrize("element", [*ELEMENTS, "int8", "int4"])
def test_every_half_rounds_as_the_oracle_rounds_it(element):
    """To nearest, ties to even, saturating; exhaustive."""
    x = every_half()
    wanted = decode(encode(x, element, overflow="saturate"), element)
    found = codec.round_element(torch.from_numpy(x), element).numpy()

    assert np.array_equal(found, wanted)


@pytest.mark.parametrize("element", ELEMENTS)
def test_middles_between_codes_go_to_the_even_one(element):
    """And one float32 to either side of the middle to the nearer one."""
    codes = np.arange(2 ** FORMATS[element].bits, dtype=np.uint8)
    grid = np.unique(decode(codes, element).astype(np.float64))
    grid = grid[np.isfinite(grid)]
    middle = ((grid[1:] + grid[:-1]) / 2).astype(np.float32)
    up, down = np.nextafter(middle, np.inf), np.nextafter(middle, -np.inf)
    x = np.concatenate([middle, up, down]).astype(np.float32)

    wanted = decode(encode(x, element, overflow="saturate"), element)
    assert np.array_equal(codec.round_element(torch.from_numpy(x), element), wanted)


def adversarial(rng):
    """Rows of 70: plain, an outlier a block, zeros, tiny, amax on a power of two."""
    rows = rng.standard_normal((12, 70)).astype(np.float32)
    rows[1, ::16] *= 300
    rows[2] = 0
    rows[3] *= 1e-30
    rows[4, ::32] = 8.0
    rows[5, :40] = 0
    rows[6] = 6.0
    rows[7] *= np.exp2(rng.integers(-20, 20, 70)).astype(np.float32)
    rows[8] = -0.0
    return rows


@pytest.mark.parametrize("axis", [0, 1, -1])
@pytest.mark.parametrize("fmt", BLOCKS)
def test_blocks_round_as_the_oracle_rounds_them(fmt, axis):
    """Scales, elements and a tail that does not fill a block, along any axis."""
    x = adversarial(np.random.default_rng(3))
    x = x if axis else np.ascontiguousarray(x.T)
    scale = np.float32(0.01) if fmt == "nvfp4" else None
    wanted = quantize(x, fmt, axis=axis, global_scale=scale).dequantize()
    found = codec.blocked_round(
        torch.from_numpy(x),
        size=FORMATS[fmt].block,
        axis=axis,
        fmt=fmt,
        tensor_scale=float(scale or 1.0),
    )

    assert np.array_equal(found.numpy(), wanted)


@pytest.mark.parametrize("length", [0, 1, 2, 7, 32])
@pytest.mark.parametrize("element", ["fp4_e2m1", "int4"])
def test_packing_keeps_every_code(element, length):
    """Two a byte, the low nibble first; an odd tail is padded and cut again."""
    codes = (np.arange(3 * length, dtype=np.uint8) % 16).reshape(3, length)
    packed = codec.pack(torch.from_numpy(codes), element)
    found = codec.unpack(packed, element, length).numpy()

    assert packed.shape == (3, (length + 1) // 2)
    assert np.array_equal(found, decode(codes, element))
    if length > 1:
        assert int(packed[0, 0]) == codes[0, 0] | codes[0, 1] << 4


def test_a_code_of_eight_bits_is_a_byte():
    """Every code decodes to what the oracle decodes it to, its sign of zero too."""
    codes = np.arange(256, dtype=np.uint8)
    packed = codec.pack(torch.from_numpy(codes), "fp8_e1m6")
    found = codec.unpack(packed, "fp8_e1m6", 256).numpy()

    assert packed.shape == (256,)
    assert found.tobytes() == decode(codes, "fp8_e1m6").tobytes()


@pytest.mark.parametrize("name", ["nf4", "int4", "fp4_e2m1"])
def test_codes_of_four_bits_are_two_a_byte(name):
    """Each of the 16 decodes to what the oracle decodes it to."""
    codes = np.arange(16, dtype=np.uint8)
    packed = codec.pack(torch.from_numpy(codes), name)
    found = codec.unpack(packed, name, 16).numpy()

    assert packed.shape == (8,)
    assert np.array_equal(found, decode(codes, name))


def test_powers_of_two_at_every_exponent():
    """floor(log2(amax)) - emax, from the smallest subnormal to the largest float32."""
    exponents = np.arange(-149, 128)
    amax = np.exp2(exponents.astype(np.float64)).astype(np.float32)
    for value in (amax, np.nextafter(amax, np.float32(np.inf))):
        found = codec.floor_power(torch.from_numpy(value), 8).numpy()
        finite = np.isfinite(value)
        # Below the smallest normal, the next float is a power or more further on.
        power = np.floor(np.log2(value[finite].astype(np.float64))) - 8
        assert np.array_equal(found[finite], np.exp2(np.clip(power, -127, 127)))


def test_a_scale_of_zeros_is_one():
    """Nothing is divided by zero."""
    found = codec.scale_of(torch.tensor([0.0, 448.0]), "fp8_e4m3")

    assert found.tolist() == [1.0, 1.0]


@pytest.mark.parametrize("name", ["nf4", "fp6_e2m3", "nothing"])
def test_what_is_not_computed_here_is_refused(name):
    """By name, and never rounded in some other way."""
    with pytest.raises(UnsupportedError, match=name):
        codec.round_element(torch.zeros(1), name)
    with pytest.raises(UnsupportedError, match=name):
        codec.largest(name)
    with pytest.raises(UnsupportedError, match=name):
        codec.block_element(name)
