"""The golden of a suite: one writer, one reader, sealed by the digest of its content.

A folder with `manifest.json`, readable in git, and the tensors beside it in a file
whose name carries its own digest. The manifest's digest (`content-v1`) covers every
entry of the manifest and, through theirs, every tensor; it does not depend on how the
files are laid out. Replacing a golden is atomic: the manifest is renamed into its
place last, and names the tensors that belong to it.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

import numpy as np

from harness.errors import GoldenCorrupt, GoldenMismatch, GoldenMissing
from harness.golden.compact import CompactOutput, compact
from harness.golden.container import (
    ContainerError,
    alien,
    decode,
    encode,
    read_label,
    restore,
)
from harness.golden.manifest import (
    MANIFEST,
    check_sealed,
    parse_manifest,
    plain,
    render_manifest,
    seal,
)
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
SCHEMA: Final = 2
#: Roles that tensors of an output may have, and what must be there by kind.
_ROLES: Final[Mapping[str, frozenset[str]]] = {
    "full": frozenset({"values"}),
    "top": frozenset({"values", "indices"}),
    "logits": frozenset({"values", "indices", "certain", "tail"}),
}


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
    operators: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    #: Case -> output -> what is kept of it, in the order of the cases.
    outputs: Mapping[str, Mapping[str, CompactOutput]] = field(default_factory=dict)
    #: Behaviour -> case -> {"answer", "right"}.
    behaviours: Mapping[str, Mapping[str, Mapping[str, Any]]] = field(
        default_factory=dict
    )
    reason: str = ""
    date: str = ""
    author: str = ""
    #: Set by the writer.
    digest: str = ""


def write_golden(golden: Golden, folder: Path) -> Golden:
    """Write a golden; it counts as written once it was read back bit for bit.

    It is written and read back beside the old one, which is replaced only then: a
    crash at any moment leaves the old golden or the new one, whole.

    Returns:
        The golden as it was read back, with its digest.

    Raises:
        GoldenCorrupt: what was read back is not what was written.
    """
    tensors, index = _flatten(golden)
    data = encode(tensors, label=golden.suite)
    checksum = hashlib.sha256(data).hexdigest()
    name = f"tensors-{checksum[:12]}.safetensors"
    manifest = _manifest(golden, index)
    manifest["digest"] = seal(manifest)
    manifest["files"] = {name: {"bytes": len(data), "sha256": checksum}}
    text = render_manifest(manifest)
    written = _read_back(folder, text, data, tensors)
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / name, data)
    if (folder / name).read_bytes() != data:
        raise GoldenCorrupt(
            f"{folder / name}: the disk gives back other bytes than were written"
        )
    write_atomically(folder / MANIFEST, text)
    _remove_others(folder, name)
    return written


def read_golden(folder: Path, *, suite: str | None = None) -> Golden:
    """Read and verify a golden.

    Nothing is taken from the files before it is verified; arrays are read-only.
    Memory: the size of the files, which must be what the manifest says.

    Args:
        folder: where it lies.
        suite: whose it should be; None: anyone's.

    Raises:
        GoldenMissing: nothing was recorded.
        GoldenCorrupt: truncated, altered, a git-LFS pointer, or not a golden.
        GoldenMismatch: of another suite or another schema.
    """
    folder = Path(folder)
    manifest = read_manifest(folder, suite=suite)
    name, record = _only_file(folder, manifest)
    return _assemble(manifest, _read_tensors(folder / name, record, manifest), folder)


def read_manifest(folder: Path, *, suite: str | None = None) -> dict[str, Any]:
    """The sealed manifest alone, verified; nothing of its tensors is read.

    Raises:
        GoldenMissing: nothing was recorded.
        GoldenCorrupt: truncated, altered or alien.
        GoldenMismatch: of another suite or another schema.
    """
    path = Path(folder) / MANIFEST
    try:
        data = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        raise GoldenMissing(
            f"no golden in {folder}: `quantharness record SUITE` records it"
        ) from None
    manifest = parse_manifest(data, str(path))
    schema = manifest.get("schema")
    if schema != SCHEMA:
        raise GoldenMismatch(
            f"{folder}: schema {str(schema)[:40]!r}, but this version reads {SCHEMA}; "
            "`quantharness record --renew` records it anew"
        )
    check_sealed(manifest, str(path))
    if suite is not None and manifest["suite"] != suite:
        raise GoldenMismatch(
            f"{folder}: sealed and whole, but it is the golden of suite "
            f"{manifest['suite']!r}, not of {suite!r}"
        )
    return manifest


def write_atomically(path: Path, data: bytes) -> None:
    """Temporary file, fsync, rename."""
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        # mkstemp makes files for the owner alone; goldens are for everyone.
        Path(temporary).chmod(0o644)
        Path(temporary).replace(path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            Path(temporary).unlink()
        raise


def _read_back(
    folder: Path, text: bytes, data: bytes, tensors: Mapping[str, Array]
) -> Golden:
    """Decode what is about to be written, and compare it bit for bit."""
    manifest = parse_manifest(text, str(folder / MANIFEST))
    check_sealed(manifest, str(folder / MANIFEST))
    golden = _assemble(manifest, decode(data), folder)
    again, _ = _flatten(golden)
    for name, array in tensors.items():
        other = again[name]
        if (
            other.dtype != array.dtype
            or other.shape != array.shape
            or other.tobytes() != array.tobytes()
        ):
            raise GoldenCorrupt(f"{folder}: tensor {name} does not read back the same")
    return golden


def _remove_others(folder: Path, keep: str) -> None:
    """Tensors of goldens that were replaced."""
    for path in folder.glob("tensors*.safetensors"):
        if path.name != keep:
            path.unlink(missing_ok=True)


def _flatten(golden: Golden) -> tuple[dict[str, Array], dict[str, Any]]:
    """Tensors by name, and what the manifest says of each output."""
    tensors: dict[str, Array] = {}
    index: dict[str, Any] = {}
    for number, (case, outputs) in enumerate(golden.outputs.items()):
        index[case] = {}
        for output, entry in outputs.items():
            record: dict[str, Any] = {}
            for role, array in entry.tensors.items():
                name = _tensor_name(number, output, role)
                tensors[name] = array
                record[role] = {
                    "dtype": array.dtype.name,
                    "shape": list(array.shape),
                    "digest": content_digest({"": array}),
                }
            index[case][output] = {
                "kind": entry.kind,
                "shape": list(entry.shape),
                "dtype": entry.dtype,
                "bound": plain(dict(entry.bound)),
                "tensors": record,
            }
    return tensors, index


def _tensor_name(case: int, output: str, role: str) -> str:
    return f"{case:05d}.{output}.{role}"


def _manifest(golden: Golden, index: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "schema": golden.schema,
        "suite": golden.suite,
        "reason": golden.reason,
        "date": golden.date,
        "author": golden.author,
        "model_fingerprint": golden.model_fingerprint,
        "cases_fingerprint": golden.cases_fingerprint,
        "precision": plain(golden.precision),
        "noise_floor": plain(golden.noise_floor),
        "environment": plain(golden.environment),
        "behaviours": plain(golden.behaviours),
        "operators": plain(golden.operators),
        "cases": list(golden.outputs),
        "outputs": dict(index),
    }


def _only_file(folder: Path, manifest: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """Name and record of the tensors' file; the name may not lead elsewhere."""
    files = manifest.get("files")
    if isinstance(files, dict) and len(files) == 1:
        name, record = next(iter(files.items()))
        inside = name.startswith("tensors-") and Path(name).name == name
        if inside and "\\" not in name and isinstance(record, dict):
            return name, record
    raise GoldenCorrupt(f"{folder / MANIFEST}: its list of files was altered")


def _read_tensors(
    path: Path, record: Mapping[str, Any], manifest: Mapping[str, Any]
) -> dict[str, Array]:
    data = _read_file(path, record)
    try:
        tensors = decode(data)
    except ContainerError as error:
        raise GoldenCorrupt(
            f"{path}: {error}; restore it from git, or `quantharness record --renew`"
        ) from None
    if hashlib.sha256(data).hexdigest() == record.get("sha256"):
        return tensors
    label = read_label(data)
    if label.intact and label.text != manifest["suite"]:
        raise GoldenMismatch(
            f"{path}: whole, but these are the tensors of suite {label.text!r}, "
            f"beside the manifest of {manifest['suite']!r}"
        )
    # Names the output, where it is an output's bytes that were changed.
    _assemble(manifest, tensors, path.parent)
    raise GoldenCorrupt(_altered(path.parent, ["the file's header"]))


def _read_file(path: Path, record: Mapping[str, Any]) -> bytes:
    """The file's bytes, once its size is what the manifest says.

    What it holds is verified tensor by tensor, so that the message can say which.
    """
    wanted = record.get("bytes")
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            head = file.read(64)
            if (what := alien(head)) and size != wanted:
                raise GoldenCorrupt(f"{path}: {what}")
            if size != wanted:
                raise GoldenCorrupt(
                    f"{path}: {'truncated' if _less(size, wanted) else 'altered'}: "
                    f"{size} bytes, but should be {str(wanted)[:20]}; restore it from "
                    "git, or `quantharness record --renew`"
                )
            return head + file.read(max(0, size - len(head)))
    except FileNotFoundError:
        raise GoldenCorrupt(f"{path}: missing beside its manifest") from None


def _less(size: int, wanted: Any) -> bool:
    return isinstance(wanted, int) and size < wanted


def _assemble(
    manifest: Mapping[str, Any], tensors: Mapping[str, Array], folder: Path
) -> Golden:
    """The golden of a sealed manifest, each tensor verified.

    Raises:
        GoldenCorrupt: names every output, up to three, whose bytes were changed.
    """
    outputs: dict[str, dict[str, CompactOutput]] = {}
    altered: list[str] = []
    used = 0
    for number, case in enumerate(manifest["cases"]):
        outputs[case] = {}
        for output, entry in manifest["outputs"][case].items():
            found: dict[str, Array] = {}
            for role, record in entry["tensors"].items():
                name = _tensor_name(number, output, role)
                used += 1
                try:
                    array = restore(
                        tensors[name], record["dtype"], tuple(record["shape"])
                    )
                except (KeyError, ContainerError):
                    altered.append(f"{case}/{output}")
                    continue
                if content_digest({"": array}) != record["digest"]:
                    altered.append(f"{case}/{output}")
                found[role] = array
            if not altered:
                outputs[case][output] = _output(entry, found, folder)
    if altered or used != len(tensors):
        raise GoldenCorrupt(_altered(folder, altered))
    sealed = {key: manifest[key] for key in manifest if key in _FIELDS}
    return replace(Golden(**sealed), outputs=outputs)


_FIELDS: Final = frozenset(Golden.__dataclass_fields__) - {"outputs"}


def _output(
    entry: Mapping[str, Any], tensors: Mapping[str, Array], folder: Path
) -> CompactOutput:
    kind = entry["kind"]
    if kind not in _ROLES or not set(tensors) >= _ROLES[kind]:
        raise GoldenMismatch(f"{folder}: output kind {str(kind)[:40]!r} is not known")
    return CompactOutput(
        kind=kind,
        shape=tuple(entry["shape"]),
        dtype=entry["dtype"],
        tensors=tensors,
        bound=entry["bound"],
    )


def _altered(folder: Path, names: list[str]) -> str:
    unique = list(dict.fromkeys(names))
    what = ", ".join(unique[:3]) or "the list of tensors"
    more = f" and {len(unique) - 3} more" if len(unique) > 3 else ""
    return (
        f"{folder}: not what was sealed: {what}{more} was changed after "
        "recording; restore it from git, or `quantharness record --renew`"
    )
