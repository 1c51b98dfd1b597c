"""IREE: the ONNX graph that a scheme makes, by a compiler of its own (MLIR, LLVM).

It shares no kernel and no optimizer with the other engines. Its importer has no FP8
element type; operators outside the ONNX specification are not there either, so INT4 is
stored in plain operators. It lives in an environment of its own: `quantharness setup
iree`.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, ClassVar, Final

import numpy as np

from harness.backends.apart import probe_from_outside
from harness.backends.iree_module import Module, casts, open_model
from harness.backends.onnx_artifact import read_artifact
from harness.backends.onnx_build import support, unquantized, with_outputs
from harness.backends.onnx_call import feeds_of, shown
from harness.backends.onnx_shapes import Shapes, fold_shapes, shapes_of, with_shapes
from harness.backends.onnx_tables import without_stored_fp8
from harness.backends.protocol import (
    Arithmetic,
    Artifact,
    Availability,
    Finding,
    Outputs,
    Support,
    Variant,
)
from harness.environments import is_inside
from harness.errors import BackendError, UnsupportedError
from harness.models.types import Model
from harness.numerics import find_format
from harness.schemes.onnx_activations import FP8_TYPES
from harness.schemes.types import Scheme

if TYPE_CHECKING:
    from harness.schemes.onnx_model import QuantizedModel

Array = np.ndarray[Any, np.dtype[Any]]

ENVIRONMENT: Final = "iree"
_PACKAGE: Final = "iree-base-compiler"
#: Compiled models at a time, beside the plain one: each holds all weights.
_KEPT: Final = 4


class IreeBackend:
    """IREE's compiler for CPUs, tuned for the one it runs on.

    Args:
        precision: of an unquantized model: "fp32" is all there is.
        name: registered under it.
        static: compile anew for each combination of input shapes, with the arithmetic
            of shapes worked out before.
    """

    own_environment: ClassVar = ENVIRONMENT
    variants: ClassVar = {
        "static": Variant(
            summary="compiled for each combination of input shapes",
            options={"static": True},
        )
    }

    def __init__(
        self, precision: str = "fp32", *, name: str = "iree", static: bool = False
    ) -> None:
        self.name = name
        self.precision = precision
        self.static = static

    def probe(self) -> Availability:
        """Whether its environment was made; inside it, whether IREE works."""
        if not is_inside(ENVIRONMENT):
            return probe_from_outside(ENVIRONMENT, _PACKAGE, "cpu llvm")
        try:
            import iree.compiler
            import iree.runtime  # noqa: F401
        except Exception as error:  # noqa: BLE001 - a broken install must not raise here
            return Availability(available=False, reason=f"does not import: {error}")
        return Availability(
            available=True, version=version(_PACKAGE), device="cpu llvm"
        )

    def supports(self, model: Model, scheme: Scheme) -> Support:
        """Whether ONNX operators and casts that IREE compiles express the scheme."""
        found = support(model, scheme)
        tensor = scheme.activations
        if not found.supported or tensor is None:
            return found
        fmt = find_format(tensor.format)
        for name in (fmt.element or fmt.name, fmt.scale):
            reason = casts(FP8_TYPES[name]) if name in FP8_TYPES else ""
            if reason:
                names = {operator.name: reason for operator in model.operators()}
                return Support(supported=False, reason=reason, operators=names)
        return found

    def preflight(self, model: Model) -> list[Finding]:
        """What the compiler says when it is given the whole model."""
        from harness.backends.onnx_preflight import dynamic_inputs

        proto = model.onnx()
        found = dynamic_inputs(proto, model.batch_axes)
        try:
            open_model(proto)
        except UnsupportedError as error:
            found.insert(0, Finding("missing", "the model", 1, str(error)))
        return found

    def load(self, model: Model, scheme: Scheme | None) -> IreeSession:
        """Build and compile.

        Raises:
            UnsupportedError: a precision, format, type or operator that is not there.
            BackendError: what was compiled does not load.
        """
        if scheme is None:
            if self.precision != "fp32":
                raise UnsupportedError(f"iree does not run models in {self.precision}")
            return IreeSession(unquantized(model), static=self.static)
        return self.open_built(self.build(model, scheme), scheme)

    def build(self, model: Model, scheme: Scheme) -> QuantizedModel:
        """The ONNX model that a scheme becomes here: standard operators alone.

        Raises:
            UnsupportedError: the format has no expression.
        """
        from harness.schemes.onnx_qdq import build

        return build(model.onnx(), scheme, contributed=False)

    def open_built(self, built: QuantizedModel, scheme: Scheme) -> IreeSession:
        """Compile a model that was built already.

        Raises:
            UnsupportedError: an operator or type that IREE does not have.
        """
        return IreeSession(built, scheme, static=self.static)


class IreeSession:
    """A compiled model; a second one, compiled when first asked, shows the operators.

    Args:
        built: the model and where its operators are.
        scheme: None for the reference.
        static: compile for the shapes of each call.
    """

    def __init__(
        self,
        built: QuantizedModel,
        scheme: Scheme | None = None,
        *,
        static: bool = False,
    ) -> None:
        self._built = built
        self._scheme = scheme
        self._static = static
        self._inputs = [value.name for value in built.proto.graph.input]
        self._outputs = [value.name for value in built.proto.graph.output]
        self._modules: dict[tuple[Shapes, bool], Module] = {}
        self._closed = False
        # What does not compile raises now, where the shapes do not matter.
        self._plain = None if static else self._compile((), showing=False)

    def run(
        self, inputs: Mapping[str, Array], *, capture: Collection[str] = ()
    ) -> Outputs:
        """Run once; with captures, in the model that shows every operator.

        Raises:
            BackendError: closed, an input is missing or of another shape, an operator
                is unknown, or IREE refuses them.
        """
        unknown = sorted(set(capture) - set(self._built.observed))
        if unknown:
            raise BackendError(f"iree: the model has no operators {unknown}")
        feeds = feeds_of("iree", self._inputs, inputs, closed=self._closed)
        self._check_shapes(feeds)
        module = self._module(feeds, showing=bool(capture))
        start = time.perf_counter()
        values = module([feeds[name] for name in self._inputs])
        seconds = time.perf_counter() - start
        arrays = {name: values[name] for name in self._outputs}
        arrays |= shown(self._built.observed, capture, feeds, values)
        return Outputs(arrays, {"run": seconds})

    def _check_shapes(self, feeds: Mapping[str, Array]) -> None:
        """IREE reads what it is given as the shape that the graph says.

        Raises:
            BackendError: an input has another rank, or another length of a fixed axis.
        """
        for value in self._built.proto.graph.input:
            found = feeds[value.name].shape
            axes = value.type.tensor_type.shape.dim
            fixed = [axis.dim_value for axis in axes]
            if len(found) != len(fixed) or any(
                want and want != have for want, have in zip(fixed, found, strict=True)
            ):
                raise BackendError(
                    f"iree: input {value.name} has shape {found}, but should have "
                    f"{[axis or '?' for axis in fixed]}"
                )

    def _module(self, feeds: Mapping[str, Array], *, showing: bool) -> Module:
        shapes = shapes_of(feeds) if self._static else ()
        if self._plain is not None and not showing:
            return self._plain
        key = (shapes, showing)
        if key in self._modules:
            # The one used last is dropped last.
            self._modules[key] = self._modules.pop(key)
        else:
            while len(self._modules) >= _KEPT:
                self._modules.pop(next(iter(self._modules)))
            self._modules[key] = self._compile(shapes, showing=showing)
        return self._modules[key]

    def _compile(self, shapes: Shapes, *, showing: bool) -> Module:
        import onnx

        proto = self._built.proto
        data = proto.SerializeToString()
        if showing:
            tensors = {name for pair in self._built.observed.values() for name in pair}
            data = with_outputs(data, tensors - set(self._inputs))
        model = onnx.ModelProto()
        model.ParseFromString(with_shapes(data, shapes) if shapes else data)
        if shapes:
            model = fold_shapes(model)
        return open_model(without_stored_fp8(model))

    def close(self) -> None:
        """Drop the compiled models; closing twice does nothing."""
        self._closed = True
        self._modules.clear()
        self._plain = None

    def arithmetic(self) -> Arithmetic:
        """float32 throughout: weights are decoded in the graph."""
        shapes = "each combination of shapes" if self._static else "any shapes"
        return Arithmetic(
            execution="emulated",
            detail="low-precision weights decoded in the graph, fp32 arithmetic; "
            f"llvm-cpu, compiled for {shapes}",
        )

    def precision_report(self) -> dict[str, Any]:
        """What the graph says: the compiler is given no leave to change it."""
        return {
            "stored": "fp32",
            "computed": "fp32",
            "probe": "element types of the graph that is compiled",
            "statement": "FP32 storage, FP32 arithmetic",
        }

    def artifact(self) -> Artifact:
        """Weights as IREE itself decodes them from the built model's bytes."""
        assert self._scheme is not None  # sanity check
        data = self._built.proto.SerializeToString()
        return read_artifact(data, self._built, self._scheme, _evaluate)


def _evaluate(data: bytes) -> dict[str, Array]:
    """Outputs of a model without inputs: its codes and scales become the inputs.

    Of a graph of nothing but constants the compiler would make no code to run.
    """
    import onnx
    from onnx import helper, numpy_helper

    whole = onnx.ModelProto()
    whole.ParseFromString(data)
    model = without_stored_fp8(whole)
    graph = model.graph
    given = [t for t in graph.initializer if "/weight_" in t.name]
    for tensor in given:
        graph.initializer.remove(tensor)
        graph.input.append(
            helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims)
        )
    return open_model(model)([numpy_helper.to_array(tensor) for tensor in given])
