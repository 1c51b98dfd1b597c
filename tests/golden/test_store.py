"""Goldens: what is read is what was sealed, or the damage is named."""

from __future__ import annotations

import json
import shutil
import zipfile

import ml_dtypes
import numpy as np
import pytest

from harness.errors import GoldenCorrupt, GoldenError, GoldenMismatch, GoldenMissing
from harness.golden import store
from harness.golden.store import compact, read_golden, write_golden


@pytest.fixture
def sealed(make_golden, tmp_path):
    """A sealed golden's folder."""
    write_golden(make_golden(), tmp_path / "mine")
    return tmp_path / "mine"


def tensors_of(folder):
    """The one file of tensors."""
    (path,) = folder.glob("tensors-*.safetensors")
    return path


def test_round_trip(make_golden, tmp_path):
    """Every field, dtype, shape, bit and the order of cases come back."""
    golden = make_golden()

    written = write_golden(golden, tmp_path)
    read = read_golden(tmp_path, suite="mine")

    assert written.digest == read.digest
    assert read.digest.startswith("content-v1:")
    assert list(read.outputs) == ["zeta", "alpha/1", "ümlaut"]
    for case, outputs in golden.outputs.items():
        for name, entry in outputs.items():
            other = read.outputs[case][name]
            assert (entry.kind, entry.shape, entry.dtype) == (
                other.kind,
                other.shape,
                other.dtype,
            )
            assert dict(entry.bound) == dict(other.bound)
            for role, array in entry.tensors.items():
                assert array.dtype == other.tensors[role].dtype
                assert array.tobytes() == other.tensors[role].tobytes()
    assert read.noise_floor == {"repeat": 0.0, "threads": float("inf")}
    assert np.isnan(read.precision["error"])
    assert read.operators == {"layer.0": {"amax": 2.5, "outliers": [1, 2]}}
    assert read.behaviours == golden.behaviours


DTYPES = [
    "bool",
    "uint8",
    "int8",
    "uint16",
    "int16",
    "uint32",
    "int32",
    "uint64",
    "int64",
    "float16",
    "float32",
    "float64",
    "bfloat16",
    "float8_e4m3fn",
    "float8_e5m2",
    "float8_e4m3fnuz",
    "float8_e5m2fnuz",
    "float8_e8m0fnu",
    "float6_e2m3fn",
    "float4_e2m1fn",
    "int4",
    "uint4",
]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout", ["C", "F", "strided", "reversed", "broadcast"])
def test_every_dtype_and_layout(make_golden, tmp_path, dtype, layout):
    """Values in any memory layout come back bit for bit, under their true dtype."""
    kind = np.dtype(getattr(ml_dtypes, dtype, dtype))
    base = np.random.default_rng(1).integers(1, 3, (6, 8)).astype(kind)
    array = {
        "C": base,
        "F": np.asfortranarray(base),
        "strided": base[::2, ::3],
        "reversed": base[::-1],
        "broadcast": np.broadcast_to(base[0], (4, 8)),
    }[layout]
    golden = make_golden(outputs={"a": {"y": compact(array)}})

    write_golden(golden, tmp_path)
    found = read_golden(tmp_path).outputs["a"]["y"].array

    assert found.dtype == kind
    assert found.tolist() == array.tolist()


def test_readable_by_the_library(sealed):
    """The file of tensors is a safetensors file like any other."""
    from safetensors import safe_open

    with safe_open(tensors_of(sealed), framework="np") as file:
        assert file.get_tensor("00000.embedding.values").shape == (1, 8)
        assert "mine" in file.metadata()["quantharness"]


def test_digest_is_of_the_content(make_golden, tmp_path):
    """The same content has the same digest and bytes; -0 has another."""
    first = write_golden(make_golden(), tmp_path / "a")
    second = write_golden(make_golden(), tmp_path / "b")
    zero = {"a": {"y": compact(np.zeros(2))}}
    minus = {"a": {"y": compact(-np.zeros(2))}}

    assert first.digest == second.digest
    for path in (tmp_path / "a").iterdir():
        assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes()
    assert (
        write_golden(make_golden(outputs=zero), tmp_path / "c").digest
        != write_golden(make_golden(outputs=minus), tmp_path / "d").digest
    )


def test_missing(tmp_path):
    """No golden: says which command records it."""
    with pytest.raises(GoldenMissing, match="quantharness record"):
        read_golden(tmp_path / "none")


def test_every_flipped_byte_is_found(sealed):
    """Any byte of either file that is changed is noticed, wherever it is."""
    rng = np.random.default_rng(2)
    for path in sealed.iterdir():
        whole = path.read_bytes()
        for place in rng.choice(len(whole), 60, replace=False):
            damaged = bytearray(whole)
            damaged[place] ^= 1 << int(rng.integers(8))
            path.write_bytes(damaged)
            with pytest.raises(GoldenError):
                read_golden(sealed)
        path.write_bytes(whole)
    read_golden(sealed)


def test_a_flipped_byte_names_the_output(sealed):
    """The message says whose bytes were changed, and what to do."""
    path = tensors_of(sealed)
    whole = bytearray(path.read_bytes())
    whole[-1] ^= 1
    path.write_bytes(whole)

    with pytest.raises(GoldenCorrupt, match="ümlaut/text/probs was changed") as error:
        read_golden(sealed)

    assert "restore it from git" in str(error.value)


def test_a_changed_manifest_is_found(sealed):
    """An edit of the manifest's text breaks the seal."""
    path = sealed / "manifest.json"
    path.write_text(path.read_text().replace("someone", "nobody"))

    with pytest.raises(GoldenCorrupt, match="a character was changed"):
        read_golden(sealed)


@pytest.mark.parametrize("name", ["manifest.json", "tensors"])
@pytest.mark.parametrize("share", [0.0, 0.3, 0.99])
def test_truncated(sealed, name, share):
    """A file cut short is called truncated."""
    path = sealed / name if "." in name else tensors_of(sealed)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(share * len(whole))])

    with pytest.raises(GoldenCorrupt, match="truncated"):
        read_golden(sealed)


@pytest.mark.parametrize("name", ["manifest.json", "tensors"])
def test_git_lfs_pointer(sealed, name):
    """A pointer that was not fetched is called so, with the command that fetches."""
    path = sealed / name if "." in name else tensors_of(sealed)
    path.write_text(
        "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"
    )

    with pytest.raises(GoldenCorrupt, match="git-LFS pointer; `git lfs pull`"):
        read_golden(sealed)


def test_alien_files(sealed, tmp_path):
    """Archives, pickles, pages and JSON of others are called what they are."""
    path = tensors_of(sealed)
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as file:
        file.writestr("x", "y")
    for data, message in (
        ((tmp_path / "a.zip").read_bytes(), "ZIP archive"),
        (b"\x80\x04K\x01.", "pickle"),
        (b"<!DOCTYPE html><p>sign in", "HTML page"),
        (b"\x93NUMPY\x01\x00", ".npy"),
    ):
        path.write_bytes(data)
        with pytest.raises(GoldenCorrupt, match=message):
            read_golden(sealed)
    (sealed / "manifest.json").write_text("[1, 2]")
    with pytest.raises(GoldenCorrupt, match="not the manifest of a golden"):
        read_golden(sealed)


def test_tensors_missing(sealed):
    """A manifest without its tensors is damaged, not missing."""
    tensors_of(sealed).unlink()
    with pytest.raises(GoldenCorrupt, match="missing beside its manifest"):
        read_golden(sealed)


def test_of_another_suite(make_golden, sealed, tmp_path):
    """A whole golden of another suite is called that, as are its tensors alone."""
    write_golden(make_golden(suite="other"), tmp_path / "other")

    with pytest.raises(GoldenMismatch, match=r"golden of suite 'other', not of 'mine'"):
        read_golden(tmp_path / "other", suite="mine")
    name = tensors_of(sealed)
    shutil.copy(tensors_of(tmp_path / "other"), name)
    manifest = json.loads((sealed / "manifest.json").read_text())
    manifest["files"][name.name]["bytes"] = name.stat().st_size
    (sealed / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(GoldenMismatch, match="tensors of suite 'other'"):
        read_golden(sealed)


def test_another_schema(sealed):
    """Another version of the form is a mismatch, whatever else is in it."""
    (sealed / "manifest.json").write_text('{"schema": 1, "suite": "mine"}')
    with pytest.raises(GoldenMismatch, match="schema '1', but this version reads"):
        read_golden(sealed)


def test_files_may_not_lead_elsewhere(sealed):
    """A manifest cannot make the reader open a file outside of its folder."""
    path = sealed / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["files"] = {"tensors-/../../x": {"bytes": 1, "sha256": ""}}
    path.write_text(json.dumps(manifest))

    with pytest.raises(GoldenCorrupt, match="list of files"):
        read_golden(sealed)


def test_replacing_is_atomic(make_golden, sealed, monkeypatch):
    """A crash before the last rename leaves the old golden whole."""
    before = read_golden(sealed)

    def crash(path, data):
        if path.name == "manifest.json":
            raise OSError("no space left")
        path.write_bytes(data)

    monkeypatch.setattr(store, "write_atomically", crash)
    changed = {"a": {"y": compact(np.ones(3))}}
    with pytest.raises(OSError, match="no space"):
        write_golden(make_golden(outputs=changed), sealed)
    monkeypatch.undo()

    assert read_golden(sealed).digest == before.digest
    write_golden(make_golden(outputs=changed), sealed)
    assert len(list(sealed.iterdir())) == 2
    assert list(read_golden(sealed).outputs) == ["a"]


def test_writer_reads_back(make_golden, tmp_path, monkeypatch):
    """What does not read back the same is not written at all."""
    monkeypatch.setattr(store, "encode", _last_bit_flipped)
    with pytest.raises(GoldenCorrupt):
        write_golden(make_golden(), tmp_path / "x")
    assert not (tmp_path / "x").exists()


def _last_bit_flipped(tensors, label):
    from harness.golden.container import encode

    data = bytearray(encode(tensors, label=label))
    data[-1] ^= 1
    return bytes(data)


def test_arrays_are_read_only(sealed):
    """A golden cannot be changed by whoever compares with it."""
    array = read_golden(sealed).outputs["zeta"]["embedding"].array
    with pytest.raises(ValueError, match="read-only"):
        array[0, 0] = 1


def test_files_are_for_everyone(sealed):
    """Goldens are readable by others than their author."""
    assert all(path.stat().st_mode & 0o044 == 0o044 for path in sealed.iterdir())
