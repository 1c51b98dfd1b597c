"""Planting in GGUF files: only the declared bytes change, and the gate sees it."""

from __future__ import annotations

import contextlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.defects import Planting
from harness.defects.stored import STORED, plant_gguf
from harness.errors import ModelError, UnsupportedError, UsageError
from harness.judge.types import Verdict
from harness.numerics.layouts import quantize_gguf, read_gguf, write_gguf

DEFECTS = {defect.name: defect for defect in STORED}
ROWS, COLUMNS, HEAD = 32, 512, 8
NAMES = ("blk.0.attn_q", "blk.0.ffn_up", "blk.1.attn_q", "blk.1.ffn_up")
FORMATS = {"Q8_0": "int8", "Q4_0": "int4", "MXFP4": "mxfp4", "NVFP4": "nvfp4"}
#: From ggml-common.h, by hand: bytes of a block, and which are codes, scales, minimums.
BLOCKS = {
    "Q8_0": (34, {"scales": range(2), "codes": range(2, 34)}),
    "Q4_0": (18, {"scales": range(2), "codes": range(2, 18)}),
    "Q4_K": (
        144,
        {"scales": range(2), "zeros": range(2, 4), "codes": range(16, 144)},
    ),
    "MXFP4": (17, {"scales": range(1), "codes": range(1, 17)}),
    "NVFP4": (36, {"scales": range(4), "codes": range(4, 36)}),
}


def make_weight(index):
    """No two scales alike; every code is there."""
    rng = np.random.default_rng(index)
    weight = rng.standard_normal((ROWS, COLUMNS)) * np.exp(rng.normal(0, 1, (ROWS, 1)))
    weight *= np.exp(np.repeat(rng.normal(0, 1, (ROWS, COLUMNS // 32)), 32, axis=1))
    return weight.astype(np.float32) + (0.1 if index % 2 else 0)


def write(path, kind):
    """Four weights of one type; tensor scales of their own for NVFP4."""
    from gguf import GGMLQuantizationType, GGUFWriter

    writer = GGUFWriter(str(path), "llama")
    writer.add_embedding_length(32)
    writer.add_head_count(32 // HEAD)
    for index, name in enumerate(NAMES):
        blocks = write_gguf(quantize_gguf(make_weight(index), kind), kind)
        raw = getattr(GGMLQuantizationType, kind)
        writer.add_tensor(f"{name}.weight", blocks, raw_dtype=raw)
        if kind == "NVFP4":
            scale = np.array([0.5 + index], np.float32)
            writer.add_tensor(f"{name}.scale", scale)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def tensors(path):
    """Name -> (offset, bytes, rows)."""
    from gguf import GGUFReader

    return {
        t.name: (int(t.data_offset), np.array(t.data), int(t.n_bytes))
        for t in GGUFReader(str(path)).tensors
    }


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A clean file of each type."""
    folder = tmp_path_factory.mktemp("gguf")
    return {kind: write(folder / f"{kind}.gguf", kind) for kind in BLOCKS}


def allowed(path, kind, touches, names):
    """Which bytes of the file a defect may change."""
    found = np.zeros(path.stat().st_size, bool)
    size, parts = BLOCKS[kind]
    for name in names:
        offset, _, count = tensors(path)[name]
        block = np.zeros(size, bool)
        for part in touches:
            block[list(parts.get(part, ()))] = True
        found[offset : offset + count] = np.tile(block, count // size)
        scale = name.removesuffix(".weight") + ".scale"
        if "tensor_scale" in touches and kind == "NVFP4":
            place = tensors(path)[scale][0]
            found[place : place + 4] = True
    return found


@given(
    kind=st.sampled_from(sorted(BLOCKS)),
    name=st.sampled_from(sorted(DEFECTS)),
    operator=st.sampled_from([None, "blk.0.attn_q.weight", "blk.1.*"]),
    strength=st.tuples(
        st.sampled_from(["low", "catalogue", "high"]), st.integers(0, 5)
    ),
)
def test_a_planted_file_differs_only_where_declared(
    files, kind, name, operator, strength
):
    """Not a byte of another tensor, of the metadata, or of another part of a block."""
    defect, clean = DEFECTS[name], files[kind]
    out = clean.with_name("planted.gguf")
    share = getattr(defect.parameter, strength[0])
    planting = Planting(
        defect=name, operator=operator, strength=share, seed=strength[1]
    )
    before = clean.read_bytes()
    try:
        planted = plant_gguf(clean, out, defect, planting)
    except UnsupportedError:
        assert not out.exists()
        return

    after = out.read_bytes()
    found = np.frombuffer(before, np.uint8) != np.frombuffer(after, np.uint8)
    assert len(before) == len(after)
    assert clean.read_bytes() == before
    assert planted.bytes_changed == found.sum() > 0
    assert not (found & ~allowed(clean, kind, defect.touches, planted.names)).any()


def decoded(path, kind, name):
    """What an engine reads."""
    _, data, _ = tensors(path)[f"{name}.weight"]
    values = read_gguf(data.reshape(ROWS, -1), kind).dequantize()
    scale = tensors(path).get(f"{name}.scale")
    return values if scale is None else values * scale[1]


@pytest.fixture
def judged(verdict_of):
    """(clean file, planted file, type, name) -> what the gate says of the weight."""

    def judge(clean, planted, kind, name):
        scale = tensors(clean).get(f"{name}.scale")
        weight = make_weight(NAMES.index(name)) * (1 if scale is None else scale[1])
        right, wrong = (decoded(path, kind, name) for path in (clean, planted))
        return verdict_of(right, wrong, weight, FORMATS.get(kind, "int4"))

    return judge


@pytest.mark.parametrize("kind", sorted(BLOCKS))
def test_the_clean_file_passes(files, judged, kind):
    """Nothing is found where nothing was planted."""
    for name in NAMES:
        assert judged(files[kind], files[kind], kind, name) is Verdict.PASS


@pytest.mark.parametrize("kind", sorted(BLOCKS))
@pytest.mark.parametrize("name", sorted(DEFECTS))
def test_every_planted_file_is_caught(files, judged, tmp_path, kind, name):
    """At the smallest strength too: bytes are exact."""
    defect, out = DEFECTS[name], tmp_path / "planted.gguf"
    p = defect.parameter
    for strength in sorted({p.low, p.catalogue, p.high}):
        planting = Planting(
            defect=name, operator="blk.1.attn_q.weight", strength=strength
        )
        fits = contextlib.nullcontext()
        if (name, kind) not in FITS:
            fits = contextlib.suppress(UnsupportedError)
        out.unlink(missing_ok=True)
        with fits:
            plant_gguf(files[kind], out, defect, planting)
        if out.exists():
            assert judged(files[kind], out, kind, "blk.1.attn_q") is Verdict.DEFECT
            assert judged(files[kind], out, kind, "blk.0.attn_q") is Verdict.PASS


#: What must fit: a planter that fits nothing would be caught for nothing.
FITS = {
    ("stored_nibbles_swapped", "Q4_0"): True,
    ("stored_nibbles_swapped", "MXFP4"): True,
    ("stored_zero_points_missing", "Q4_K"): True,
    ("stored_zero_points_off_by_one", "Q4_K"): True,
    ("stored_tensor_scale_missing", "NVFP4"): True,
    ("stored_tensor_scale_of_other", "NVFP4"): True,
    ("stored_offset_missing", "Q4_0"): True,
    ("stored_rotary_order", "Q8_0"): True,
    ("stored_scales_power_of_two", "Q8_0"): True,
    **{
        (f"stored_{name}", kind): True
        for kind in BLOCKS
        for name in (
            "bytes_interleaved",
            "codes_off_by_one",
            "tail_unwritten",
            "scales_halved",
            "scales_swapped",
            "scales_shifted",
            "scales_transposed",
            "scales_of_other",
            "scales_missing",
            "scales_nan",
            "scales_reciprocal",
            "rows_shifted",
            "tensor_stale",
        )
    },
}


def test_every_defect_fits_some_type():
    """By the table above, which the test before it holds."""
    planted = {name for name, _ in FITS}

    assert set(DEFECTS) - planted <= {"stored_signs_flipped"}


def test_queries_and_keys_alone_have_a_rotary_order(files, tmp_path):
    """Of the others nothing is permuted."""
    out = tmp_path / "planted.gguf"

    planted = plant_gguf(files["Q4_0"], out, DEFECTS["stored_rotary_order"])

    assert planted.names == ("blk.0.attn_q.weight", "blk.1.attn_q.weight")


def test_rows_of_a_head_are_taken_from_halves(files, tmp_path):
    """Row 1 of a head of 8 is then row 4, as an unpermuted file has it."""
    out = tmp_path / "planted.gguf"
    plant_gguf(files["Q8_0"], out, DEFECTS["stored_rotary_order"])

    right = decoded(files["Q8_0"], "Q8_0", "blk.0.attn_q")
    wrong = decoded(out, "Q8_0", "blk.0.attn_q")
    order = [0, 4, 1, 5, 2, 6, 3, 7]
    assert np.array_equal(wrong[:8], right[order])
    assert np.array_equal(wrong[8:16], right[8:][order])


def test_a_name_that_is_not_there_is_told(files, tmp_path):
    """With those that are; nothing is left behind."""
    planting = Planting(defect="stored_scales_nan", operator="blk.9.attn_q.weight")
    out = tmp_path / "planted.gguf"

    with pytest.raises(UsageError, match=r"'blk\.9\.attn_q\.weight'; there are blk\.0"):
        plant_gguf(files["Q8_0"], out, DEFECTS["stored_scales_nan"], planting)
    assert not out.exists()


def test_the_file_itself_is_never_written_to(files):
    """A copy under its own name is refused."""
    path = files["Q8_0"]

    with pytest.raises(UsageError, match="should be another file"):
        plant_gguf(path, path, DEFECTS["stored_scales_nan"])


def test_what_is_no_gguf_file_is_told(tmp_path):
    """By name."""
    path = tmp_path / "x.gguf"
    path.write_bytes(b"nothing")

    with pytest.raises(ModelError, match=r"x\.gguf: is no GGUF file"):
        plant_gguf(path, tmp_path / "y.gguf", DEFECTS["stored_scales_nan"])
