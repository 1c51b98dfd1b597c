"""Q4_K and Q8_K: every byte of a super-block, and ggml's own choices."""

from __future__ import annotations

import ctypes
import hashlib

import gguf
import numpy as np
import pytest
from gguf import GGMLQuantizationType

from harness.errors import NumericsError
from harness.numerics.layouts import Q4K, quantize_gguf, read_gguf, write_gguf

Q4_K_NUMBER = 12
Q8_K = np.dtype([("d", "<f4"), ("codes", "i1", 256), ("sums", "<i2", 16)])
SUB_BLOCKS = range(8)


def block(**parts):
    """One super-block, uint8 (1, 144), from fields by name; zeros for the rest."""
    made = np.zeros(144, np.uint8)
    for at, name in ((0, "d"), (2, "dmin")):
        made[at : at + 2] = np.array([parts.get(name, 1)], "<f2").view(np.uint8)
    made[4:16], made[16:] = parts.get("packed", 0), parts.get("codes", 0)
    return made[None]


def packed(steps, minimums):
    """Twelve bytes from eight scales and eight minimums, written bit by bit."""
    bits = np.zeros((12, 8), np.uint8)

    def put(value, places):
        for index, (byte, bit) in enumerate(places):
            bits[byte, bit] = value >> index & 1

    for j in range(4):
        put(steps[j], [(j, bit) for bit in range(6)])
        put(minimums[j], [(4 + j, bit) for bit in range(6)])
        upper = [(j, 6), (j, 7)]
        put(steps[4 + j], [(8 + j, bit) for bit in range(4)] + upper)
        upper = [(4 + j, 6), (4 + j, 7)]
        put(minimums[4 + j], [(8 + j, bit) for bit in range(4, 8)] + upper)
    return np.packbits(bits, axis=1, bitorder="little")[:, 0]


def theirs(blocks):
    """As the gguf package decodes it."""
    with np.errstate(all="ignore"):
        return gguf.quants.dequantize(blocks, GGMLQuantizationType.Q4_K)


@pytest.fixture(scope="module")
def c():
    """The functions of ggml that the library shows."""
    pytest.importorskip("xllamacpp", reason="needs the extra llamacpp")
    from harness.backends.llama_cpp_library import library

    return library().c


@pytest.mark.parametrize("at", SUB_BLOCKS)
def test_all_scales_and_minimums_of_every_place(at):
    """64 by 64 of them, the other places full or empty: none reads another's bits."""
    for others in (0, 63):
        for step in range(64):
            rows = []
            for minimum in range(64):
                steps, minimums = [others] * 8, [others] * 8
                steps[at], minimums[at] = step, minimum
                rows.append(block(packed=packed(steps, minimums), codes=0x31))
            made = read_gguf(np.concatenate(rows), "Q4_K")
            wanted = np.full((64, 8), others)
            wanted[:, at] = step
            assert np.array_equal(made.steps, wanted)
            wanted[:, at] = range(64)
            assert np.array_equal(made.minimums, wanted)
            assert np.array_equal(write_gguf(made, "Q4_K"), np.concatenate(rows))
            assert np.array_equal(made.dequantize(), theirs(np.concatenate(rows)))


def test_every_code_in_every_place():
    """A byte's low nibble is of one sub-block, its high one of the next."""
    for place in range(128):
        rows = np.repeat(block(packed=packed([1] * 8, [0] * 8)), 256, axis=0)
        rows[:, 16 + place] = range(256)
        found = read_gguf(rows, "Q4_K").dequantize()
        first = place // 32 * 64 + place % 32

        assert np.array_equal(found[:, first], np.arange(256) & 15)
        assert np.array_equal(found[:, first + 32], np.arange(256) >> 4)
        found[:, [first, first + 32]] = 0
        assert not found.any()


@pytest.mark.parametrize("field", ["d", "dmin"])
def test_every_float16(field):
    """Subnormals, both zeros, Inf and NaN decode as in the gguf package."""
    scales = packed(range(0, 64, 8), range(63, -1, -8))
    rows = np.repeat(block(packed=scales, codes=0xF0), 1 << 16, axis=0)
    at = 2 * (field == "dmin")
    rows[:, at : at + 2] = np.arange(1 << 16, dtype="<u2")[:, None].view(np.uint8)
    made = read_gguf(rows, "Q4_K")
    found = made.dequantize()

    assert np.array_equal(found, theirs(rows), equal_nan=True)
    finite = (np.isfinite(made.d) & np.isfinite(made.dmin))[:, 0]
    assert np.array_equal(np.isfinite(found).all(axis=1), finite)
    kept = read_gguf(rows[finite], "Q4_K")
    assert np.array_equal(write_gguf(kept, "Q4_K"), rows[finite])


def test_ggml_decodes_alike(c):
    """Its own function, on random bytes."""
    rows = np.random.default_rng(2).integers(0, 256, (64, 144)).astype(np.uint8)
    found = np.zeros((64, 256), np.float32)
    decode = c.dequantize_row_q4_K
    decode.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64]
    decode.restype = None
    decode(rows.ctypes.data, found.ctypes.data, found.size)

    assert np.array_equal(read_gguf(rows, "Q4_K").dequantize(), found, equal_nan=True)


def samples():
    """Rows of several kinds, (name, float32 (rows, 1024))."""
    draw = np.random.default_rng(5)
    normal = draw.standard_normal((8, 1024)).astype(np.float32)
    odd = normal.copy()
    odd[:, ::3] = 0
    odd[0], odd[1, :512], odd[2, :512] = 0, 0.25, -0.25
    odd[3, :256] = np.repeat(draw.standard_normal(8), 32)
    odd[4, :32] *= 1000
    odd[5] *= np.float32(1e-7)
    odd[6] = draw.integers(-3, 4, 1024)
    yield "normal", normal
    yield "positive", np.exp(normal)
    yield "negative", -np.exp(normal)
    yield "heavy tails", draw.standard_t(2, (8, 1024)).astype(np.float32)
    sizes = 10.0 ** draw.integers(-7, 4, (8, 1))
    yield "FP16 of many sizes", (normal * sizes).astype(np.float16).astype(np.float32)
    yield "zeros, equal values, outliers", odd
    yield "whole numbers", everywhere_the_same()


def everywhere_the_same():
    """float32 (16, 1024) out of whole numbers, whatever the processor and NumPy."""
    index = np.arange(16 * 1024, dtype=np.uint64)
    draws = [(index * factor) % 65521 for factor in (2654435761, 40503, 69069)]
    whole = sum(draw.astype(np.int64) for draw in draws) - 3 * 32760
    sizes = np.repeat(2.0 ** -np.arange(16, 32), 1024)
    return (whole * sizes).astype(np.float32).reshape(16, 1024)


SAMPLES = dict(samples())
#: SHA-256 of the bytes that ggml wrote for it.
DIGEST = "1d2ca34c404ec538a8f97fc737d49da443fd7fab197df2cb3d68c48025d05659"


@pytest.mark.parametrize("name", SAMPLES)
def test_bytes_are_those_of_ggml(c, name):
    """Scales, minimums and codes of its quantizer without an importance matrix."""
    x = SAMPLES[name]
    chunk = c.ggml_quantize_chunk
    pointer, count = ctypes.c_void_p, ctypes.c_int64
    chunk.argtypes = [ctypes.c_int, pointer, pointer, count, count, count, pointer]
    chunk.restype = ctypes.c_size_t
    found = np.zeros((len(x), x.shape[1] // 256 * 144), np.uint8)
    chunk(Q4_K_NUMBER, x.ctypes.data, found.ctypes.data, 0, *x.shape, None)

    assert np.array_equal(write_gguf(quantize_gguf(x, "Q4_K"), "Q4_K"), found)


def test_bytes_are_those_that_ggml_wrote():
    """The same, where the library is not installed."""
    made = write_gguf(quantize_gguf(everywhere_the_same(), "Q4_K"), "Q4_K")

    assert hashlib.sha256(made.tobytes()).hexdigest() == DIGEST


def by_definition(row):
    """Q8_K of 256 values, element by element: codes, scale."""
    largest = np.float32(0)
    for value in row:
        if abs(value) > abs(largest):
            largest = value
    if not largest:
        return [0] * 256, np.float32(0)
    inverse = np.float32(-127) / largest
    return [int(np.rint(value * inverse)) for value in row], 1 / inverse


def inputs():
    """Rows with ties, halves, zeros, and both signs of the largest magnitude."""
    x = np.random.default_rng(6).standard_normal((16, 256)).astype(np.float32)
    x[0] = 0
    x[1, 3], x[1, 9] = 9, -9
    x[2, 3], x[2, 9] = -9, 9
    for row, sign in ((3, 1), (4, -1)):
        x[row] = np.linspace(-60, 60, 256).round() + 0.5
        x[row, 100] = 127 * sign
    x[5] *= np.float32(1e-20)
    return x


def test_q8_k_by_its_definition():
    """The first value of largest magnitude is -127; halves to even."""
    made = quantize_gguf(inputs(), "Q8_K")
    for row, codes, scale in zip(inputs(), made.codes, made.scales, strict=True):
        wanted, unit = by_definition(row)
        assert codes.view(np.int8).tolist() == wanted
        assert scale == unit


@pytest.mark.parametrize("name", ["quantize_row_q8_K", "quantize_row_q8_K_ref"])
def test_q8_k_is_ggml_s(c, name):
    """Codes and scales of its functions, the one for this processor and the plain."""
    x = inputs()
    found = np.zeros(len(x), Q8_K)
    function = getattr(c, name)
    function.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64]
    function.restype = None
    function(x.ctypes.data, found.ctypes.data, x.size)
    made = quantize_gguf(x, "Q8_K")

    assert np.array_equal(made.codes.view(np.int8), found["codes"])
    assert np.array_equal(made.scales[:, 0], found["d"])


def test_q8_k_of_four_rows_at_once_has_the_same_values(c):
    """Where both signs have the largest magnitude it may take the other one."""
    function = c.ggml_quantize_mat_q8_K_4x8
    function.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64]
    function.restype = None
    four = np.dtype([("d", "<f4", 4), ("codes", "i1", 1024), ("sums", "<i2", 64)])
    for x in inputs().reshape(4, 4, 256):
        found = np.zeros(1, four)
        function(x.ctypes.data, found.ctypes.data, 256)
        codes = found["codes"].reshape(32, 4, 8).swapaxes(0, 1).reshape(4, 256)
        values = codes.astype(np.float32) * found["d"].T

        assert np.array_equal(quantize_gguf(x, "Q8_K").dequantize(), values)


def test_numbers_too_small_for_a_reciprocal_are_zero():
    """As in ggml, where -127 over them is infinite."""
    made = quantize_gguf(np.full((1, 256), 1e-41, np.float32), "Q8_K")

    assert not made.dequantize().any()


def test_what_does_not_fit_is_refused():
    """With what would."""
    x = np.ones((2, 256), np.float32)
    with pytest.raises(NumericsError, match=r"shape=\(2, 192\).*blocks of 256"):
        quantize_gguf(x[:, :192], "Q4_K")
    with pytest.raises(NumericsError, match="beyond float16"):
        write_gguf(quantize_gguf(x * np.float32(1e10), "Q4_K"), "Q4_K")
    made = quantize_gguf(x, "Q4_K")
    assert isinstance(made, Q4K)
    made.steps[0, 0] = 64
    with pytest.raises(NumericsError, match="six bits"):
        write_gguf(made, "Q4_K")
    with pytest.raises(NumericsError, match="GGUF type 'Q8_K'"):
        write_gguf(quantize_gguf(x, "Q8_K"), "Q8_K")
    with pytest.raises(NumericsError, match="cannot be written as Q4_0"):
        write_gguf(made, "Q4_0")
