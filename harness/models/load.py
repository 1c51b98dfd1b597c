"""A model from what `model =` says in suite.toml."""

from __future__ import annotations

import importlib
import inspect
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from harness.errors import HarnessError, ModelError
from harness.models.types import Model


def load_model(spec: str, folder: Path) -> Model:
    """Load a `.onnx` or `.gguf` file, a Hugging Face folder, `package.module:factory`.

    Args:
        spec: the value of `model`.
        folder: the suite's folder: paths start there, and modules are found there.

    Raises:
        ModelError: it is not there, or not what it says.
    """
    path = folder / spec
    if path.suffix == ".onnx":
        from harness.models.onnx_model import OnnxModel

        model = OnnxModel(path.resolve())
        # A file that is not ONNX is an error now, not at the first run.
        _ = model.inputs
        return model
    if path.is_dir():
        return _from_folder(path.resolve())
    if path.suffix == ".gguf":
        from harness.models.gguf_file import unpack
        from harness.models.language import LanguageModel

        return LanguageModel(unpack(path.resolve()), name=path.stem)
    if ":" in spec:
        return _from_factory(spec, folder)
    raise ModelError(
        f"model={spec!r}: neither a .onnx file, nor a folder, nor "
        "package.module:factory"
    )


def _from_folder(folder: Path) -> Model:
    """A language model where the folder has a chat template, else any other."""
    from harness.models.chat import ChatTokenizer
    from harness.models.huggingface import huggingface
    from harness.models.language import LanguageModel

    if ChatTokenizer(folder).template:
        return LanguageModel(folder)
    return huggingface(folder)


def _from_factory(spec: str, folder: Path) -> Model:
    module_name, _, attribute = spec.partition(":")
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))
    try:
        module = importlib.import_module(module_name)
    except Exception as error:
        raise ModelError(
            f"model={spec!r}: {module_name} does not import: "
            f"{type(error).__name__}: {error}"
        ) from error
    factory = getattr(module, attribute, None)
    if not callable(factory):
        raise ModelError(f"model={spec!r}: {module_name} has no function {attribute!r}")
    try:
        made = factory()
    except HarnessError:
        raise
    except Exception as error:
        raise ModelError(
            f"model={spec!r}: the factory failed: {type(error).__name__}: {error}"
        ) from error
    return _as_model(made, spec)


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
    module = made
    arrays = None if example is None else _example(example, module, spec)
    return TorchModel(spec.partition(":")[2], lambda: module, example=arrays)


def _example(given: Any, module: Any, spec: str) -> dict[str, np.ndarray[Any, Any]]:
    """Example inputs by name: of a mapping its own, else the parameters of `forward`.

    Raises:
        ModelError: more inputs than parameters, or something else than arrays.
    """
    if not isinstance(given, Mapping):
        values = list(given) if isinstance(given, tuple | list) else [given]
        names = list(inspect.signature(module.forward).parameters)
        if len(values) > len(names):
            raise ModelError(
                f"model={spec!r} returns {len(values)} example inputs, but forward "
                f"takes {names}"
            )
        given = dict(zip(names, values, strict=False))
    arrays = {}
    for name, value in given.items():
        array = np.array(value.detach().numpy() if hasattr(value, "detach") else value)
        if array.dtype.kind not in "biuf":
            raise ModelError(
                f"model={spec!r}: example input {name!r} is {type(value).__name__}, "
                "but should be an array of numbers"
            )
        arrays[name] = array
    return arrays
