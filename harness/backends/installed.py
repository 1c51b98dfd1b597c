"""Whether the packages of an extra are here, in versions that the harness knows."""

from __future__ import annotations

import functools
import importlib.util
from importlib.metadata import PackageNotFoundError, requires, version
from typing import TYPE_CHECKING

from harness.errors import MissingExtraError

if TYPE_CHECKING:
    from packaging.specifiers import SpecifierSet


def reason_against(extra: str, *packages: str) -> str:
    """Why a backend cannot use its packages; "" if it can.

    Args:
        extra: of quantharness, which says the versions.
        packages: names under which they are imported and, but for builds that share
            an import, installed.
    """
    for package in packages:
        if importlib.util.find_spec(package) is None:
            return str(MissingExtraError(package, extra))
        try:
            found = version(package)
        except PackageNotFoundError:
            # Another build with the same import, such as onnxruntime-gpu.
            continue
        wanted = _wanted(extra).get(package)
        if wanted is not None and not wanted.contains(found, prereleases=True):
            return (
                f"{package} {found} is installed, but should be {wanted}: "
                f"pip install 'quantharness[{extra}]'"
            )
    return ""


@functools.cache
def _wanted(extra: str) -> dict[str, SpecifierSet]:
    """Package -> the versions that an extra asks for."""
    from packaging.requirements import Requirement

    try:
        lines = requires("quantharness") or []
    except PackageNotFoundError:
        # In an environment of its own, whose lock says the versions.
        return {}
    entries = [Requirement(line) for line in lines]
    return {
        entry.name: entry.specifier
        for entry in entries
        if entry.marker is not None and entry.marker.evaluate({"extra": extra})
    }
