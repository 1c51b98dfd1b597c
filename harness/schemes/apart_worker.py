"""`python -m harness.schemes.apart_worker LIBRARY FOLDER`: see `schemes.apart`."""

from __future__ import annotations

import json
import sys
import traceback
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Final

from harness.files import write_json
from harness.processes import die_with_parent
from harness.schemes.apart import CALLS, FAILED, MADE, MODEL, OPTIONS, read_calls

#: Library -> module whose `quantize(model, calls, options, made)` writes its file.
LIBRARIES: Final[Mapping[str, str]] = {
    "modelopt": "harness.schemes.modelopt_quantizer",
    "quark": "harness.schemes.quark_quantizer",
}


def main(library: str, folder: Path) -> None:
    """Quantize what lies in the folder; what is raised is written there."""
    die_with_parent()
    try:
        options = json.loads((folder / OPTIONS).read_text(encoding="utf-8"))
        quantize = import_module(LIBRARIES[library]).quantize
        quantize(folder / MODEL, read_calls(folder / CALLS), options, folder / MADE)
    except Exception as error:  # noqa: BLE001 - a library may raise anything
        traceback.print_exc()
        told = {"kind": type(error).__name__, "text": " ".join(str(error).split())}
        write_json(folder / FAILED, told)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
