"""Tensors in a store: pushed whole, fetched verified, from a folder and from S3."""

from __future__ import annotations

import shutil

import pytest

from harness.errors import GoldenCorrupt, GoldenMissing
from harness.golden.remote import fetch, push
from harness.golden.store import read_golden, write_golden

pytest.importorskip("fsspec")


@pytest.fixture
def sealed(make_golden, tmp_path, monkeypatch):
    """A golden, and a cache of its own."""
    monkeypatch.setenv("QUANTHARNESS_CACHE", str(tmp_path / "cache"))
    write_golden(make_golden(), tmp_path / "mine")
    return tmp_path / "mine"


def tensors_of(folder):
    """The one file of tensors."""
    (path,) = folder.glob("tensors-*.safetensors")
    return path


@pytest.fixture
def store(tmp_path):
    """A store in a folder."""
    return f"file://{tmp_path / 'store'}"


def test_push_and_fetch(sealed, store, tmp_path):
    """What was pushed comes back; the second fetch needs no store."""
    before = read_golden(sealed).digest
    push(sealed, store)
    push(sealed, store)
    tensors_of(sealed).unlink()
    fetch(sealed, store)
    assert read_golden(sealed).digest == before

    tensors_of(sealed).unlink()
    shutil.rmtree(tmp_path / "store")
    fetch(sealed, store)
    assert read_golden(sealed).digest == before


def test_replaces_an_lfs_pointer(sealed, store):
    """A pointer in the place of the tensors is replaced by them."""
    push(sealed, store)
    tensors_of(sealed).write_text("version https://git-lfs.github.com/spec/v1\n")
    fetch(sealed, store)
    read_golden(sealed)


def test_not_in_the_store(sealed, store):
    """An object that was never pushed is missing, with the remedy."""
    tensors_of(sealed).unlink()
    with pytest.raises(GoldenMissing, match="push"):
        fetch(sealed, store)
    with pytest.raises(GoldenMissing, match="nothing to push"):
        push(sealed, store)


@pytest.mark.parametrize("damage", ["flip", "cut", "longer"])
def test_a_damaged_object_is_refused(sealed, store, tmp_path, damage):
    """Other bytes than were sealed never reach the golden or the cache."""
    push(sealed, store)
    path = tensors_of(sealed)
    path.unlink()
    (stored,) = [p for p in (tmp_path / "store").rglob("*") if p.is_file()]
    data = bytearray(stored.read_bytes())
    data = {"flip": data, "cut": data[:-9], "longer": data + b"!"}[damage]
    if damage == "flip":
        data[100] ^= 1
    stored.write_bytes(data)

    with pytest.raises(GoldenCorrupt, match=r"not the bytes|truncated|too long"):
        fetch(sealed, store)

    assert not path.exists()
    assert not [p for p in (tmp_path / "cache").rglob("*") if p.is_file()]


def test_goes_on_where_it_was_cut_off(sealed, store, tmp_path):
    """Half a download is continued; a wrong half is found by the digest."""
    push(sealed, store)
    path = tensors_of(sealed)
    whole = path.read_bytes()
    path.unlink()
    (stored,) = [p for p in (tmp_path / "store").rglob("*") if p.is_file()]
    part = tmp_path / "cache" / "goldens" / stored.parent.name / f"{stored.name}.part"
    part.parent.mkdir(parents=True)

    part.write_bytes(whole[:1000])
    # Only the rest may be read: the first half of the stored object is now wrong.
    stored.write_bytes(b"\0" * 1000 + whole[1000:])
    fetch(sealed, store)

    assert path.read_bytes() == whole


def test_a_damaged_golden_is_not_pushed(sealed, store):
    """Damage stays where it is."""
    path = tensors_of(sealed)
    path.write_bytes(path.read_bytes()[:-1] + b"!")
    with pytest.raises(GoldenCorrupt):
        push(sealed, store)


def test_s3(sealed, monkeypatch):
    """The same from a bucket, against a local server."""
    pytest.importorskip("s3fs")
    server_module = pytest.importorskip("moto.server")
    import s3fs

    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "testing")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "testing")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    server = server_module.ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    try:
        host, port = server.get_host_and_port()
        options = {
            "endpoint_url": f"http://{host}:{port}",
            "skip_instance_cache": True,
        }
        s3fs.S3FileSystem(**options).mkdir("goldens")
        url = push(sealed, "s3://goldens/team", options=options)
        before = read_golden(sealed).digest
        tensors_of(sealed).unlink()
        fetch(sealed, "s3://goldens/team", options=options)
        assert url.startswith("s3://goldens/team/")
        assert read_golden(sealed).digest == before
    finally:
        server.stop()
