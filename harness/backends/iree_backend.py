"""IREE: the graph that a scheme makes of the model, compiled for this processor.

A compiler of its own: neither its kernels nor its optimizer are another engine's. Its
importer of ONNX knows no FP8. It lives in an environment of its own:
`quantharness setup iree`.
"""

from __future__ import annotations

import hashlib
import io
import platform
import time
from collections.abc import Collection, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Final

import numpy as np

from harness.backends.environments import interpreter, is_inside, read_lock
from harness.backends.onnx_artifact import read_artifact
from harness.backends.onnx_build import support, unquantized, with_outputs
from harness.backends.onnx_language import with_cache
from harness.backends.protocol import (
    Arithmetic,
    Artifact,
    Availability,
    Outputs,
    Session,
    Support,
)
from harness.errors import BackendError, UnsupportedError
from harness.files import write_bytes
from harness.models.export import cache_folder
from harness.models.types import Model
from harness.numerics import find_format
from harness.schemes.onnx_activations import FP8_TYPES
from harness.schemes.types import Scheme

if TYPE_CHECKING:
    import onnx

    from harness.schemes.onnx_qdq import QuantizedModel

Array = np.ndarray[Any, np.dtype[Any]]
ENVIRONMENT: Final = "iree"
_PACKAGE: Final = "iree-base-compiler"
_OPTIONS: Final = ("--iree-llvmcpu-target-cpu=host",)
#: The function that the graph becomes.
_MAIN: Final = "main"
#: Compiled models that show operators, at a time: each holds all weights.
_KEPT: Final = 2


class IreeBackend:
    """IREE's compiler for the CPU, in its default configuration.

    Args:
        precision: of an unquantized model: "fp32".
        name: registered under it.
    """

    own_environment: ClassVar = ENVIRONMENT

    def __init__(self, precision: str = "fp32", *, name: str = "iree") -> None:
        self.name = name
        self.precision = precision

    def probe(self) -> Availability:
        """Whether its environment was made; inside it, whether IREE works."""
        lock = read_lock(ENVIRONMENT)
        if not is_inside(ENVIRONMENT):
            made = interpreter(ENVIRONMENT) is not None
            return Availability(
                available=made,
                version=lock.version(_PACKAGE) if made else "",
                device="cpu" if made else "",
                reason=""
                if made
                else f"not set up; `quantharness setup {ENVIRONMENT}` makes its "
                f"environment ({lock.size})",
            )
        try:
            import iree.compiler
            import iree.runtime  # noqa: F401
        except Exception as error:  # noqa: BLE001 - a broken install must not raise here
            return Availability(available=False, reason=f"does not import: {error}")
        return Availability(available=True, version=version(_PACKAGE), device="cpu")

    def supports(self, model: Model, scheme: Scheme) -> Support:
        """Whether ONNX operators and types that IREE imports express the scheme."""
        for tensor in (scheme.weights, scheme.activations):
            if tensor is None:
                continue
            fmt = find_format(tensor.format)
            if {fmt.element or fmt.name, fmt.scale} & set(FP8_TYPES):
                reason = (
                    f"iree: {fmt.name} holds FP8, which its importer of ONNX has not"
                )
                return Support(supported=False, reason=reason)
        return support(model, scheme)

    def load(self, model: Model, scheme: Scheme | None) -> Session:
        """Build and compile.

        Raises:
            UnsupportedError: an operator, type or shape that IREE does not compile.
        """
        if scheme is not None:
            return self.open_built(self.build(model, scheme), scheme)
        if self.precision != "fp32":
            raise UnsupportedError(f"iree does not run models in {self.precision}")
        plain = unquantized(model)
        return with_cache(IreeSession(plain), plain.proto)

    def build(self, model: Model, scheme: Scheme) -> QuantizedModel:
        """The ONNX model that a scheme becomes here: standard operators alone.

        Raises:
            UnsupportedError: the format has no expression.
        """
        from harness.schemes.onnx_qdq import build

        return build(model.onnx(), scheme, contributed=False)

    def open_built(self, built: QuantizedModel, scheme: Scheme) -> Session:
        """Compile a model that was built already.

        Raises:
            UnsupportedError: an operator, type or shape that IREE does not compile.
        """
        return with_cache(IreeSession(built, scheme), built.proto)


class IreeSession:
    """A compiled model.

    Args:
        built: the model and where its operators are.
        scheme: None for the reference.
    """

    def __init__(self, built: QuantizedModel, scheme: Scheme | None = None) -> None:
        self._built = built
        self._scheme = scheme
        self._bytes = built.proto.SerializeToString()
        self._inputs = [value.name for value in built.proto.graph.input]
        self._outputs = [value.name for value in built.proto.graph.output]
        self._plain = _Compiled(self._bytes)
        self._capturing: dict[tuple[str, ...], _Compiled] = {}
        self._closed = False

    def run(
        self, inputs: Mapping[str, Array], *, capture: Collection[str] = ()
    ) -> Outputs:
        """Run once; with captures, in the model that shows them.

        Raises:
            BackendError: closed, an input is missing, or IREE refuses them.
        """
        missing = sorted(set(self._inputs) - set(inputs))
        if self._closed or missing:
            raise BackendError(
                f"iree: the session is closed={self._closed}, inputs missing="
                f"{missing}, but should be open with inputs {self._inputs}"
            )
        feeds = {name: np.ascontiguousarray(inputs[name]) for name in self._inputs}
        names = tuple(capture)
        compiled = self._shown(names, feeds) if names else self._plain
        start = time.perf_counter()
        values = compiled(feeds)
        seconds = time.perf_counter() - start
        arrays = {name: values[name] for name in self._outputs}
        for name in names:
            x, y = self._built.observed[name]
            arrays[f"{name}/input"] = feeds[x] if x in feeds else values[x]
            arrays[name] = values[y]
        return Outputs(arrays, {"run": seconds})

    def _shown(self, names: tuple[str, ...], feeds: Collection[str]) -> _Compiled:
        if names not in self._capturing:
            while len(self._capturing) >= _KEPT:
                self._capturing.pop(next(iter(self._capturing)))
            tensors = {t for n in names for t in self._built.observed[n]} - set(feeds)
            self._capturing[names] = _Compiled(with_outputs(self._bytes, tensors))
        return self._capturing[names]

    def close(self) -> None:
        """Drop the compiled models; closing twice does nothing."""
        if not self._closed:
            self._closed = True
            self._capturing.clear()
            del self._plain

    def arithmetic(self) -> Arithmetic:
        """float32; decoded weights are folded into constants when it compiles."""
        held = self._plain.nbytes >> 20
        return Arithmetic(
            execution="emulated",
            detail="low-precision weights decoded, fp32 arithmetic; the compiled "
            f"module holds {held} MB",
        )

    def artifact(self) -> Artifact:
        """Weights as IREE itself decodes them from the built model's bytes."""
        assert self._scheme is not None  # sanity check
        return read_artifact(self._bytes, self._built, self._scheme, _evaluate)


class _Compiled:
    """One module and its function.

    Raises:
        UnsupportedError: IREE does not import or compile the model.
    """

    def __init__(self, data: bytes) -> None:
        import onnx
        from iree import runtime

        proto = onnx.shape_inference.infer_shapes(onnx.load_from_string(data))
        self._inputs = [value.name for value in proto.graph.input]
        self._outputs = [value.name for value in proto.graph.output]
        proto.graph.name = _MAIN
        module = _module(proto)
        self.nbytes = len(module)
        context = runtime.SystemContext(config=runtime.Config("local-task"))
        loaded = runtime.VmModule.copy_buffer(context.instance, module)
        context.add_vm_module(loaded)
        self._call = context.modules[loaded.name][_MAIN]

    def __call__(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Outputs by name, in memory of their own.

        Raises:
            BackendError: IREE refuses the inputs, or fails on them.
        """
        try:
            found = self._call(*(feeds[name] for name in self._inputs))
        except Exception as error:  # noqa: BLE001 - its classes have no common base
            raise BackendError(f"iree failed while it ran: {_line(error)}") from None
        values = found if isinstance(found, tuple | list) else (found,)
        # Copied: they may live in memory of the device that the next call reuses.
        arrays = (np.array(value.to_host()) for value in values)
        return dict(zip(self._outputs, arrays, strict=True))


def _module(proto: onnx.ModelProto) -> bytes:
    """The compiled model, from the cache if it was compiled before."""
    file = _cache_file(proto)
    if file.is_file():
        return file.read_bytes()
    import iree.compiler
    from iree.compiler.extras import onnx_importer
    from iree.compiler.ir import Context

    imported = io.BytesIO()
    try:
        info = onnx_importer.ModelInfo(proto)
        with Context() as context:
            module = info.create_module(context=context).operation
            importer = onnx_importer.NodeImporter
            importer.define_function(info.main_graph, module).import_all()
            module.verify()
            module.write_bytecode(imported)
        compiled: bytes = iree.compiler.compile_str(
            imported.getvalue(),
            input_type="onnx",
            target_backends=["llvm-cpu"],
            extra_args=list(_OPTIONS),
        )
    except Exception as error:
        raise UnsupportedError(f"iree does not compile it: {_line(error)}") from error
    write_bytes(file, compiled)
    return compiled


def _cache_file(proto: onnx.ModelProto) -> Path:
    """Named by the graph, the compiler and the processor it compiles for."""
    digest = hashlib.sha256(proto.SerializeToString(deterministic=True))
    for part in (version(_PACKAGE), *_OPTIONS, platform.machine(), *_processor()):
        digest.update(part.encode())
    return cache_folder() / "iree" / f"{digest.hexdigest()[:40]}.vmfb"


def _processor() -> list[str]:
    """What it says of itself; nothing where the system has no such file."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return []
    return sorted({line for line in lines if line.startswith(("flags", "model name"))})


def _line(error: Exception) -> str:
    """What the compiler says first of what is wrong."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    told = next((line for line in lines if "error:" in line), "")
    return (told or " ".join(lines))[:400]


def _evaluate(data: bytes) -> dict[str, Array]:
    return _Compiled(data)({})
