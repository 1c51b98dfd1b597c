"""The golden's manifest: canonical JSON, sealed by the digest of its content."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any, Final

import numpy as np

from harness.errors import GoldenCorrupt
from harness.golden.container import alien
from harness.models.digest import content_digest

#: Its name in the golden's folder.
MANIFEST: Final = "manifest.json"
#: Largest manifest that is read.
LARGEST: Final = 64 << 20
#: Not part of the content: the seal itself, and how the content lies in files.
_OUTSIDE: Final = frozenset({"digest", "files"})
_TEXTS: Final = (
    "suite",
    "reason",
    "date",
    "author",
    "model_fingerprint",
    "cases_fingerprint",
)
_TABLES: Final = (
    "precision",
    "noise_floor",
    "environment",
    "behaviours",
    "operators",
    "outputs",
)


def plain(value: Any) -> Any:
    """The same value as JSON has it; NaN and infinities as {"$float": "nan"}."""
    if isinstance(value, Mapping):
        return {str(key): plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [plain(entry) for entry in value]
    if isinstance(value, np.ndarray):
        return plain(value.tolist())
    if isinstance(value, np.generic):
        return plain(value.item())
    if isinstance(value, float) and not math.isfinite(value):
        return {"$float": str(value)}
    if value is None or isinstance(value, str | bool | int | float):
        return value
    return str(value)


def restored(value: Any) -> Any:
    """The value that `plain` was given, but for its containers' types."""
    if isinstance(value, list):
        return [restored(entry) for entry in value]
    if not isinstance(value, dict):
        return value
    if set(value) == {"$float"} and value["$float"] in ("nan", "inf", "-inf"):
        return float(value["$float"])
    return {key: restored(entry) for key, entry in value.items()}


def seal(manifest: Mapping[str, Any]) -> str:
    """`content-v1:<hex>` of everything but the seal and the list of files."""
    rest = {key: value for key, value in manifest.items() if key not in _OUTSIDE}
    return content_digest({}, extra=plain(rest))


def render_manifest(manifest: Mapping[str, Any]) -> bytes:
    """Readable and diffable JSON, in the order given."""
    text = json.dumps(manifest, indent=1, ensure_ascii=False, allow_nan=False)
    return (text + "\n").encode()


def parse_manifest(data: bytes, path: str) -> dict[str, Any]:
    """The manifest's JSON.

    Raises:
        GoldenCorrupt: says what the file is instead.
    """
    if what := alien(data[:64]):
        raise GoldenCorrupt(f"{path}: {what}")
    if len(data) > LARGEST:
        raise GoldenCorrupt(f"{path}: {len(data)} bytes are no golden's manifest")
    try:
        manifest = json.loads(data)
    except (ValueError, RecursionError) as error:
        shown = str(error)[:80]
        raise GoldenCorrupt(f"{path}: truncated or not JSON ({shown})") from None
    if not isinstance(manifest, dict) or "schema" not in manifest:
        raise GoldenCorrupt(f"{path}: JSON, but not the manifest of a golden")
    return manifest


def check_sealed(manifest: dict[str, Any], path: str) -> None:
    """Verify the seal, then put NaN and infinities back in place.

    Raises:
        GoldenCorrupt: a character was changed after recording.
    """
    try:
        whole = manifest["digest"] == seal(manifest)
    except (KeyError, RecursionError, UnicodeEncodeError, ValueError):
        whole = False
    if not whole or not _well_formed(manifest):
        raise GoldenCorrupt(
            f"{path}: not what was sealed: a character was changed after recording; "
            "restore it from git, or `quantharness record --renew`"
        )
    manifest.update(
        {k: restored(value) for k, value in manifest.items() if k not in _OUTSIDE}
    )


def _well_formed(manifest: Mapping[str, Any]) -> bool:
    """Entries are there and of their type, as only our writer seals them."""
    return (
        all(isinstance(manifest.get(key), str) for key in _TEXTS)
        and all(isinstance(manifest.get(key), dict) for key in _TABLES)
        and isinstance(manifest.get("cases"), list)
        and manifest["cases"] == list(dict.fromkeys(manifest["cases"]))
        and set(manifest["cases"]) == set(manifest["outputs"])
    )
