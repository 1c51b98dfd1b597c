"""What others recorded is read as it is, and what we write they read."""

from __future__ import annotations

import json
import struct

import ml_dtypes
import numpy as np
import pytest

from harness.compare.logits import compare_logits
from harness.errors import UsageError
from harness.golden.interchange import (
    read_kl_base,
    read_npz,
    read_polygraphy,
    read_safetensors,
    read_test_data,
    write_npz,
    write_polygraphy,
    write_safetensors,
    write_test_data,
)
from harness.golden.interchange.onnx_test_data import DataSet


@pytest.fixture
def outputs():
    """Two cases with two outputs."""
    rng = np.random.default_rng(0)
    return {
        case: {
            "y": rng.standard_normal((2, 3)).astype(np.float16),
            "n": np.arange(4)[::2],
        }
        for case in ("a", "b")
    }


def same(first, second):
    """Equal names, dtypes, shapes and values."""
    assert first.keys() == second.keys()
    for case, arrays in first.items():
        assert arrays.keys() == second[case].keys()
        for name, array in arrays.items():
            assert array.dtype == second[case][name].dtype
            assert array.tolist() == second[case][name].tolist()


def test_archives(outputs, tmp_path):
    """Both archives give back what they were given."""
    write_npz(outputs, tmp_path / "x.npz")
    write_safetensors(outputs, tmp_path / "x.safetensors")
    same(outputs, read_npz(tmp_path / "x.npz"))
    same(outputs, read_safetensors(tmp_path / "x.safetensors"))


def test_archives_of_others(tmp_path):
    """Files that NumPy and the safetensors library wrote are read."""
    from safetensors.numpy import save_file

    array = np.float32([[1, 2]])
    np.savez(tmp_path / "x.npz", y=array)
    save_file({"case/y": array}, tmp_path / "x.safetensors")
    same({"default": {"y": array}}, read_npz(tmp_path / "x.npz"))
    same({"case": {"y": array}}, read_safetensors(tmp_path / "x.safetensors"))


def test_dtypes_of_archives(tmp_path):
    """Safetensors keeps bfloat16; .npz would lose it and refuses."""
    both = {"a": {"y": np.ones(3, ml_dtypes.bfloat16)}}
    write_safetensors(both, tmp_path / "x")
    same(both, read_safetensors(tmp_path / "x"))
    with pytest.raises(UsageError, match=r"a/y is bfloat16, which .npz does not keep"):
        write_npz(both, tmp_path / "x.npz")
    with pytest.raises(UsageError, match="slash"):
        write_safetensors({"a/b": {}}, tmp_path / "x")


def test_damaged_archives(tmp_path):
    """Pickles, half archives and other files are refused with their name."""
    path = tmp_path / "x.npz"
    np.savez(path, y=np.array([{}], dtype=object))
    with pytest.raises(UsageError, match=r"x\.npz"):
        read_npz(path)
    path.write_bytes(b"PK\x03\x04 half")
    with pytest.raises(UsageError, match=r"not a \.npz"):
        read_npz(path)
    with pytest.raises(UsageError, match="ZIP archive"):
        read_safetensors(path)


def test_onnx_test_data(outputs, tmp_path):
    """Data sets come back in order of their numbers, with names and dtypes."""
    pytest.importorskip("onnx")
    sets = [
        DataSet(f"test_data_set_{n}", {"x": np.full((1, 2), n)}, outputs["a"])
        for n in range(11)
    ]
    write_test_data(sets, tmp_path)

    found = read_test_data(tmp_path)

    assert [data.inputs["x"][0, 0] for data in found] == list(range(11))
    same({"a": outputs["a"]}, {"a": found[10].outputs})


def test_onnx_test_data_that_checks_nothing(tmp_path):
    """No sets, no outputs and no tensors are errors, not an empty list."""
    pytest.importorskip("onnx")
    with pytest.raises(UsageError, match="no test_data_set"):
        read_test_data(tmp_path)
    (tmp_path / "test_data_set_0").mkdir()
    with pytest.raises(UsageError, match="no output_"):
        read_test_data(tmp_path)
    (tmp_path / "test_data_set_0" / "output_0.pb").write_bytes(b"\xff\xff")
    with pytest.raises(UsageError, match="not an ONNX tensor"):
        read_test_data(tmp_path)


def test_onnx_names_by_number(tmp_path):
    """Tensors without a name get the model's, by their number."""
    onnx = pytest.importorskip("onnx")
    folder = tmp_path / "test_data_set_0"
    folder.mkdir()
    tensor = onnx.numpy_helper.from_array(np.ones(2, np.float32))
    (folder / "output_0.pb").write_bytes(tensor.SerializeToString())
    assert list(read_test_data(tmp_path, outputs=["y"])[0].outputs) == ["y"]
    assert list(read_test_data(tmp_path)[0].outputs) == ["output_0"]


def test_polygraphy(outputs, tmp_path):
    """Run results come back, as do lists of inputs."""
    path = tmp_path / "x.json"
    write_polygraphy(list(outputs.values()), path, runner="ours")
    found = read_polygraphy(path)
    same(outputs, dict(zip(outputs, found, strict=True)))
    with pytest.raises(UsageError, match="no runner 'x', only ours"):
        read_polygraphy(path, runner="x")
    entry = json.loads(path.read_text())["lst"][0][1][0]["outputs"]["y"]["values"]
    path.write_text(json.dumps([{"x": entry}]))
    assert read_polygraphy(path)[0]["x"].dtype == np.float16


@pytest.mark.parametrize("text", ["{", "[1]", '{"lst": 3}', '[{"x": {"array": "!"}}]'])
def test_damaged_polygraphy(tmp_path, text):
    """Anything else is refused with its name."""
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(UsageError, match=r"x\.json: not Polygraphy"):
        read_polygraphy(tmp_path / "x.json")


def kl_base(path, logits, tokens):
    """Write logits (chunks, rows, vocabulary) as llama.cpp does."""
    chunks, _, width = logits.shape
    parts = [b"_logits_", struct.pack("<3i", tokens.shape[1], width, chunks)]
    parts.append(tokens.astype("<i4").tobytes())
    for row in logits.reshape(-1, width).astype(np.float32):
        high = row.max()
        low = max(row.min(), high - 16)
        lse = np.log(np.exp(row - high).sum())
        scale = max(high - low, 1e-6) / 65535
        codes = np.clip((row - low) / scale, 0, 65535).astype("<u2")
        if width % 2:
            codes = np.append(codes, np.uint16(0))
        parts += [struct.pack("<2f", scale, low - high - lse), codes.tobytes()]
    path.write_bytes(b"".join(parts))


@pytest.mark.parametrize("width", [3000, 3001])
def test_llama_cpp(tmp_path, width):
    """A base file becomes compact outputs that are near the logits it was made of."""
    rng = np.random.default_rng(0)
    logits = 2 * rng.standard_normal((2, 7, width))
    tokens = rng.integers(0, width, (2, 16))
    kl_base(tmp_path / "base.kld", logits, tokens)

    base = read_kl_base(tmp_path / "base.kld")
    found = dict(base.outputs())

    assert (base.context, base.vocabulary, base.rows) == (16, width, 7)
    assert base.labels(1).tolist() == tokens[1, 9:].tolist()
    assert list(found) == ["chunk-0000", "chunk-0001"]
    near = compare_logits(found["chunk-0001"], logits[1], labels=tokens[1, 9:])
    assert near.kl < 2e-4
    assert near.flips == 0
    far = compare_logits(found["chunk-0000"], logits[1])
    assert far.kl > 1


def test_damaged_llama_cpp(tmp_path):
    """A truncated base file says so; another file is not taken for one."""
    path = tmp_path / "base.kld"
    kl_base(path, np.zeros((1, 3, 10)), np.zeros((1, 8), int))
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(UsageError, match="truncated"):
        read_kl_base(path)
    path.write_bytes(b"_logits_\0\0")
    with pytest.raises(UsageError, match="header is damaged"):
        read_kl_base(path)
    path.write_bytes(b"something else")
    with pytest.raises(UsageError, match="not a KL base file"):
        read_kl_base(path)
