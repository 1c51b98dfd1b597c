"""Damaged safetensors files are named for what they are."""

from __future__ import annotations

import json

import pytest

from harness.errors import ModelError
from harness.models.checkpoint.tensors import read_header

from .folders import copied


def header_file(tmp_path, header, body=b""):
    """A file with this header."""
    text = json.dumps(header).encode()
    file = tmp_path / "model.safetensors"
    file.write_bytes(len(text).to_bytes(8, "little") + text + body)
    return file


def test_truncated_file(tmp_path):
    """A file that breaks off names the tensor at which it does."""
    file = copied("ct-fp8", tmp_path) / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(ModelError, match=r"v_proj\.weight ends at .*truncated"):
        read_header(file)


def test_pointer(tmp_path):
    """A git-LFS pointer is called one."""
    file = tmp_path / "model.safetensors"
    file.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\n")
    with pytest.raises(ModelError, match="git lfs pull"):
        read_header(file)


def test_empty_file(tmp_path):
    """An empty file is truncated."""
    file = tmp_path / "model.safetensors"
    file.write_bytes(b"")
    with pytest.raises(ModelError, match="0 bytes"):
        read_header(file)


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"dtype": "F9", "shape": [1], "data_offsets": [0, 4]}, "dtype=F9"),
        ({"dtype": "F32", "shape": [2], "data_offsets": [0, 4]}, "should be 8"),
        ({"dtype": "F32", "shape": [1], "data_offsets": [-4, 0]}, "should be 4"),
        ({"dtype": "F32", "shape": [1]}, "malformed"),
        ([], "malformed"),
    ],
)
def test_malformed_entry(tmp_path, entry, message):
    """An entry that cannot be is an error that names the tensor."""
    with pytest.raises(ModelError, match=message) as caught:
        read_header(header_file(tmp_path, {"a": entry}, b"1234"))
    assert " a" in str(caught.value)


def test_header_is_not_json(tmp_path):
    """A header that is not JSON is an error, not a crash."""
    file = tmp_path / "model.safetensors"
    file.write_bytes((4).to_bytes(8, "little") + b"{{{{")
    with pytest.raises(ModelError, match="not JSON"):
        read_header(file)
