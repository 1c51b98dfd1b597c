"""Planting in the file that an engine loads: it really computes with those bytes."""

from __future__ import annotations

import contextlib
import dataclasses
import tempfile
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from harness.defects.stored.gguf_file import plant_gguf
from harness.defects.types import Defect, Planting
from harness.models.types import Model
from harness.schemes.apply import plan_one
from harness.schemes.types import Scheme


def load_planted_file(
    backend: Any, model: Model, scheme: Scheme, defect: Defect, planting: Planting
) -> tuple[OwnFile, tuple[str, ...]]:
    """A session of a planted copy of the file that a backend writes.

    The copy lies in a folder of its own until the session is closed; the file that the
    backend wrote, which later runs load, stays as it is.

    Args:
        backend: has `write(model, scheme)`, whose result has `file` and `names`, and
            `open_written(model, scheme, written)`.
        model: what is under test.
        scheme: only weights that it quantizes are planted in.
        defect: one of stored bytes.
        planting: of which operator (by our name), and how much.

    Returns:
        the session, and the operators whose bytes were changed.

    Raises:
        UnsupportedError: the defect fits no weight.
        BackendError: the engine refuses the planted file.
    """
    written = backend.write(model, scheme)
    ours = {theirs: name for name, theirs in written.names.items()}
    quantized = [
        written.names[operator.name]
        for operator in model.operators()
        if operator.name in written.names and plan_one(scheme, operator).weights
    ]
    one = planting.operator
    named = dataclasses.replace(
        planting, operator=None if one is None else written.names.get(one, one)
    )
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="planted-"))
        file = Path(folder) / written.file.name
        planted = plant_gguf(written.file, file, defect, named, among=quantized)
        session = backend.open_written(
            model, scheme, dataclasses.replace(written, file=file)
        )
        found = OwnFile(session, stack.pop_all())
    return found, tuple(ours[name] for name in planted.names)


class OwnFile:
    """A session whose file goes when it is closed."""

    def __init__(self, session: Any, files: contextlib.ExitStack) -> None:
        self._session = session
        self._files = files

    def __getattr__(self, name: str) -> Any:
        return getattr(self._session, name)

    def run(
        self, inputs: Mapping[str, Any], *, capture: Collection[str] = ()
    ) -> Mapping[str, Any]:
        """Run once, as the session does."""
        found: Mapping[str, Any] = self._session.run(inputs, capture=capture)
        return found

    def close(self) -> None:
        """Free what the session holds, and remove the file; twice does nothing."""
        self._session.close()
        self._files.close()
