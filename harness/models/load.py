"""A model from what `model =` says in suite.toml."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

import numpy as np

from harness.errors import ModelError, UnsupportedError
from harness.models.types import Model


def load_model(spec: str, folder: Path) -> Model:
    """Load `model.onnx`, a Hugging Face folder, or `package.module:factory`.

    Args:
        spec: the value of `model`.
        folder: the suite's folder: paths start there, and modules are found there.

    Raises:
        ModelError: it is not there, or not what it says.
        UnsupportedError: a GGUF file.
    """
    path = folder / spec
    if path.suffix == ".onnx":
        from harness.models.onnx_model import OnnxModel

        model = OnnxModel(path.resolve())
        # A file that is not ONNX is an error now, not at the first run.
        _ = model.inputs
        return model
    if path.is_dir():
        from harness.models.huggingface import huggingface

        return huggingface(path.resolve())
    if path.suffix == ".gguf":
        raise UnsupportedError(f"{spec}: no backend here runs GGUF files")
    if ":" in spec:
        return _from_factory(spec, folder)
    raise ModelError(
        f"model={spec!r}: neither a .onnx file, nor a folder, nor "
        "package.module:factory"
    )


def _from_factory(spec: str, folder: Path) -> Model:
    module_name, _, attribute = spec.partition(":")
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        raise ModelError(
            f"model={spec!r}: {module_name} does not import: {error}"
        ) from None
    factory = getattr(module, attribute, None)
    if not callable(factory):
        raise ModelError(f"model={spec!r}: {module_name} has no function {attribute!r}")
    return _as_model(factory(), spec)


def _as_model(made: Any, spec: str) -> Model:
    """A model from what a factory returned."""
    if isinstance(made, Model):
        return made
    import torch

    from harness.models.torch_model import TorchModel

    example = None
    if isinstance(made, tuple) and len(made) == 2:
        made, example = made
    if not isinstance(made, torch.nn.Module):
        raise ModelError(
            f"model={spec!r} returns {type(made).__name__}, but should return a "
            "torch.nn.Module, or (module, {input name: array}), or a harness model"
        )
    arrays = None
    if example is not None:
        arrays = {
            name: value.numpy()
            if isinstance(value, torch.Tensor)
            else np.asarray(value)
            for name, value in example.items()
        }
    module = made
    name = spec.partition(":")[2]
    return TorchModel(name, lambda: module, example=arrays)
