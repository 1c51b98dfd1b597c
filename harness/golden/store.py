"""The golden of a suite: one writer, one reader, sealed by the digest of its content.

A folder with `manifest.json` (readable in git) and `tensors.safetensors`. The digest
covers every tensor and every entry of the manifest but itself.
"""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import ml_dtypes
import numpy as np

from harness.errors import GoldenCorrupt, GoldenMismatch, GoldenMissing
from harness.golden.compact import CompactOutput, compact
from harness.models.digest import content_digest

__all__ = [
    "SCHEMA",
    "CompactOutput",
    "Golden",
    "compact",
    "read_golden",
    "write_golden",
]

Array = np.ndarray[Any, np.dtype[Any]]

#: Version of the golden's form.
SCHEMA: Final = 1
_MANIFEST: Final = "manifest.json"
_TENSORS: Final = "tensors.safetensors"
_LFS: Final = b"version https://git-lfs"
#: Containers hold these dtypes; others are stored as unsigned integers of their width.
_PLAIN: Final = frozenset(
    {
        "float16",
        "float32",
        "float64",
        "int8",
        "int16",
        "int32",
        "int64",
        "uint8",
        "bool",
    }
    | {"uint16", "uint32"}
)


@dataclass(frozen=True, kw_only=True)
class Golden:
    """What is recorded of a suite's reference."""

    suite: str
    model_fingerprint: str
    cases_fingerprint: str
    schema: int = SCHEMA
    environment: Mapping[str, Any] = field(default_factory=dict)
    #: What the precision really was, as a probe found it.
    precision: Mapping[str, Any] = field(default_factory=dict)
    #: What was changed -> relative L2 that the reference moved by.
    noise_floor: Mapping[str, float] = field(default_factory=dict)
    #: Operator -> statistics of its input over all cases.
    operators: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    #: Case -> output -> what is kept of it.
    outputs: Mapping[str, Mapping[str, CompactOutput]] = field(default_factory=dict)
    #: Behaviour -> case -> {"answer", "right"}.
    behaviours: Mapping[str, Mapping[str, Mapping[str, Any]]] = field(
        default_factory=dict
    )
    reason: str = ""
    date: str = ""
    author: str = ""
    digest: str = ""


def write_golden(golden: Golden, folder: Path) -> Golden:
    """Write a golden; it counts as written once it was read back bit for bit.

    Everything is written beside the old golden and put in its place at the end, tensors
    first: a reader that comes between sees a digest that does not fit, never a mixture
    that passes.

    Returns:
        The golden with its digest.

    Raises:
        GoldenCorrupt: what was read back is not what was written.
    """
    from safetensors.numpy import save

    tensors, index = _flatten(golden)
    manifest = _manifest(golden, index)
    manifest["digest"] = _digest(manifest, tensors)
    stored = {name: _storable(array) for name, array in tensors.items()}
    folder.mkdir(parents=True, exist_ok=True)
    _write(folder / _TENSORS, save(stored))
    # In the order of the cases, which is the order they are reported in.
    text = json.dumps(manifest, indent=1, ensure_ascii=False)
    _write(folder / _MANIFEST, (text + "\n").encode())
    written = read_golden(folder, suite=golden.suite)
    again, _ = _flatten(written)
    if any(
        again[name].tobytes() != np.ascontiguousarray(array).tobytes()
        for name, array in tensors.items()
    ):
        raise GoldenCorrupt(f"{folder}: what was written does not read back the same")
    return written


def read_golden(folder: Path, *, suite: str | None = None) -> Golden:
    """Read and verify a golden.

    Args:
        folder: where it lies.
        suite: whose it should be; None: anyone's.

    Raises:
        GoldenMissing: nothing was recorded.
        GoldenCorrupt: truncated, altered, a git-LFS pointer, or not a golden.
        GoldenMismatch: of another suite or another schema.
    """
    manifest = _read_manifest(folder)
    schema = manifest.get("schema")
    if schema != SCHEMA:
        raise GoldenMismatch(
            f"{folder}: schema {schema!r}, but this version reads {SCHEMA}; "
            "`quantharness record --renew` records it anew"
        )
    if suite is not None and manifest.get("suite") != suite:
        raise GoldenMismatch(
            f"{folder}: the golden of suite {manifest.get('suite')!r}, not of {suite!r}"
        )
    tensors = _read_tensors(folder / _TENSORS, manifest)
    digest = manifest.get("digest")
    if digest != _digest(manifest, tensors):
        raise GoldenCorrupt(
            f"{folder}: its content is not what was sealed (digest {str(digest)[:24]}...): "
            "a byte was changed after recording; restore it from git, or "
            "`quantharness record --renew`"
        )
    return _golden(manifest, tensors)


def _flatten(golden: Golden) -> tuple[dict[str, Array], dict[str, Any]]:
    """Tensors by key, and where each output's tensors are."""
    tensors: dict[str, Array] = {}
    index: dict[str, Any] = {}
    for case, outputs in golden.outputs.items():
        index[case] = {}
        for output, entry in outputs.items():
            key = f"{len(tensors):06d}"
            tensors[key] = np.ascontiguousarray(entry.array)
            record = {
                "kind": entry.kind,
                "shape": list(entry.shape),
                "dtype": entry.dtype,
                "array": key,
                "stored": entry.array.dtype.name,
            }
            if entry.kind == "top":
                record["indices"] = f"{len(tensors):06d}"
                # Classes fit 16 bits for every vocabulary below 65,536.
                small = entry.indices.max(initial=0) < 2**16
                tensors[record["indices"]] = np.ascontiguousarray(
                    entry.indices.astype(np.uint16 if small else np.int32)
                )
            index[case][output] = record
    return tensors, index


def _manifest(golden: Golden, index: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "schema": golden.schema,
        "suite": golden.suite,
        "model_fingerprint": golden.model_fingerprint,
        "cases_fingerprint": golden.cases_fingerprint,
        "environment": dict(golden.environment),
        "precision": dict(golden.precision),
        "noise_floor": dict(golden.noise_floor),
        "operators": {name: dict(entry) for name, entry in golden.operators.items()},
        "behaviours": {
            name: {case: dict(answer) for case, answer in by_case.items()}
            for name, by_case in golden.behaviours.items()
        },
        "reason": golden.reason,
        "date": golden.date,
        "author": golden.author,
        "outputs": dict(index),
    }


def _digest(manifest: Mapping[str, Any], tensors: Mapping[str, Array]) -> str:
    rest = {key: value for key, value in manifest.items() if key != "digest"}
    return content_digest(tensors, extra=rest)


def _storable(array: Array) -> Array:
    if array.dtype.name in _PLAIN:
        return array
    return array.view(np.dtype(f"u{array.dtype.itemsize}"))


def _dtype(name: str) -> np.dtype[Any]:
    try:
        return np.dtype(name)
    except TypeError:
        return np.dtype(getattr(ml_dtypes, name))


def _write(path: Path, data: bytes) -> None:
    """Atomically: temporary file, fsync, rename."""
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).replace(path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            Path(temporary).unlink()
        raise


def _read_manifest(folder: Path) -> dict[str, Any]:
    path = folder / _MANIFEST
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise GoldenMissing(
            f"no golden in {folder}: `quantharness record SUITE` records it"
        ) from None
    if data.startswith(_LFS):
        raise GoldenCorrupt(
            f"{path}: a git-LFS pointer; `git lfs pull` fetches the file"
        )
    try:
        manifest = json.loads(data)
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise GoldenCorrupt(f"{path}: truncated or not JSON ({error})") from None
    if not isinstance(manifest, dict) or "outputs" not in manifest:
        raise GoldenCorrupt(f"{path}: not the manifest of a golden")
    return manifest


def _read_tensors(path: Path, manifest: Mapping[str, Any]) -> dict[str, Array]:
    from safetensors import SafetensorError
    from safetensors.numpy import load

    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise GoldenCorrupt(f"{path}: missing beside its manifest") from None
    if data.startswith(_LFS):
        raise GoldenCorrupt(
            f"{path}: a git-LFS pointer; `git lfs pull` fetches the file"
        )
    try:
        tensors = load(data)
    except (SafetensorError, KeyError, ValueError, OverflowError, MemoryError) as error:
        raise GoldenCorrupt(
            f"{path}: {len(data)} bytes, truncated or damaged ({error})"
        ) from None
    try:
        for outputs in manifest["outputs"].values():
            for entry in outputs.values():
                key = entry["array"]
                tensors[key] = tensors[key].view(_dtype(entry["stored"]))
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise GoldenCorrupt(
            f"{path}: not the tensors of its manifest ({error!r})"
        ) from None
    return tensors


def _golden(manifest: Mapping[str, Any], tensors: Mapping[str, Array]) -> Golden:
    outputs = {
        case: {
            output: CompactOutput(
                kind=entry["kind"],
                shape=tuple(entry["shape"]),
                dtype=entry["dtype"],
                array=tensors[entry["array"]],
                indices=tensors[entry["indices"]]
                if "indices" in entry
                else np.zeros(0, np.int32),
            )
            for output, entry in by_output.items()
        }
        for case, by_output in manifest["outputs"].items()
    }
    rest = {key: value for key, value in manifest.items() if key != "outputs"}
    return Golden(**rest, outputs=outputs)
