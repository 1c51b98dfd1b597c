"""What the scripts that generate pages of this folder share."""

from __future__ import annotations

import difflib
import re
import sys
from pathlib import Path
from typing import Final

#: Before and after the reason that an acknowledgement gives.
_ACKNOWLEDGED: Final = re.compile(
    r"acknowledged until \S+ by [^(]*\((.*?); budgets\.toml:\d+\): .*"
)
#: Characters of a reason that are kept.
_LONGEST: Final = 300


def settle(page: Path, wanted: str, *, check: bool, script: str) -> int:
    """Write a page; or with `check` say that it is stale and where, and give 1."""
    if not check:
        page.write_text(wanted, encoding="utf-8")
        return 0
    found = page.read_text(encoding="utf-8") if page.exists() else ""
    if found == wanted:
        return 0
    print(f"{page.name} is stale: run python docs/{Path(script).name}")
    lines = (text.splitlines(keepends=True) for text in (found, wanted))
    sys.stderr.writelines(difflib.unified_diff(*lines, page.name, "should be", n=0))
    return 1


def short(reason: str) -> str:
    """A verdict's reason as one line, without folders of the machine that it ran on."""
    line = re.sub(r"(?<![\w.])/(?:[\w.@+-]+/)+", "", " ".join(reason.split()))
    line = _ACKNOWLEDGED.sub(r"\1", line)
    # What a quantizer made is kept under a digest.
    line = re.sub(r"\b[0-9a-f]{40}\.onnx", "its ONNX file", line)
    return line if len(line) <= _LONGEST else line[: _LONGEST - 3] + "..."
