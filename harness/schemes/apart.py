"""Quantizers that run in a process of their own.

Some change the interpreter that they are imported into: ModelOpt replaces methods of
ONNX Runtime's quantizer, for everyone and for good. Others have packages that do not go
with ours, and an environment of their own. Model, calls and options are handed over as
files; what comes back is a file too.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np

from harness.environments import is_inside, launch, variables
from harness.errors import UsageError
from harness.files import write_json
from harness.models.types import Model

Array = np.ndarray[Any, np.dtype[Any]]
Feeds = Mapping[str, Array]

#: Files of the folder that is handed over.
MODEL: Final = "model.onnx"
CALLS: Final = "calls.npz"
OPTIONS: Final = "options.json"
MADE: Final = "quantized.onnx"
FAILED: Final = "failed.json"
#: What runs there.
MODULE: Final = "harness.schemes.apart_worker"
#: Characters of a process's last words that are shown.
_SHOWN: Final = 300


class RaisedApart(Exception):  # noqa: N818 - what it is
    """What a quantizer raised in its process.

    Attributes:
        kind: name of the exception's class.
    """

    def __init__(self, kind: str, text: str) -> None:
        self.kind = kind
        super().__init__(text)


def quantize_apart(
    library: str,
    model: Model,
    calls: Sequence[Feeds],
    options: Mapping[str, Any],
    file: Path,
    *,
    environment: str = "",
) -> None:
    """Let a library's quantizer write a file.

    Args:
        library: a name in `apart_worker.LIBRARIES`.
        model: what is quantized.
        calls: inputs of calls to calibrate with.
        options: what the quantizer is called with.
        file: where to; its folder takes what is handed over.
        environment: name of the environment that it runs in; "": this one.

    Raises:
        UsageError: an option that it has not.
        BackendError: the environment was not made.
        RaisedApart: it fails, or its process dies.
    """
    import onnx

    folder = file.parent / "apart"
    folder.mkdir()
    onnx.save(model.onnx(), str(folder / MODEL))
    named: dict[str, Any] = {
        f"{number}/{key}": array
        for number, call in enumerate(calls)
        for key, array in call.items()
    }
    np.savez(folder / CALLS, **named)
    write_json(folder / OPTIONS, dict(options))
    command, given = _start(environment)
    done = subprocess.run(  # noqa: S603 - our own interpreter
        [*command, library, str(folder)],
        cwd=folder,
        # What it leaves in its temporary folder goes with ours.
        env={**os.environ, **given, "TMPDIR": str(folder)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        check=False,
    )
    # The log of a target's worker shows it.
    sys.stderr.write(done.stdout)
    if (folder / FAILED).exists():
        told = json.loads((folder / FAILED).read_text(encoding="utf-8"))
        if told["kind"] == UsageError.__name__:
            raise UsageError(told["text"])
        raise RaisedApart(told["kind"], told["text"])
    if done.returncode or not (folder / MADE).exists():
        words = " ".join(done.stdout.split())[-_SHOWN:] or "nothing"
        raise RaisedApart(
            "no file", f"its process ended with {done.returncode}; it said: {words}"
        )
    (folder / MADE).replace(file)


def _start(environment: str) -> tuple[list[str], Mapping[str, str]]:
    """The command that runs our module, and its variables."""
    if environment and not is_inside(environment):
        return launch(environment, MODULE), variables(environment)
    path = os.pathsep.join(path for path in sys.path if path)
    return [sys.executable, "-m", MODULE], {"PYTHONPATH": path}


def read_calls(file: Path) -> list[dict[str, Array]]:
    """The calls that were handed over, in order."""
    calls: dict[int, dict[str, Array]] = {}
    with np.load(file) as held:
        for name in held.files:
            number, _, key = name.partition("/")
            calls.setdefault(int(number), {})[key] = held[name]
    return [calls[number] for number in sorted(calls)]
