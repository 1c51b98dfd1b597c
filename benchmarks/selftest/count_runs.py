"""A plugin: every run of an ONNX Runtime session leaves a byte in a file."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

VARIABLE = "BENCHMARK_COUNT_RUNS"


def register(_registry: Any) -> None:
    """Count from now on, in this process."""
    import onnxruntime

    path = Path(os.environ[VARIABLE])
    plain = onnxruntime.InferenceSession.run
    if getattr(plain, "counted", False):
        return

    def run(self: Any, *args: Any, **kwargs: Any) -> Any:
        with path.open("ab") as file:
            file.write(b".")
        return plain(self, *args, **kwargs)

    run.counted = True
    onnxruntime.InferenceSession.run = run
