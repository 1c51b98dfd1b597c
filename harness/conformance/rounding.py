"""Every code decoded, every rounding: inputs whose scales are powers of two.

With such scales x / s, x * (1 / s) and any order of scaling give the same number, so
there is one right code for every value and one right value for every code: nothing is
left to the last bit. Products by a diagonal weight have one term that is not zero, so
no sum hides a code.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import numpy as np

from harness.backends.protocol import Arithmetic, Backend
from harness.conformance.probes import Probe, Shape
from harness.conformance.report import CheckReport
from harness.numerics import Format, find_format
from harness.schemes.oracle import UNIT_ROUNDOFF, OperatorOracle, OracleOutput
from harness.schemes.types import Scheme, TensorScheme

Array = np.ndarray[Any, np.dtype[Any]]

#: Values in a row of the cast check; one more gives the row its scale.
_ROW: Final = 63
#: Powers of two of the scales that are decoded; far from where float32 underflows.
_EXPONENTS: Final = range(-40, 41, 8)
#: Values that an INT8 or FP8 cast has to saturate, beyond a static scale's range.
_BEYOND: Final = (1.01, 1.03, 1.0625, 2.0, 146.0, 1e6, 1e30)


def decode(backend: Backend, scheme: Scheme, folder: Path) -> CheckReport:
    """Weights that take every code at many scales, read back one by one."""
    if scheme.weights is None:
        return _nothing("decode", "weights are left alone")
    if scheme.outputs is not None:
        return _nothing("decode", "results are rounded: they do not tell codes apart")
    weight = _every_code(scheme.weights)
    full = full_scale(scheme.activations)
    with Probe(backend, scheme, Shape(weight), folder, amax=full) as probe:
        x = np.eye(weight.shape[1], dtype=np.float32) * np.float32(full)
        wrong = _compare(probe, x)
    return _report("decode", wrong, weight.size, "codes and scales")


def cast(backend: Backend, scheme: Scheme, folder: Path) -> CheckReport:
    """Every float16 in range, every middle between two codes and its neighbours."""
    if scheme.activations is None:
        return _nothing("cast", "inputs are left alone")
    full = full_scale(scheme.activations)
    x = _rows(scheme.activations, full)
    weight = np.eye(x.shape[1]) * full_scale(scheme.weights)
    with Probe(backend, scheme, Shape(weight), folder, amax=full) as probe:
        wrong = _compare(probe, x)
    return _report("cast", wrong, x.size, "values")


def saturate(backend: Backend, scheme: Scheme, folder: Path) -> CheckReport:
    """Inputs beyond what a static scale was calibrated for get the largest code."""
    tensor = scheme.activations
    if tensor is None or tensor.dynamic or tensor.granularity == "block":
        return _nothing("saturate", "every scale is found from the input")
    full = full_scale(tensor)
    values = np.array([*_BEYOND, *(-v for v in _BEYOND)], np.float32) * np.float32(full)
    weight = np.eye(values.size) * full_scale(scheme.weights)
    with Probe(backend, scheme, Shape(weight), folder, amax=full) as probe:
        wrong = _compare(probe, values[None])
    return _report("saturate", wrong, values.size, "values beyond the range")


def special(backend: Backend, scheme: Scheme, folder: Path) -> CheckReport:
    """Zeros give zeros; NaN does not become a number, nor reach another row."""
    tensor = scheme.activations
    full = full_scale(tensor)
    weight = np.eye(64) * full_scale(scheme.weights)
    x = np.zeros((3, 64), np.float32)
    x[1] = np.linspace(-full, full, 64)
    with Probe(backend, scheme, Shape(weight), folder, amax=full) as probe:
        y = probe(x)
        if not (y[0] == 0).all():
            return CheckReport(
                name="special",
                passed=False,
                cases=1,
                detail=f"zeros give {y[0][y[0] != 0][0]:g}, but should give 0",
            )
        rounded = tensor is not None and find_format(tensor.format).kind == "int"
        if rounded or scheme.outputs is not None:
            return CheckReport(
                name="special",
                passed=True,
                cases=1,
                detail="zeros give zeros; integers have no NaN",
            )
        x[2, 5] = np.nan
        again = probe(x)
    if np.isfinite(again[2, 5]):
        return CheckReport(
            name="special",
            passed=False,
            cases=2,
            detail=f"NaN gives {again[2, 5]:g}, but should give NaN",
        )
    static = (
        tensor is None or tensor.granularity in ("row", "block") or not tensor.dynamic
    )
    if static and not np.array_equal(again[:2], y[:2]):
        return CheckReport(
            name="special",
            passed=False,
            cases=2,
            detail="NaN in one row changes another row",
        )
    return CheckReport(
        name="special", passed=True, cases=2, detail="zeros give zeros, NaN gives NaN"
    )


def full_scale(tensor: TensorScheme | None) -> float:
    """An amax whose scale is exactly 1 (of NVFP4: its tensor's scale)."""
    if tensor is None:
        return 1.0
    fmt = find_format(tensor.format)
    if fmt.scale == "fp8_e4m3":
        return fmt.max * find_format(fmt.scale).max
    if fmt.scale == "fp8_e8m0":
        # The floor rule gives scale 1 to what lies in the largest binade.
        return float(2.0**fmt.emax)
    return fmt.max


def _values(fmt: Format) -> Array:
    """Every finite value of a format's element, ascending, zero once, float32."""
    element = find_format(fmt.element) if fmt.kind == "block" else fmt
    found = np.asarray(element.decoded, np.float32)
    found = np.unique(found[np.isfinite(found)])
    return found[np.abs(found) <= element.max]


def _every_code(tensor: TensorScheme) -> Array:
    """(out, K) float32 weights that use every code at every scale tried."""
    fmt = find_format(tensor.format)
    values = _values(fmt)
    if tensor.granularity != "block":
        scales = 2.0 ** np.array(_EXPONENTS)
        if tensor.granularity == "tensor":
            scales = np.ones(1)
        return np.asarray(np.outer(scales, values), np.float32)
    size = tensor.block or fmt.block
    top = np.float32(fmt.max)
    blocks = [
        np.resize(np.append(top, values[i : i + size - 1]), size)
        for i in range(0, len(values), size - 1)
    ]
    row = np.concatenate(blocks)
    if fmt.scale == "fp8_e4m3":
        scales = _values(find_format(fmt.scale))
        return np.asarray(np.outer(scales[scales > 0], row), np.float32)
    return np.asarray(np.outer(2.0 ** np.array(_EXPONENTS), row), np.float32)


def _rows(tensor: TensorScheme, full: float) -> Array:
    """(rows, 64) float32 inputs; one value a block gives scale 1."""
    fmt = find_format(tensor.format)
    nvfp4 = fmt.scale == "fp8_e4m3"
    # NVFP4's blocks get scale 1 by their own largest value, 6.
    top = np.float32(fmt.max if nvfp4 else full)
    halves = np.arange(2**16, dtype=np.uint16).view(np.float16).astype(np.float32)
    grid = _values(fmt)
    middles = ((grid[1:].astype(np.float64) + grid[:-1]) / 2).astype(np.float32)
    up = np.nextafter(middles, np.float32(np.inf))
    down = np.nextafter(middles, np.float32(-np.inf))
    values = np.unique(np.concatenate([halves[np.isfinite(halves)], middles, up, down]))
    values = values[np.abs(values) <= top]
    size = tensor.block or fmt.block or _ROW + 1
    parts = np.resize(values, (-(-len(values) // (size - 1)), size - 1))
    blocks = np.concatenate([np.full((len(parts), 1), top), parts], axis=1)
    per_row = max(1, (_ROW + 1) // size)
    count = -(-len(blocks) // per_row)
    return np.resize(blocks, (count * per_row, size)).reshape(count, -1)


def _compare(probe: Probe, x: Array) -> tuple[int, str]:
    """How many outputs are wrong, and the worst of them in words."""
    arithmetic = probe.arithmetic
    with np.errstate(invalid="ignore", over="ignore"):
        found = OperatorOracle(probe.operator, probe.scheme)(
            x, accumulate=arithmetic.accumulate, output=arithmetic.output
        )
    y = np.asarray(probe(x), np.float64)
    if y.shape != found.exact.shape:
        return 1, f"shape {y.shape}, but should be {found.exact.shape}"
    wrong = _wrong(y, found, arithmetic)
    if not wrong.any():
        return 0, ""
    # Where one row meets one column of a diagonal, the output names its input.
    place = tuple(np.argwhere(wrong)[0])
    return int(wrong.sum()), (
        f"first at {tuple(int(i) for i in place)}: {y[place]:.9g}, but should be "
        f"{found.exact[place]:.9g}{_input_at(x, place)}"
    )


def _wrong(y: Array, found: OracleOutput, arithmetic: Arithmetic) -> Array:
    relative = roundoff(arithmetic)
    if found.rounding is None:
        wrong: Array = ~(np.abs(y - found.exact) <= relative * np.abs(found.exact))
        return wrong
    before, error = found.rounding.before, relative * np.abs(found.rounding.before)
    left = found.rounding.grid.residual(
        y, before - error, before + error, found.rounding.unit
    )
    return np.asarray(left != 0)


def _input_at(x: Array, place: tuple[Any, ...]) -> str:
    if x.ndim == 2 and place[1] < x.shape[1] and x[place] != 0:
        return f" [input {x[place]:.9g}]"
    return ""


def roundoff(arithmetic: Arithmetic) -> float:
    """Relative error of one product: decoding, multiplying, storing."""
    relative = 4 * UNIT_ROUNDOFF["fp32"] + UNIT_ROUNDOFF[arithmetic.output]
    if arithmetic.operands != "fp32":
        relative += 2 * UNIT_ROUNDOFF[arithmetic.operands]
    return relative


def _report(name: str, wrong: tuple[int, str], cases: int, what: str) -> CheckReport:
    count, worst = wrong
    detail = f"{cases} {what}" if not count else f"{count} outputs wrong; {worst}"
    return CheckReport(name=name, passed=not count, detail=detail, cases=cases)


def _nothing(name: str, why: str) -> CheckReport:
    return CheckReport(name=name, passed=None, detail=why)
