"""Libraries' quantizers: what users deploy is what they make of the model.

A quantizer is called with its own defaults but for the `options` of the scheme's table.
Those of ONNX get the model in its normal form, so that operators keep their names, and
write a file; torchao gets the module. What they make becomes the scheme's checkpoint.
Their packages are imported when they are called, where they change what others import
in a process of their own.
"""

from __future__ import annotations

import contextlib
import difflib
import functools
import hashlib
import inspect
import json
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

import numpy as np

from harness.environments import interpreter, is_inside, read_lock
from harness.errors import MissingExtraError, ModelError, UnsupportedError, UsageError
from harness.files import write_bytes
from harness.models.export import cache_folder
from harness.models.types import Model
from harness.schemes import modelopt_quantizer, quark_quantizer
from harness.schemes.apart import quantize_apart
from harness.schemes.onnx_quantizers import (
    nncf_compress_weights,
    nncf_function,
    nncf_quantize,
    ort_dynamic,
    ort_function,
    ort_static,
)
from harness.schemes.quantizer_options import check_options
from harness.schemes.torchao_configs import (
    CONFIGS,
    PREFIX,
    config_class,
    dtype_of,
    quantize_module,
    stored_weight_of,
    write_checkpoint,
)
from harness.schemes.types import Scheme

Array = np.ndarray[Any, np.dtype[Any]]
#: One call's inputs by name.
Feeds = Mapping[str, Array]
Options = Mapping[str, Any]

#: Part of the cache's key: raise it when what is handed to the quantizers changes.
_VERSION: Final = "1"


@dataclass(frozen=True)
class Quantizer:
    """One function of a library."""

    #: Distribution that has it, and the extra that brings it.
    package: str
    extra: str
    #: Whether it has inputs rounded too, and whether it is shown calls of the model.
    inputs: bool
    calibrated: bool
    call: Callable[[Model, Sequence[Feeds], dict[str, Any], Path], None]
    #: The function whose parameters the options are; None: `call` checks them.
    function: Callable[[], Callable[..., Any]] | None = None
    #: Parameters that the harness gives.
    given: tuple[str, ...] = ()
    #: What it imports, where that is not called as the distribution is.
    imports: tuple[str, ...] = ()
    #: Distributions beside it whose version makes the file another.
    packages: tuple[str, ...] = ("onnx",)
    #: Name of the environment that it lives in; "": ours, where its extra brings it.
    environment: str = ""
    #: Options with which it leaves inputs alone, though `inputs` says otherwise.
    alone: Callable[[Options], bool] = field(default=lambda _: False)
    #: What it makes: a quantized ONNX file, or a folder of safetensors.
    file: bool = True

    def rounds_inputs(self, options: Options) -> bool:
        """Whether it has inputs rounded when it is called with these options."""
        return self.inputs and not self.alone(options)


def _quark(
    name: str,
    model: Model,
    calls: Sequence[Feeds],
    options: dict[str, Any],
    file: Path,
) -> None:
    quantize_apart(
        quark_quantizer.ENVIRONMENT,
        model,
        calls,
        {**options, "config": name},
        file,
        environment=quark_quantizer.ENVIRONMENT,
    )


def _torchao(
    name: str, model: Model, _: Sequence[Feeds], options: dict[str, Any], folder: Path
) -> None:
    quantizer = f"{PREFIX}{name}"
    scheme = Scheme(name=name, weights=None, quantizer=quantizer, options=options)
    module = model.module().eval()
    if dtype_of(scheme) == "bfloat16":
        module = module.bfloat16()
    names = [entry.name for entry in model.operators() if entry.kind == "linear"]
    if not names:
        raise ModelError("it quantizes linear layers, of which the model has none")
    quantize_module(module, names, scheme)
    folder.mkdir()
    layers = {
        name: stored_weight_of(module.get_submodule(name).weight, name)
        for name in names
    }
    write_checkpoint(folder, layers)


#: `PACKAGE:FUNCTION` -> what it is.
QUANTIZERS: Final[Mapping[str, Quantizer]] = {
    "onnxruntime:quantize_dynamic": Quantizer(
        package="onnxruntime",
        extra="onnxruntime",
        inputs=True,
        calibrated=False,
        function=ort_function("quantize_dynamic"),
        given=("model_input", "model_output"),
        call=ort_dynamic,
    ),
    "onnxruntime:quantize_static": Quantizer(
        package="onnxruntime",
        extra="onnxruntime",
        inputs=True,
        calibrated=True,
        function=ort_function("quantize_static"),
        given=("model_input", "model_output", "calibration_data_reader"),
        call=ort_static,
    ),
    "nncf:quantize": Quantizer(
        package="nncf",
        extra="nncf",
        inputs=True,
        calibrated=True,
        function=nncf_function("quantize"),
        given=("model", "calibration_dataset"),
        call=nncf_quantize,
    ),
    "nncf:compress_weights": Quantizer(
        package="nncf",
        extra="nncf",
        inputs=False,
        calibrated=False,
        function=nncf_function("compress_weights"),
        given=("model", "dataset"),
        call=nncf_compress_weights,
    ),
    modelopt_quantizer.NAME: Quantizer(
        package="nvidia-modelopt",
        extra="modelopt",
        inputs=True,
        calibrated=True,
        call=functools.partial(quantize_apart, "modelopt"),
        imports=modelopt_quantizer.IMPORTS,
        packages=("onnx", "onnxruntime"),
        alone=modelopt_quantizer.leaves_inputs_alone,
    ),
    **{
        f"{quark_quantizer.PREFIX}{name}": Quantizer(
            package="amd-quark",
            extra="",
            inputs=True,
            calibrated=True,
            call=functools.partial(_quark, name),
            environment=quark_quantizer.ENVIRONMENT,
        )
        for name in quark_quantizer.CONFIGS
    },
    **{
        f"{PREFIX}{name}": Quantizer(
            package="torchao",
            extra="torchao",
            inputs=entry.activations is not None,
            calibrated=False,
            function=functools.partial(config_class, name),
            call=functools.partial(_torchao, name),
            file=False,
        )
        for name, entry in CONFIGS.items()
    },
}


def find_quantizer(name: str) -> Quantizer:
    """The quantizer of that name.

    Raises:
        UsageError: there is none; says which one was probably meant.
    """
    if name in QUANTIZERS:
        return QUANTIZERS[name]
    close = difflib.get_close_matches(name, QUANTIZERS, n=1)
    hint = f"did you mean {close[0]!r}?" if close else f"known: {', '.join(QUANTIZERS)}"
    raise UsageError(f"unknown quantizer {name!r}; {hint}")


def quantized_file(name: str, options: Options, model: str, cases: str) -> Path:
    """Where the file or folder that a quantizer makes of a model lies, or will.

    Another version of its package, other options, another model or other cases to
    calibrate with are another file.

    Args:
        name: of the quantizer.
        options: what it is called with.
        model: fingerprint of the model.
        cases: fingerprint of the cases.
    """
    quantizer = find_quantizer(name)
    parts = [_VERSION, name, json.dumps(options, sort_keys=True), model]
    if quantizer.calibrated:
        parts.append(cases)
    if quantizer.environment:
        parts.append(read_lock(quantizer.environment).key)
        return _file_of(parts, quantizer)
    for package in sorted({quantizer.package, *quantizer.packages}):
        try:
            parts.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            parts.append(package)
    return _file_of(parts, quantizer)


def _file_of(parts: Sequence[str], quantizer: Quantizer) -> Path:
    digest = hashlib.sha256("\n".join(parts).encode()).hexdigest()[:40]
    end = ".onnx" if quantizer.file else ""
    return cache_folder() / "quantized" / f"{digest}{end}"


def _check_installed(name: str, quantizer: Quantizer) -> None:
    """Whether its packages, or its environment, are there."""
    environment = quantizer.environment
    if environment:
        if not is_inside(environment) and interpreter(environment) is None:
            raise UnsupportedError(
                f"{name}: not set up; `quantharness setup {environment}` makes its "
                f"environment ({read_lock(environment).size})"
            )
        return
    for module in quantizer.imports or (quantizer.package,):
        if find_spec(module) is None:
            raise MissingExtraError(module, quantizer.extra)


def quantize_model(
    name: str,
    options: Options,
    model: Model,
    calls: Callable[[], Iterator[Feeds]],
    file: Path,
) -> None:
    """Let a quantizer write its file or folder; nothing is done where it is there.

    Args:
        name: of the quantizer.
        options: what it is called with, its own defaults for the rest.
        model: what is quantized.
        calls: gives inputs of calls to calibrate with.
        file: where to.

    Raises:
        UsageError: an option that the function has not.
        MissingExtraError: its package is not installed.
        UnsupportedError: its environment was not made.
        ModelError: it fails on this model.
    """
    if file.exists():
        return
    quantizer = find_quantizer(name)
    _check_installed(name, quantizer)
    if quantizer.function is not None:
        parameters = inspect.signature(quantizer.function()).parameters
        known = [key for key in parameters if key not in quantizer.given]
        check_options(name, options, known)
    shown = list(calls()) if quantizer.calibrated else []
    file.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=file.parent) as folder:
        written = Path(folder) / f"model{file.suffix}"
        try:
            quantizer.call(model, shown, dict(options), written)
        except UsageError:
            raise
        except Exception as error:  # noqa: BLE001 - a library may raise anything
            text = " ".join(str(error).split())[:400]
            kind = getattr(error, "kind", type(error).__name__)
            raise ModelError(f"{name} fails on this model: {kind}: {text}") from None
        # Whole or not at all: two workers may make the same file.
        if quantizer.file:
            write_bytes(file, written.read_bytes())
            return
        with contextlib.suppress(FileExistsError, OSError):
            written.rename(file)
