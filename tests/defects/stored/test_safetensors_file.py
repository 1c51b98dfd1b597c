"""Planting in safetensors files: compressed-tensors, ModelOpt, GPTQ."""

from __future__ import annotations

import contextlib
import json

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.defects import Planting
from harness.defects.stored import STORED, plant_safetensors
from harness.errors import ModelError, UnsupportedError, UsageError
from harness.judge.types import Verdict
from harness.numerics import quantize
from harness.numerics.layouts import (
    from_compressed_tensors,
    from_modelopt,
    to_compressed_tensors,
    to_modelopt,
)

DEFECTS = {defect.name: defect for defect in STORED}
ROWS, COLUMNS, HEAD = 32, 256, 8
STEMS = (
    "model.layers.0.self_attn.q_proj",
    "model.layers.0.mlp.up_proj",
    "model.layers.1.self_attn.q_proj",
    "model.layers.1.mlp.up_proj",
)
#: Convention and format -> how to write, how to read, how it is quantized.
KINDS = {
    "ct-fp8_e4m3": {"axis": 1},
    "ct-int8": {"axis": 1},
    "ct-int4": {"axis": 1, "block": 32},
    "ct-mxfp4": {},
    "ct-mxfp8_e4m3": {},
    "ct-nvfp4": {},
    "mo-fp8_e4m3": {"axis": 1},
    "mo-nvfp4": {},
    "gptq": {},
}
PARTS = {
    "codes": ("weight", "weight_packed", "qweight"),
    "scales": ("weight_scale", "scales"),
    "zeros": ("weight_zero_point", "qzeros"),
    "tensor_scale": ("weight_global_scale", "weight_scale_2"),
}


def make_weight(index):
    """No two scales alike."""
    rng = np.random.default_rng(index)
    weight = rng.standard_normal((ROWS, COLUMNS)) * np.exp(rng.normal(0, 1, (ROWS, 1)))
    weight *= np.exp(np.repeat(rng.normal(0, 1, (ROWS, COLUMNS // 32)), 32, axis=1))
    return weight.astype(np.float32)


def nibbles(array):
    """Eight 4-bit numbers a word, along the first axis, the lowest first."""
    words = array.reshape(-1, 8, array.shape[1]).astype(np.uint32)
    shifts = np.arange(0, 32, 4, dtype=np.uint32)[None, :, None]
    return (words << shifts).sum(axis=1, dtype=np.uint32).view(np.int32)


def to_gptq(weight):
    """Asymmetric 4-bit groups of 32, as GPTQ's second format stores them."""
    groups = weight.reshape(ROWS, -1, 32)
    low, high = np.minimum(groups.min(-1), 0), np.maximum(groups.max(-1), 0)
    scales = ((high - low) / 15).astype(np.float16).astype(np.float32)
    zeros = np.round(-low / scales).clip(0, 15)
    codes = np.round(groups / scales[..., None] + zeros[..., None]).clip(0, 15)
    return {
        "qweight": nibbles(codes.reshape(ROWS, -1).T),
        "qzeros": np.ascontiguousarray(nibbles(zeros).T),
        "scales": np.ascontiguousarray(scales.T.astype(np.float16)),
    }


def unnibble(words):
    """The inverse of `nibbles`."""
    shifts = np.arange(0, 32, 4, dtype=np.uint32)[None, :, None]
    codes = (words.view(np.uint32)[:, None, :] >> shifts) & 15
    return codes.reshape(-1, words.shape[1]).astype(np.float32)


def from_gptq(tensors):
    """float32 weight."""
    scales = tensors["scales"].astype(np.float32).T
    zeros = unnibble(np.ascontiguousarray(tensors["qzeros"].T))
    codes = unnibble(tensors["qweight"]).T.reshape(ROWS, -1, 32)
    values = (codes - zeros[..., None]) * scales[..., None]
    return values.reshape(ROWS, -1)


def tensors_of(kind, index):
    """The tensors of one weight."""
    weight = make_weight(index)
    if kind == "gptq":
        return to_gptq(weight)
    convention, _, fmt = kind.partition("-")
    quantized = quantize(weight, fmt, **{"axis": 1, **KINDS[kind]})
    return {"ct": to_compressed_tensors, "mo": to_modelopt}[convention](quantized)


def decoded(path, kind, stem):
    """What an engine reads."""
    header, body = split(path.read_bytes())
    types = {
        "F32": np.float32,
        "F16": np.float16,
        "F8_E4M3": ml_dtypes.float8_e4m3fn,
        "I64": np.int64,
        "I32": np.int32,
        "I8": np.int8,
        "U8": np.uint8,
    }
    found = {}
    for name, entry in header.items():
        if name.startswith(f"{stem}."):
            start, stop = entry["data_offsets"]
            raw = np.frombuffer(body[start:stop], types[entry["dtype"]])
            found[name.removeprefix(f"{stem}.")] = raw.reshape(entry["shape"])
    if kind == "gptq":
        return from_gptq(found)
    convention, _, fmt = kind.partition("-")
    read = {"ct": from_compressed_tensors, "mo": from_modelopt}[convention]
    return read(found, fmt).dequantize()


def split(data):
    """Header and tensors' bytes."""
    length = int.from_bytes(data[:8], "little")
    return json.loads(data[8 : 8 + length]), data[8 + length :]


def save(path, tensors):
    """Write, and the configuration beside it."""
    names = {
        "float32": "F32",
        "float16": "F16",
        "float8_e4m3fn": "F8_E4M3",
        "int64": "I64",
        "int32": "I32",
        "int8": "I8",
        "uint8": "U8",
    }
    header, body = {"__metadata__": {"format": "pt"}}, b""
    for name, array in tensors.items():
        raw = np.ascontiguousarray(array).tobytes()
        header[name] = {
            "dtype": names[array.dtype.name],
            "shape": list(array.shape),
            "data_offsets": [len(body), len(body) + len(raw)],
        }
        body += raw
    # A fixed place for the tensors, as the format's writers align them.
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(len(text).to_bytes(8, "little") + text + body)
    config = {"hidden_size": 32, "num_attention_heads": 32 // HEAD}
    path.with_name("config.json").write_text(json.dumps(config))


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A clean file of each kind."""
    found = {}
    for kind in KINDS:
        path = tmp_path_factory.mktemp(kind) / "model.safetensors"
        tensors = {
            f"{stem}.{name}": array
            for index, stem in enumerate(STEMS)
            for name, array in tensors_of(kind, index).items()
        }
        save(path, tensors)
        found[kind] = path
    return found


def allowed(data, touches, stems):
    """Which bytes a defect may change."""
    header, body = split(data)
    found = np.zeros(len(data), bool)
    base = len(data) - len(body)
    names = {name for part in touches for name in PARTS[part]}
    for name, entry in header.items():
        stem, _, last = name.rpartition(".")
        if stem in stems and last in names:
            start, stop = entry["data_offsets"]
            found[base + start : base + stop] = True
    return found


@given(
    kind=st.sampled_from(sorted(KINDS)),
    name=st.sampled_from(sorted(DEFECTS)),
    operator=st.sampled_from([None, STEMS[0], "*up_proj"]),
    level=st.sampled_from(["low", "catalogue", "high"]),
)
def test_a_planted_file_differs_only_where_declared(files, kind, name, operator, level):
    """Not a byte of the header, of another weight, or of another of its tensors."""
    defect, clean = DEFECTS[name], files[kind]
    out = clean.with_name("planted.safetensors")
    strength = getattr(defect.parameter, level)
    planting = Planting(defect=name, operator=operator, strength=strength)
    before = clean.read_bytes()
    try:
        planted = plant_safetensors(clean, out, defect, planting)
    except UnsupportedError:
        return

    found = np.frombuffer(before, np.uint8) != np.frombuffer(out.read_bytes(), np.uint8)
    assert clean.read_bytes() == before
    assert planted.bytes_changed == found.sum() > 0
    assert not (found & ~allowed(before, defect.touches, planted.names)).any()


#: What must fit: a planter that fits nothing would be caught for nothing.
FITS = {
    ("stored_nibbles_swapped", "ct-nvfp4"),
    ("stored_nibbles_swapped", "gptq"),
    ("stored_signs_flipped", "ct-fp8_e4m3"),
    ("stored_offset_missing", "ct-int4"),
    ("stored_scales_power_of_two", "ct-int8"),
    ("stored_tensor_scale_missing", "ct-nvfp4"),
    ("stored_tensor_scale_missing", "mo-nvfp4"),
    ("stored_tensor_scale_of_other", "mo-nvfp4"),
    ("stored_zero_points_missing", "gptq"),
    ("stored_zero_points_off_by_one", "gptq"),
    *(
        (f"stored_{name}", kind)
        for kind in KINDS
        for name in (
            "bytes_interleaved",
            "codes_off_by_one",
            "tail_unwritten",
            "scales_halved",
            "scales_shifted",
            "scales_of_other",
            "scales_missing",
            "scales_reciprocal",
            "rows_shifted",
            "rotary_order",
            "tensor_stale",
        )
    ),
}


@pytest.mark.parametrize("kind", sorted(KINDS))
@pytest.mark.parametrize("name", sorted(DEFECTS))
def test_every_planted_file_is_caught(files, verdict_of, tmp_path, kind, name):
    """At every strength; the weights beside it are as they were."""
    defect, out = DEFECTS[name], tmp_path / "planted.safetensors"
    p, stem = defect.parameter, STEMS[2]
    weight, fmt = make_weight(2), kind.partition("-")[2] or "int4"
    right = decoded(files[kind], kind, stem)
    assert verdict_of(right, right, weight, fmt) is Verdict.PASS
    for strength in sorted({p.low, p.catalogue, p.high}):
        out.unlink(missing_ok=True)
        planting = Planting(defect=name, operator=stem, strength=strength)
        fits = contextlib.nullcontext()
        if (name, kind) not in FITS:
            fits = contextlib.suppress(UnsupportedError)
        with fits:
            plant_safetensors(files[kind], out, defect, planting)
        if out.exists():
            wrong = decoded(out, kind, stem)
            assert verdict_of(right, wrong, weight, fmt) is Verdict.DEFECT


def test_a_factor_read_as_a_divisor_is_off_by_its_square(files, tmp_path):
    """As compressed-tensors and ModelOpt differ."""
    out = tmp_path / "planted.safetensors"
    planting = Planting(defect="stored_scales_reciprocal", operator=STEMS[0])
    plant_safetensors(
        files["mo-nvfp4"], out, DEFECTS["stored_scales_reciprocal"], planting
    )

    right = decoded(files["mo-nvfp4"], "mo-nvfp4", STEMS[0])
    wrong = decoded(out, "mo-nvfp4", STEMS[0])
    scale = tensors_of("mo-nvfp4", 0)["weight_scale_2"]
    assert np.allclose(wrong, right / scale**2, rtol=1e-5)


def test_without_a_configuration_no_head_is_known(files, tmp_path):
    """And no rotary order is planted."""
    path = tmp_path / "model.safetensors"
    path.write_bytes(files["ct-int8"].read_bytes())

    with pytest.raises(UnsupportedError, match="neither queries nor keys"):
        plant_safetensors(
            path, tmp_path / "out.safetensors", DEFECTS["stored_rotary_order"]
        )


@pytest.mark.parametrize(
    "data", [b"", b"\xff" * 16, (2).to_bytes(8, "little") + b"[]", b"\x02" + b"\0" * 9]
)
def test_what_is_no_safetensors_file_is_told(tmp_path, data):
    """Empty, cut short, or of another form."""
    path = tmp_path / "x.safetensors"
    path.write_bytes(data)

    with pytest.raises((ModelError, UsageError), match=r"x\.safetensors|no quantized"):
        plant_safetensors(path, tmp_path / "y", DEFECTS["stored_scales_nan"])
