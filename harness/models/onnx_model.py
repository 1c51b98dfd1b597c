"""A user's ONNX file as a model."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

import numpy as np

from harness.errors import CasesError, ModelError
from harness.models.types import Model, Operator, OutputKind, TensorSpec

if TYPE_CHECKING:
    import onnx
    import torch

Array = np.ndarray[Any, np.dtype[Any]]

#: ONNX element type -> NumPy dtype name, for inputs and outputs.
_DTYPES: Final[Mapping[int, str]] = {
    1: "float32",
    2: "uint8",
    3: "int8",
    6: "int32",
    7: "int64",
    9: "bool",
    10: "float16",
    11: "float64",
}
_LFS: Final = b"version https://git-lfs"


class OnnxModel(Model):
    """An ONNX file; read when it is first needed.

    Args:
        path: the file.
        name: short name; None: the file's.
        fixed: inputs that are constants of this model.
        state: output -> input carried from step to step.
        step_inputs: inputs with a leading step axis in a case.
        batch_axes: input -> its batch axis, where it is not 0.
        kinds: output -> what it means.
    """

    source: Literal["torch", "onnx"] = "onnx"

    def __init__(
        self,
        path: Path,
        *,
        name: str | None = None,
        fixed: Mapping[str, Array] | None = None,
        state: Mapping[str, str] | None = None,
        step_inputs: tuple[str, ...] = (),
        batch_axes: Mapping[str, int] | None = None,
        kinds: Mapping[str, OutputKind] | None = None,
    ) -> None:
        self.path = path
        self.name = name or path.stem
        self.fixed = dict(fixed or {})
        self.state = dict(state or {})
        self.step_inputs = step_inputs
        self.batch_axes = dict(batch_axes or {})
        self.kinds = dict(kinds or {})

    @cached_property
    def _original(self) -> onnx.ModelProto:
        return read_onnx(self.path)

    @cached_property
    def _plain(self) -> onnx.ModelProto:
        from harness.models.onnx_normalize import normalize

        return normalize(self._original, fixed=self.fixed)

    @cached_property
    def inputs(self) -> tuple[TensorSpec, ...]:  # type: ignore[override]
        """The graph's inputs, without those that are fixed."""
        return tuple(_spec(value, "tensor") for value in self._plain.graph.input)

    @cached_property
    def outputs(self) -> tuple[TensorSpec, ...]:  # type: ignore[override]
        """The graph's outputs."""
        return tuple(
            _spec(value, self.kinds.get(value.name, "tensor"))
            for value in self._plain.graph.output
        )

    @cached_property
    def metadata(self) -> Mapping[str, Any]:  # type: ignore[override]
        """The file's own metadata."""
        return {entry.key: entry.value for entry in self._original.metadata_props}

    @cached_property
    def fingerprint(self) -> str:
        """Digest of the file's tensors, nodes, inputs and outputs, and fixed inputs."""
        from harness.models.onnx_digest import model_digest

        return model_digest(self._original, self.fixed)

    def operators(self) -> tuple[Operator, ...]:
        """Every MatMul, Gemm and Conv with a constant weight."""
        from harness.models.onnx_operators import find_operators, initializers_of

        initializers = initializers_of(self._plain)
        return tuple(e.operator(initializers) for e in find_operators(self._plain))

    def module(self) -> torch.nn.Module:
        """The graph, run node by node by torch."""
        from harness.models.graph_module import GraphModule

        return GraphModule(self._plain).eval().requires_grad_(requires_grad=False)

    def onnx(self) -> onnx.ModelProto:
        """A copy of the plain form."""
        import onnx

        copy = onnx.ModelProto()
        copy.CopyFrom(self._plain)
        return copy

    def prepare(self, record: Mapping[str, Any], folder: str) -> Mapping[str, Array]:  # noqa: ARG002
        """A bare graph reads only literal inputs.

        Raises:
            CasesError: always; `inputs` is what such a record lacks.
        """
        raise CasesError(
            f'has keys {sorted(record)}, but should have "inputs": {{name: numbers}} '
            f"for {[spec.name for spec in self.inputs]}"
        )


def read_onnx(path: Path) -> onnx.ModelProto:
    """Read and check an ONNX file; external data must lie beside it.

    Raises:
        ModelError: not there, a git-LFS pointer, not ONNX, or not valid.
    """
    import onnx
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

    if not path.is_file():
        raise ModelError(f"{path}: no such file")
    with path.open("rb") as file:
        if file.read(len(_LFS)) == _LFS:
            raise ModelError(
                f"{path}: a git-LFS pointer, not the model; `git lfs pull` fetches it"
            )
    try:
        model = onnx.load(str(path), load_external_data=False)
        empty = not model.graph.node
    except (DecodeError, ValueError) as error:
        raise ModelError(f"{path}: not an ONNX file ({error})") from None
    if empty:
        raise ModelError(f"{path}: not an ONNX model: it has no nodes")
    try:
        # Refuses external data outside the model's folder.
        onnx.load_external_data_for_model(model, str(path.parent))
        onnx.checker.check_model(model, full_check=False)
    except (onnx.checker.ValidationError, OSError, ValueError) as error:
        text = " ".join(str(error).split())[:300]
        raise ModelError(f"{path}: not a valid ONNX model: {text}") from None
    return model


def _spec(value: onnx.ValueInfoProto, kind: OutputKind) -> TensorSpec:
    tensor = value.type.tensor_type
    shape = tuple(
        d.dim_value if d.HasField("dim_value") and d.dim_value > 0 else None
        for d in tensor.shape.dim
    )
    dtype = _DTYPES.get(tensor.elem_type)
    if dtype is None:
        raise ModelError(
            f"{value.name!r} has ONNX type {tensor.elem_type}; numbers only"
        )
    return TensorSpec(name=value.name, dtype=dtype, shape=shape, kind=kind)
