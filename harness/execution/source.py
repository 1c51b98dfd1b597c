"""What code measures: another harness, or another plugin, measures something else."""

from __future__ import annotations

import hashlib
import importlib.util
from collections.abc import Iterable
from functools import cache
from pathlib import Path

import harness


@cache
def source_digest() -> str:
    """SHA-256 of every Python file of the package, in hexadecimal."""
    return digest_of(sorted(Path(harness.__file__).parent.rglob("*.py")))


def plugin_digest(spec: str) -> str:
    """The same of what `--plugin` names: a file, a module, or all of a package."""
    return digest_of(_plugin_files(spec))


def digest_of(paths: Iterable[Path]) -> str:
    """The same of some files, in this order; one that is not there counts as such."""
    digest = hashlib.sha256()
    for path in paths:
        content = path.read_bytes() if path.is_file() else b"-"
        digest.update(hashlib.sha256(content).digest())
    return digest.hexdigest()


def _plugin_files(spec: str) -> list[Path]:
    if Path(spec).suffix == ".py":
        return [Path(spec)]
    found = importlib.util.find_spec(spec)
    if found is None or found.origin is None:
        return []
    origin = Path(found.origin)
    if found.submodule_search_locations is None:
        return [origin]
    return sorted(origin.parent.rglob("*.py"))
