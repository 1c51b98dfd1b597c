"""A torch module exported to ONNX, kept in the user's cache folder."""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import tempfile
import warnings
from collections import defaultdict
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from harness.errors import UnsupportedError
from harness.models.export_check import check_export
from harness.models.onnx_operators import find_operators, initializers_of

if TYPE_CHECKING:
    import onnx

    from harness.models.torch_model import TorchModel
    from harness.models.types import Operator

Array = np.ndarray[Any, np.dtype[Any]]
#: Part of the cache's key: raise it when the export itself changes.
_VERSION = "4"
#: Metadata of an export whose operators are just the module's.
_COUNT = "quantharness.operators"


def cache_folder() -> Path:
    """`$QUANTHARNESS_CACHE`, or `quantharness` in the user's cache folder."""
    own = os.environ.get("QUANTHARNESS_CACHE")
    if own:
        return Path(own)
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "quantharness"


def export(model: TorchModel) -> onnx.ModelProto:
    """The ONNX of a module, its operators named as the module's layers.

    Raises:
        UnsupportedError: the exporter refuses the module, or freezes a shape.
    """
    cached = cached_export(model)
    if cached is not None:
        return cached
    proto = _export(model)
    file = _cache_file(model)
    file.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=file.parent, suffix=".part")
    with os.fdopen(handle, "wb") as stream:
        stream.write(proto.SerializeToString())
        stream.flush()
        os.fsync(stream.fileno())
    Path(temporary).replace(file)
    return proto


def cached_export(model: TorchModel) -> onnx.ModelProto | None:
    """The export that an earlier run left, if it is whole; imports no torch."""
    import onnx
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

    try:
        cached = onnx.load(str(_cache_file(model)))
    except (OSError, DecodeError):
        return None
    return cached if cached.graph.node else None


def operators_of_export(proto: onnx.ModelProto) -> tuple[Operator, ...] | None:
    """The module's operators, read from its export when that holds all of them."""
    counts = {e.key: e.value for e in proto.metadata_props}
    found = find_operators(proto)
    if counts.get(_COUNT) != str(len(found)):
        return None
    initializers = initializers_of(proto)
    return tuple(entry.operator(initializers) for entry in found)


def _cache_file(model: TorchModel) -> Path:
    """Where the export of these weights, by this code and these packages, lies."""
    digest = hashlib.sha256(f"{_VERSION} {model.fingerprint}".encode())
    for package in ("onnx", "torch", "transformers"):
        with contextlib.suppress(PackageNotFoundError):
            digest.update(f"{package} {version(package)}".encode())
    for file in sorted(model.sources()):
        digest.update(file.read_bytes())
    return cache_folder() / "export" / f"{digest.hexdigest()[:40]}.onnx"


def _export(model: TorchModel) -> onnx.ModelProto:
    import onnx
    import torch

    from harness.models.onnx_normalize import normalize

    assert model.example is not None  # sanity check
    module = model.module()
    names = list(model.example)
    outputs = [spec.name for spec in model.outputs]
    example = tuple(torch.from_numpy(np.asarray(model.example[n])) for n in names)
    # By position, and one tensor for one output: what the exporter handles best.
    # In eval mode too: the exporter gives every layer back the wrapper's own mode.
    wrapper = _Positional(module, names, outputs).eval()
    axes = {
        name: {i: f"{name}_{i}" for i in range(model.example[name].ndim)}
        for name in names
    }
    buffer = io.BytesIO()
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            torch.onnx.export(
                wrapper,
                example,
                buffer,
                input_names=names,
                output_names=outputs,
                dynamic_axes=axes,
                opset_version=17,
                dynamo=False,
            )
    except Exception as error:
        text = " ".join(str(error).split())[:300]
        raise UnsupportedError(
            f"{model.name} cannot be exported to ONNX: {text}"
        ) from error
    proto = normalize(onnx.load_from_string(buffer.getvalue()))
    check_export(proto, module, dict(zip(names, example, strict=True)), model.name)
    weights = {o.name: o.weight for o in model.operators()}
    name_by_content(proto, weights)
    if {entry.name for entry in find_operators(proto)} == set(weights):
        proto.metadata_props.add(key=_COUNT, value=str(len(weights)))
    return proto


def _positional_class() -> Any:
    import torch

    class Positional(torch.nn.Module):  # type: ignore[misc]  # torch is untyped
        """Takes its inputs by position and returns its outputs as a tuple."""

        def __init__(
            self, inner: torch.nn.Module, names: list[str], outputs: list[str]
        ) -> None:
            super().__init__()
            self.inner = inner
            self.names = names
            self.outputs = outputs

        def forward(self, *inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
            found = self.inner(**dict(zip(self.names, inputs, strict=True)))
            return tuple(found[name] for name in self.outputs)

    return Positional


def _Positional(*arguments: Any) -> Any:  # noqa: N802 - stands for a class
    return _positional_class()(*arguments)


def _content(weight: Array) -> tuple[tuple[int, ...], bytes]:
    data = np.ascontiguousarray(weight, dtype=np.float32)
    return weight.shape, hashlib.sha256(data.tobytes()).digest()


def name_by_content(proto: onnx.ModelProto, weights: Mapping[str, Array]) -> None:
    """Name each operator's node as the layer whose weight it holds, in place.

    Weights are compared value by value, as stored or transposed, so the names do not
    depend on what the exporter calls things. Of equal weights the first comes first.
    """
    initializers = initializers_of(proto)
    waiting = defaultdict(list)
    for name, weight in weights.items():
        waiting[_content(weight)].append(name)
    renamed = {}
    for entry in find_operators(proto):
        stored = initializers[entry.weight]
        names = waiting[_content(stored.T if entry.transposed else stored)]
        if names:
            renamed[entry.node] = names.pop(0)
    taken = set(renamed.values())
    for index, node in enumerate(proto.graph.node):
        if index in renamed:
            node.name = renamed[index]
        elif node.name in taken:
            node.name = f"{node.name}_node"
