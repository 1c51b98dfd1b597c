"""An ONNX file and the files that its tensors lie in."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from harness.errors import MissingExtraError, ModelError

if TYPE_CHECKING:
    import onnx


def load_file(file: Path) -> onnx.ModelProto:
    """A model with its tensors.

    Raises:
        ModelError: it cannot be read, or a tensor's file is missing or elsewhere.
        MissingExtraError: onnx is not installed.
    """
    try:
        import onnx
    except ImportError:
        raise MissingExtraError("onnx", "onnx") from None
    try:
        # Refuses tensors outside of the file's folder by itself.
        return onnx.load(str(file))
    except Exception as error:  # noqa: BLE001 - protobuf's, OSError, ValueError
        text = " ".join(str(error).split())[:300]
        raise ModelError(f"{file}: not an ONNX model: {text}") from None
