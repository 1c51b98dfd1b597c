"""What the scripts that generate pages of this folder share."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

#: Before and after the reason that an acknowledgement gives.
_ACKNOWLEDGED: Final = re.compile(
    r"acknowledged until \S+ by [^(]*\((.*?); budgets\.toml:\d+\): .*"
)
#: Characters of a reason that are kept.
_LONGEST: Final = 300


def settle(page: Path, wanted: str, *, check: bool, script: str) -> int:
    """Write a page; or with `check` say that it is stale, and give 1."""
    if not check:
        page.write_text(wanted, encoding="utf-8")
        return 0
    if page.exists() and page.read_text(encoding="utf-8") == wanted:
        return 0
    print(f"{page.name} is stale: run python docs/{Path(script).name}")
    return 1


def short(reason: str) -> str:
    """A verdict's reason as one line, without folders of the machine that it ran on."""
    line = re.sub(r"(?<![\w.])/(?:[\w.@+-]+/)+", "", " ".join(reason.split()))
    line = _ACKNOWLEDGED.sub(r"\1", line)
    # What a quantizer made is kept under a digest.
    line = re.sub(r"\b[0-9a-f]{40}\.onnx", "its ONNX file", line)
    return line if len(line) <= _LONGEST else line[: _LONGEST - 3] + "..."
