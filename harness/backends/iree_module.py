"""ONNX through IREE: imported to MLIR, compiled for this processor, loaded and called.

What was compiled is kept in the user's cache folder under the digest of the model, the
compiler's version, its flags and the processor's instructions.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import io
import platform
import re
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from harness.backends.onnx_build import there_and_back
from harness.backends.threads import threads
from harness.errors import BackendError, UnsupportedError
from harness.files import write_bytes
from harness.models.export import cache_folder

if TYPE_CHECKING:
    import onnx

Array = np.ndarray[Any, np.dtype[Any]]

#: The function that a graph becomes.
_MAIN: Final = "main"
#: Without it IREE compiles for the oldest processor of the architecture, and warns.
_FLAGS: Final = ("--iree-llvmcpu-target-cpu=host",)
#: Bytes of compiled modules that are kept.
_CACHED: Final = 4 * 10**9
_SINGLE: Final = "local-sync"
_TASKS: Final = "local-task"


@dataclass(frozen=True, eq=False)
class Module:
    """A compiled model, loaded."""

    function: Any
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    #: Keeps the function's memory.
    context: Any

    def __call__(self, feeds: Sequence[Array]) -> dict[str, Array]:
        """Outputs by name, in memory of their own.

        Raises:
            BackendError: IREE refuses the inputs, or fails.
        """
        try:
            found = self.function(*feeds)
        except Exception as error:  # noqa: BLE001 - its classes have no common base
            raise BackendError(f"iree failed while it ran: {line(error)}") from None
        values = found if isinstance(found, tuple | list) else [found]
        # Copied: a device's array is a view of memory that goes with the session.
        arrays = [np.array(value.to_host()) for value in values]
        return dict(zip(self.outputs, arrays, strict=True))


def line(error: Exception) -> str:
    """An error's first lines as one."""
    return " ".join(str(error).split())[:400]


def open_model(proto: onnx.ModelProto) -> Module:
    """Import, compile (or find compiled) and load a model.

    Raises:
        UsageError: QUANTHARNESS_THREADS is not a whole number.
        UnsupportedError: the importer or the compiler does not know an operator or an
            element type.
        BackendError: what was compiled does not load.
    """
    driver = _driver()
    data = _compiled(proto)
    try:
        import iree.runtime as rt

        config = rt.Config(driver)
        module = rt.VmModule.copy_buffer(config.vm_instance, data)
        hal = rt.create_hal_module(config.vm_instance, config.device)
        context = rt.SystemContext(vm_modules=[hal, module], config=config)
        function = context.modules[module.name][_MAIN]
    except Exception as error:  # noqa: BLE001
        raise BackendError(f"iree does not load the model: {line(error)}") from None
    return Module(
        function,
        tuple(value.name for value in proto.graph.input),
        tuple(value.name for value in proto.graph.output),
        context,
    )


@functools.cache
def casts(element: int) -> str:
    """Why IREE does not cast to an ONNX element type; "" if it does.

    Found out by compiling two casts, once a process.
    """
    from onnx import TensorProto

    try:
        open_model(there_and_back(element))
    except UnsupportedError:
        name = TensorProto.DataType.Name(element)
        return f"IREE {version('iree-base-compiler')} has no ONNX Cast to {name}"
    return ""


def _driver() -> str:
    """One thread without a pool, or IREE's pool of as many as it finds right.

    Raises:
        UsageError: QUANTHARNESS_THREADS is not a whole number.
    """
    count = threads()
    if count == 1:
        return _SINGLE
    if count:
        import iree.runtime as rt

        rt.flags.parse_flags(f"--task_topology_max_group_count={count}")
    return _TASKS


def _compiled(proto: onnx.ModelProto) -> bytes:
    digest = hashlib.sha256(proto.SerializeToString(deterministic=True))
    digest.update(f"{version('iree-base-compiler')} {_FLAGS} {_processor()}".encode())
    file = cache_folder() / "iree" / f"{digest.hexdigest()[:40]}.vmfb"
    with contextlib.suppress(FileNotFoundError):
        return file.read_bytes()
    data = _compile(_import(proto))
    write_bytes(file, data)
    _forget_oldest(file.parent)
    return data


def _forget_oldest(folder: Path) -> None:
    """Keep the folder within its size: a module holds all weights, for each shape."""
    files = []
    for file in folder.glob("*.vmfb"):
        # Another process may be at it too.
        with contextlib.suppress(FileNotFoundError):
            found = file.stat()
            files.append((found.st_mtime, found.st_size, file))
    total = 0
    for _, size, file in sorted(files, reverse=True):
        total += size
        if total > _CACHED:
            file.unlink(missing_ok=True)


def _processor() -> str:
    """What the compiler may use: the processor's instructions, as the system says."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return f"{platform.machine()} {platform.processor()}"
    kept = ("flags", "Features", "model name")
    return str(sorted({row for row in text.splitlines() if row.startswith(kept)}))


def _import(proto: onnx.ModelProto) -> bytes:
    """MLIR's bytecode of an ONNX model, in torch-mlir's ONNX dialect.

    Raises:
        UnsupportedError: an element type that the importer does not know.
    """
    import onnx
    from iree.compiler.extras import onnx_importer
    from iree.compiler.ir import Context

    named = onnx.ModelProto()
    named.CopyFrom(proto)
    named.graph.name = _MAIN
    buffer = io.BytesIO()
    try:
        inferred = onnx.shape_inference.infer_shapes(named, data_prop=True)
        info = onnx_importer.ModelInfo(inferred)
        module = info.create_module(context=Context()).operation
        onnx_importer.NodeImporter.define_function(info.main_graph, module).import_all()
        module.verify()
        module.write_bytecode(buffer)
    except Exception as error:  # noqa: BLE001 - its classes have no common base
        raise UnsupportedError(
            f"IREE {version('iree-base-compiler')} does not import the model: "
            f"{line(error)}"
        ) from None
    return buffer.getvalue()


def _compile(data: bytes) -> bytes:
    """A module for this processor.

    Raises:
        UnsupportedError: an operator that does not lower to code.
    """
    from iree.compiler import compile_str

    try:
        compiled: bytes = compile_str(
            data,
            target_backends=["llvm-cpu"],
            input_type="onnx",
            extra_args=list(_FLAGS),
        )
    except Exception as error:  # noqa: BLE001
        raise UnsupportedError(
            f"IREE {version('iree-base-compiler')} does not compile the model: "
            f"{_first_error(str(error))}"
        ) from None
    return compiled


def _first_error(text: str) -> str:
    """The line of a compiler's output that says what is wrong."""
    rows = [row.strip() for row in text.splitlines() if "error:" in row]
    if rows:
        return rows[0].partition("error:")[2].strip()[:300]
    crash = re.search(r"Error code: -(\d+)", text)
    if crash:
        return f"the compiler crashed with signal {crash[1]}"
    return line(Exception(text))[:300]
