"""The properties: ours has them all; quantizers with a known mistake do not."""

from __future__ import annotations

import dataclasses
import json
import re
import zlib

import numpy as np
import pytest

from harness.errors import PluginError
from harness.numerics import decode, encode, quantize
from harness.properties import (
    PROPERTIES,
    Quantizer,
    check,
    load_quantizers,
    own_quantizers,
)

OWN = own_quantizers()


@pytest.mark.parametrize("entry", PROPERTIES.values(), ids=lambda entry: entry.name)
@pytest.mark.parametrize("name", ["fp8_e4m3", "mxfp4", "nvfp4", "int4"])
def test_ours_has_every_property(name, entry):
    """Under the profile of the gate; suites/numerics has all formats."""
    check(OWN[name], entry)


@dataclasses.dataclass
class Answer:
    """What a quantizer returns, to be spoilt."""

    codes: np.ndarray
    scales: np.ndarray
    values: np.ndarray
    bytes_: bytes
    global_scale: float = 1.0

    def dequantize(self):
        """The values."""
        return self.values

    def pack(self):
        """The bytes."""
        return self.bytes_


def answer(x, fmt):
    """Ours, taken apart."""
    q = quantize(x, fmt)
    return Answer(
        codes=np.array(q.codes),
        scales=np.array(q.scales, np.float32),
        values=np.array(q.dequantize()),
        bytes_=bytes(q.pack()),
        global_scale=float(q.global_scale),
    )


def spread(a, x):
    """Every element's scale."""
    size = -(-x.shape[1] // a.scales.shape[1]) if x.shape[1] else 1
    block = 32 if a.scales.shape[1] > 1 else max(size, 1)
    total = np.repeat(a.scales, block, axis=1)[:, : x.shape[1]]
    return total.astype(np.float64)


def truncating(x):
    """FP8 rounded toward zero instead of to nearest."""
    a = answer(x, "fp8_e4m3")
    total = spread(a, x)
    a.codes = encode(x / total, "fp8_e4m3", rounding="toward_zero", overflow="saturate")
    a.values = (decode(a.codes, "fp8_e4m3") * total).astype(np.float32)
    return a


def block_off_by_one(x):
    """Each block but the first decoded with the scale of the block before it."""
    a = answer(x, "mxfp4")
    a.scales[:, 1:] = a.scales[:, :-1].copy()
    a.values = (decode(a.codes, "fp4_e2m1") * spread(a, x)).astype(np.float32)
    return a


def swapped_nibbles(x):
    """The first of two codes in the high nibble."""
    a = answer(x, "mxfp4")
    raw = np.frombuffer(a.bytes_, np.uint8)
    a.bytes_ = ((raw << 4) | (raw >> 4)).astype(np.uint8).tobytes()
    return a


def fnuz_read_as_fn(x):
    """Codes of E4M3FNUZ decoded as E4M3."""
    a = answer(x, "fp8_e4m3fnuz")
    a.values = (decode(a.codes, "fp8_e4m3") * spread(a, x)).astype(np.float32)
    return a


def subnormals_flushed(x):
    """Values below the smallest normal become zero."""
    a = answer(x, "fp8_e4m3")
    small = (a.codes & 0x78) == 0
    a.codes[small] &= 0x80
    a.values[small] = np.copysign(0, a.values[small])
    return a


def reciprocal_scale(x):
    """Stored scales are those that x was multiplied by."""
    a = answer(x, "mxfp4")
    a.scales = (1 / a.scales).astype(np.float32)
    return a


WRONG = {
    truncating: ("fp8_e4m3", "nearest", None),
    block_off_by_one: ("mxfp4", "nearest", 64),
    swapped_nibbles: ("mxfp4", "packs", 32),
    fnuz_read_as_fn: ("fp8_e4m3fnuz", "codes_mean_values", None),
    subnormals_flushed: ("fp8_e4m3", "nearest", None),
    reciprocal_scale: ("mxfp4", "codes_mean_values", 32),
}


@pytest.mark.parametrize("wrong", WRONG, ids=lambda wrong: wrong.__name__)
def test_a_wrong_quantizer_fails_with_a_small_example(wrong):
    """One known mistake each; what is printed is at most a block long."""
    fmt, name, block = WRONG[wrong]
    entry = PROPERTIES[name]
    if block == 64:
        entry = dataclasses.replace(entry, needs="grid")

    with pytest.raises(AssertionError) as caught:
        check(Quantizer(wrong.__name__, fmt, wrong), entry)

    shown = re.search(r"x=(\[\[.*?\]\])", str(caught.value))
    assert shown
    example = np.array(json.loads(shown[1]))
    assert example.shape[0] == 1
    # Two blocks where one must stand beside another, but values in one of them only.
    assert np.count_nonzero(example) <= (block or 8) // (2 if block == 64 else 1)
    assert example.size <= (block or 32)


def test_every_property_can_fail():
    """A quantizer that returns noise has none of them but the shapes."""

    def noise(x):
        a = answer(x, "mxfp4")
        draw = np.random.default_rng(zlib.crc32(x.tobytes()))
        a.codes = draw.integers(0, 16, x.shape).astype(np.uint8)
        a.scales = np.exp2(draw.integers(-40, 40, a.scales.shape)).astype(np.float32)
        a.values = draw.standard_normal(x.shape).astype(np.float32)
        a.bytes_ = a.bytes_[::-1] + b"x"
        return a

    passed = []
    for entry in PROPERTIES.values():
        try:
            check(Quantizer("noise", "mxfp4", noise), entry)
        except AssertionError:
            continue
        passed.append(entry.name)
    assert [] == passed


PLUGIN = """\
from harness.numerics import quantize
from harness.properties import Quantizer

def register(registry):
    registry.add_quantizer(Quantizer("mine", "mxfp4", lambda x: quantize(x, "mxfp4")))
"""


def test_a_plugin_brings_its_own_quantizer(tmp_path):
    """Then only that one is tested."""
    file = tmp_path / "mine.py"
    file.write_text(PLUGIN)

    assert ["mine"] == list(load_quantizers([str(file)]))
    assert set(OWN) == set(load_quantizers([]))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("def register(registry): pass", "no quantizer was registered"),
        ("def register(registry): registry.add_quantizer(3)", "no harness.properties"),
        ("x = 1", "no function register"),
    ],
)
def test_a_plugin_without_a_quantizer_says_so(tmp_path, text, message):
    """Nothing would be tested; that is no pass."""
    file = tmp_path / "mine.py"
    file.write_text(text)

    with pytest.raises(PluginError, match=message):
        load_quantizers([str(file)])
