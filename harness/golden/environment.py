"""Where a run took place: what may explain a difference."""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Final

from harness.environments import interpreter, locks, read_lock

#: Packages whose version may change a number.
_PACKAGES: Final = (
    "quantharness",
    "numpy",
    "ml_dtypes",
    "torch",
    "onnx",
    "onnxruntime",
    "onnxruntime-gpu",
    "onnxruntime-qnn",
    "tensorrt",
    "transformers",
    "tokenizers",
    "openvino",
    "xllamacpp",
    "torchao",
    "nncf",
    "nvidia-modelopt",
)
#: Variables that change how numbers are computed.
_VARIABLES: Final = (
    "QUANTHARNESS_THREADS",
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "ONEDNN_MAX_CPU_ISA",
    "ATEN_CPU_CAPABILITY",
    "MKL_CBWR",
    "MKL_ENABLE_INSTRUCTIONS",
    "CUDA_VISIBLE_DEVICES",
    "NVIDIA_TF32_OVERRIDE",
    "CUBLAS_WORKSPACE_CONFIG",
    # Chooses among libm's implementations.
    "GLIBC_TUNABLES",
)
#: Instruction sets that decide which kernels run.
_FLAGS: Final = (
    "avx2",
    "avx512f",
    "avx512_vnni",
    "avx512_bf16",
    "avx512_fp16",
    "avx_vnni",
    "amx_bf16",
    "amx_int8",
)


def environment() -> dict[str, Any]:
    """Packages, processor, threads, driver and variables; flat, JSON-able."""
    model, flags = _processor()
    found: dict[str, Any] = {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "machine": platform.machine(),
        "cpu": model,
        "cpu_flags": " ".join(flags),
        "cores": str(os.cpu_count() or 0),
        "driver": _driver(),
    }
    for package in _PACKAGES:
        found[f"package.{package}"] = _version(package)
    for name in _VARIABLES:
        found[f"variable.{name}"] = os.environ.get(name, "")
    for name in locks():
        made = interpreter(name) is not None
        found[f"environment.{name}"] = read_lock(name).key if made else ""
    return found


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


def _processor() -> tuple[str, list[str]]:
    """Model name and the flags that matter; empty where the system does not say."""
    if sys.platform != "linux":
        return platform.processor(), []
    model, flags = "", set[str]()
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return platform.processor(), []
    for line in text.splitlines():
        key, _, value = line.partition(":")
        if key.strip() == "model name" and not model:
            model = value.strip()
        elif key.strip() == "flags" and not flags:
            flags = set(value.split())
    return model, [flag for flag in _FLAGS if flag in flags]


def _driver() -> str:
    """NVIDIA's kernel driver, if one is loaded."""
    try:
        text = Path("/proc/driver/nvidia/version").read_text(encoding="utf-8")
    except OSError:
        return ""
    return text.splitlines()[0].strip() if text else ""


def environment_key(found: Mapping[str, Any]) -> str:
    """What must be equal for quantized outputs to be the same bits."""
    names = ["machine", "cpu_flags", "driver", "python"]
    names += sorted(n for n in found if n.startswith(("package.", "variable.")))
    skip = {"package.quantharness", "python"}
    return "|".join(f"{n}={found.get(n, '')}" for n in names if n not in skip)


def differences(
    first: Mapping[str, Any], second: Mapping[str, Any]
) -> dict[str, tuple[str, str]]:
    """What differs: name -> (first, second)."""
    return {
        name: (str(first.get(name, "")), str(second.get(name, "")))
        for name in sorted({*first, *second})
        if str(first.get(name, "")) != str(second.get(name, ""))
    }


def since(recorded: Mapping[str, Any]) -> dict[str, tuple[str, str]]:
    """What differs here from where a golden was recorded: name -> (there, here).

    Of what was not noted there nothing is known, so nothing differs. How the harness
    itself was installed, and which backend recorded, explain no number.
    """
    here = environment()
    both = {n for n in here if n in recorded and n != "package.quantharness"}
    return differences(
        {name: recorded[name] for name in both}, {name: here[name] for name in both}
    )
