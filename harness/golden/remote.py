"""Goldens' tensors kept elsewhere, by digest: fetched when needed, verified always.

The manifest stays in git; it names the file of tensors, its size and its SHA-256. A
store is any folder that fsspec reads (`file:///...`, `s3://bucket/...`; extra
`remote`), with one object a digest. Downloads go to a cache under the user's
account, go on where they were cut off, and count only once the digest is right.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from harness.errors import GoldenCorrupt, GoldenMissing, MissingExtraError
from harness.golden.store import read_manifest

#: Read and hashed at a time.
_BLOCK: Final = 4 << 20
#: Where downloads are kept; this variable names another place.
CACHE_VARIABLE: Final = "QUANTHARNESS_CACHE"


def push(folder: Path, store: str, *, options: Mapping[str, Any] | None = None) -> str:
    """Copy a golden's tensors into a store, unless they are there.

    Args:
        folder: the golden.
        store: URL of the store.
        options: of fsspec's file system, e.g. {"endpoint_url": ...} for S3.

    Returns:
        URL of the object.

    Raises:
        GoldenError: the golden is missing or damaged; damage is never pushed.
        MissingExtraError: fsspec, or what it needs for this URL, is not installed.
    """
    name, wanted = _record(folder)
    path = folder / name
    if not path.is_file():
        raise GoldenMissing(f"{path}: nothing to push; `fetch` it or record it first")
    _check(path, wanted)
    system, root = _open(store, options)
    target = f"{root}/{_object(wanted)}"
    if system.exists(target) and system.size(target) == wanted["bytes"]:
        return str(system.unstrip_protocol(target))
    system.makedirs(target.rpartition("/")[0], exist_ok=True)
    system.put_file(str(path), target)
    if system.info(target)["size"] != wanted["bytes"]:
        raise GoldenCorrupt(f"{target}: the store kept another number of bytes")
    return str(system.unstrip_protocol(target))


def fetch(
    folder: Path, store: str, *, options: Mapping[str, Any] | None = None
) -> Path:
    """Put a golden's tensors beside its manifest, from the cache or the store.

    Returns:
        The file; afterwards `read_golden(folder)` reads the golden.

    Raises:
        GoldenMissing: the store has no such object.
        GoldenCorrupt: what came is not what was sealed; nothing is put in place.
        MissingExtraError: fsspec, or what it needs for this URL, is not installed.
    """
    name, wanted = _record(folder)
    path = folder / name
    if path.is_file() and _sha256(path) == wanted["sha256"]:
        return path
    cached = _cache() / _object(wanted)
    if not cached.is_file() or _sha256(cached) != wanted["sha256"]:
        _download(cached, wanted, store, options)
    with _beside(path) as temporary:
        temporary.write_bytes(cached.read_bytes())
    return path


def _download(
    cached: Path,
    wanted: Mapping[str, Any],
    store: str,
    options: Mapping[str, Any] | None,
) -> None:
    """Into the cache, going on where an earlier download was cut off."""
    system, root = _open(store, options)
    source = f"{root}/{_object(wanted)}"
    if not system.exists(source):
        raise GoldenMissing(
            f"{store} has no object {_object(wanted)}; `push` it from where the golden "
            "was recorded, or record it anew"
        )
    cached.parent.mkdir(parents=True, exist_ok=True)
    part = cached.with_name(cached.name + ".part")
    have = part.stat().st_size if part.is_file() else 0
    if have > wanted["bytes"]:
        have = 0
    with system.open(source, "rb") as remote, part.open("ab" if have else "wb") as file:
        remote.seek(have)
        left = wanted["bytes"] - have
        # One byte more shows an object that is too long.
        while left >= 0 and (block := remote.read(min(_BLOCK, left + 1))):
            file.write(block)
            left -= len(block)
        file.flush()
        os.fsync(file.fileno())
    try:
        _check(part, wanted)
    except GoldenCorrupt as error:
        part.unlink()
        raise GoldenCorrupt(f"{source}: {error}") from None
    part.replace(cached)


def _record(folder: Path) -> tuple[str, dict[str, Any]]:
    """Name of the file of tensors, its bytes and SHA-256."""
    files = read_manifest(folder).get("files")
    if isinstance(files, dict) and len(files) == 1:
        name, record = next(iter(files.items()))
        digest = record.get("sha256") if isinstance(record, dict) else None
        if (
            Path(name).name == name
            and isinstance(digest, str)
            and len(digest) == 64
            and set(digest) <= set("0123456789abcdef")
            and isinstance(record.get("bytes"), int)
        ):
            return name, record
    raise GoldenCorrupt(f"{folder}: its list of files was altered")


def _object(wanted: Mapping[str, Any]) -> str:
    """`ab/abcdef...`: the digest, in folders that stay small."""
    digest: str = wanted["sha256"]
    return f"{digest[:2]}/{digest}"


def _check(path: Path, wanted: Mapping[str, Any]) -> None:
    size = path.stat().st_size
    if size != wanted["bytes"]:
        what = "truncated" if size < wanted["bytes"] else "too long"
        raise GoldenCorrupt(f"{path}: {what}: {size} of {wanted['bytes']} bytes")
    if _sha256(path) != wanted["sha256"]:
        raise GoldenCorrupt(f"{path}: not the bytes that were sealed")


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()


def _cache() -> Path:
    given = os.environ.get(CACHE_VARIABLE)
    if given:
        return Path(given) / "goldens"
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(base) / "quantharness" / "goldens"


def _open(store: str, options: Mapping[str, Any] | None) -> tuple[Any, str]:
    """A file system of fsspec and the path in it."""
    try:
        from fsspec.core import url_to_fs  # type: ignore[import-untyped]
    except ImportError:
        raise MissingExtraError("fsspec", "remote") from None
    try:
        system, root = url_to_fs(store, **dict(options or {}))
    except ImportError as error:
        raise MissingExtraError(str(error), "remote") from None
    return system, str(root).rstrip("/")


@contextmanager
def _beside(path: Path) -> Iterator[Path]:
    """A temporary file that takes the path's place at the end."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
