"""The evaluator of the ONNX specification itself: slow, in NumPy, without an optimizer.

It computes each operator by the definition that the specification gives, so where it
and an engine differ beyond accumulation noise, the engine deviates. Operators outside
the specification are not there; INT4 is stored in plain operators.
"""

from __future__ import annotations

import time
import traceback
from collections.abc import Collection, Mapping
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from harness.backends import installed
from harness.backends.onnx_artifact import read_artifact
from harness.backends.onnx_build import support, unquantized
from harness.backends.onnx_call import feeds_of, shown, tensors_of
from harness.backends.onnx_language import with_cache
from harness.backends.protocol import (
    Arithmetic,
    Artifact,
    Availability,
    Finding,
    Outputs,
    Session,
    Support,
    Variant,
)
from harness.errors import BackendError, UnsupportedError
from harness.models.types import Model
from harness.schemes.types import Scheme

if TYPE_CHECKING:
    from harness.schemes.onnx_model import QuantizedModel

Array = np.ndarray[Any, np.dtype[Any]]


class OnnxReferenceBackend:
    """`onnx.reference.ReferenceEvaluator`.

    Args:
        precision: of an unquantized model: "fp32" is all there is.
        name: registered under it.
        gathering: put a definition of GatherElements in place of the evaluator's own,
            which raises where there are more than 64 entries to gather from.
    """

    variants: ClassVar = {
        "gathering": Variant(
            summary="GatherElements by NumPy's take_along_axis, from any number",
            options={"gathering": True},
        )
    }

    def __init__(
        self,
        precision: str = "fp32",
        *,
        name: str = "onnx-reference",
        gathering: bool = False,
    ) -> None:
        self.name = name
        self.precision = precision
        self.gathering = gathering

    def probe(self) -> Availability:
        """Whether onnx is installed."""
        reason = installed.reason_against("onnx", "onnx")
        if reason:
            return Availability(available=False, reason=reason)
        return Availability(available=True, version=version("onnx"), device="cpu")

    def supports(self, model: Model, scheme: Scheme) -> Support:
        """Whether operators of the specification express the scheme."""
        return support(model, scheme)

    def preflight(self, model: Model) -> list[Finding]:
        """Operators that the specification defines no evaluation for."""
        from onnx.reference.ops import load_op

        from harness.backends.onnx_preflight import census

        found = []
        for kind, count in census(model.onnx()).items():
            try:
                load_op(kind.domain, kind.name, kind.version)
            except Exception as error:  # noqa: BLE001 - its classes have no common base
                found.append(Finding("missing", kind.title, count, _line(error)))
        return found

    def load(self, model: Model, scheme: Scheme | None) -> Session:
        """Build the graph.

        Raises:
            UnsupportedError: a precision, format or operator that is not there.
        """
        if scheme is None:
            if self.precision != "fp32":
                raise UnsupportedError(
                    f"onnx-reference does not run models in {self.precision}"
                )
            plain = unquantized(model)
            return self._session(plain, None)
        return self.open_built(self.build(model, scheme), scheme)

    def build(self, model: Model, scheme: Scheme) -> QuantizedModel:
        """The ONNX model that a scheme becomes here: standard operators alone.

        Raises:
            UnsupportedError: the format has no expression.
        """
        from harness.schemes.onnx_qdq import build

        return build(model.onnx(), scheme, contributed=False)

    def open_built(self, built: QuantizedModel, scheme: Scheme) -> Session:
        """Load a model that was built already."""
        return self._session(built, scheme)

    def _session(self, built: QuantizedModel, scheme: Scheme | None) -> Session:
        made = OnnxReferenceSession(built, scheme, gathering=self.gathering)
        return with_cache(made, built.proto)


class OnnxReferenceSession:
    """A graph and its evaluator.

    Args:
        built: the model and where its operators are.
        scheme: None for the reference.
        gathering: see the backend.

    Raises:
        UnsupportedError: an operator that the specification does not define.
    """

    def __init__(
        self,
        built: QuantizedModel,
        scheme: Scheme | None = None,
        *,
        gathering: bool = False,
    ) -> None:
        from onnx.reference import ReferenceEvaluator

        self._built = built
        self._scheme = scheme
        own = [_gather_elements()] if gathering else []
        try:
            self._evaluator = ReferenceEvaluator(built.proto, new_ops=own)
        except Exception as error:  # noqa: BLE001 - its classes have no common base
            raise UnsupportedError(f"onnx-reference: {_line(error)}") from None
        self._inputs = [value.name for value in built.proto.graph.input]
        self._outputs = [value.name for value in built.proto.graph.output]
        self._closed = False

    def run(
        self, inputs: Mapping[str, Array], *, capture: Collection[str] = ()
    ) -> Outputs:
        """Run once.

        Raises:
            BackendError: closed, an input is missing, or an operator's definition
                fails on what it gets.
        """
        feeds = feeds_of("onnx-reference", self._inputs, inputs, closed=self._closed)
        start = time.perf_counter()
        try:
            # NumPy warns of what IEEE arithmetic defines: 0/0, and NaN in a cast.
            with np.errstate(all="ignore"):
                found = self._evaluator.run(None, feeds, intermediate=True)
        except Exception as error:  # noqa: BLE001
            raise BackendError(
                f"onnx-reference failed{_where(error)}: {_line(error)}"
            ) from None
        seconds = time.perf_counter() - start
        tensors = {*self._outputs, *tensors_of(self._built.observed, capture, feeds)}
        values = {name: np.asarray(found[name]) for name in tensors}
        arrays = {name: values[name] for name in self._outputs}
        arrays |= shown(self._built.observed, capture, feeds, values)
        return Outputs(arrays, {"run": seconds})

    def close(self) -> None:
        """Drop the evaluator; closing twice does nothing."""
        self._closed = True

    def arithmetic(self) -> Arithmetic:
        """NumPy's float32, sums in the order of its BLAS."""
        return Arithmetic(
            execution="emulated", detail="the specification's evaluator, NumPy fp32"
        )

    def precision_report(self) -> dict[str, Any]:
        """float32, as the graph says."""
        return {"stored": "fp32", "computed": "fp32", "statement": "FP32 in NumPy"}

    def artifact(self) -> Artifact:
        """Weights as the evaluator itself decodes them from the built model."""
        assert self._scheme is not None  # sanity check
        data = self._built.proto.SerializeToString()
        return read_artifact(data, self._built, self._scheme, evaluate)


def _line(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"


def _where(error: Exception) -> str:
    """` in KIND NAME`, the node whose definition raised; "": it cannot be told."""
    for frame, _ in traceback.walk_tb(error.__traceback__):
        node = getattr(frame.f_locals.get("self"), "onnx_node", None)
        if node is not None:
            return f" in {node.op_type} {node.name}".rstrip()
    return ""


def _gather_elements() -> type:
    """GatherElements as the specification says it."""
    from onnx.reference.op_run import OpRun

    class GatherElements(OpRun):  # type: ignore[misc]
        """y[i][j] = x[i][index[i][j]] for axis 1, and so on."""

        def _run(self, data: Array, indices: Array, axis: int = 0) -> tuple[Array]:
            # It reaches no further than the indices do along the other axes.
            part = [slice(size) for size in indices.shape]
            part[axis] = slice(None)
            counted = indices.astype(np.int64)
            return (np.take_along_axis(data[tuple(part)], counted, axis),)

    return GatherElements


def evaluate(data: bytes) -> dict[str, Array]:
    """Outputs of a model without inputs, by name."""
    import onnx
    from onnx.reference import ReferenceEvaluator

    model = onnx.load_from_string(data)
    names = [value.name for value in model.graph.output]
    found = ReferenceEvaluator(model).run(names, {})
    return dict(zip(names, map(np.asarray, found), strict=True))
