"""Finds where other libraries' casts disagree with ours, and writes the docs' table.

    PYTHONPATH=. python tests/numerics/numerics_disagreements.py

renews the table of docs/numerics-disagreements.md; the tests hold the two equal.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gfloat
import ml_dtypes
import numerics_oracles as oracles
import numpy as np
import torch
from onnx import TensorProto, helper, numpy_helper

from harness.numerics import FORMATS, decode, encode

PAGE = Path(__file__).parents[2] / "docs/numerics-disagreements.md"
#: Formats that more than one library has.
NAMES = [*(name for name in oracles.FLOATS if name in oracles.ML), "fp8_e8m0"]
TORCH = {
    "fp8_e4m3": torch.float8_e4m3fn,
    "fp8_e5m2": torch.float8_e5m2,
    "fp8_e4m3fnuz": torch.float8_e4m3fnuz,
    "fp8_e5m2fnuz": torch.float8_e5m2fnuz,
    "fp8_e8m0": torch.float8_e8m0fnu,
    "fp16": torch.float16,
    "bf16": torch.bfloat16,
}
ONNX = {
    "fp8_e4m3": TensorProto.FLOAT8E4M3FN,
    "fp8_e5m2": TensorProto.FLOAT8E5M2,
    "fp8_e4m3fnuz": TensorProto.FLOAT8E4M3FNUZ,
    "fp8_e5m2fnuz": TensorProto.FLOAT8E5M2FNUZ,
    "fp6_e2m3": TensorProto.FLOAT6E2M3,
    "fp6_e3m2": TensorProto.FLOAT6E3M2,
    "fp4_e2m1": TensorProto.FLOAT4E2M1,
    "fp16": TensorProto.FLOAT16,
    "bf16": TensorProto.BFLOAT16,
}
_HUB = "https://github.com/"
_RULE = f"no saturating cast ([ml_dtypes#260]({_HUB}jax-ml/ml_dtypes/issues/260))"
_TORCH = f"saturates E4M3 only ([pytorch#178817]({_HUB}pytorch/pytorch/pull/178817))"
_IEEE = 'an IEEE cast; ours with `overflow="inf"`'
_TIE = (
    "ties go up, also from an even code "
    f"([ml_dtypes#398]({_HUB}jax-ml/ml_dtypes/pull/398))"
)
_NEAR = (
    "nearer to 2**-127, rounded up all the same "
    f"(noticed in [onnxruntime#28435]({_HUB}microsoft/onnxruntime/pull/28435))"
)
_NAN = "no NaN in the format: a zero with the opposite of NaN's sign; ours is always -0"
_MINUS = "E8M0 has no sign: dropped there, NaN here"
#: (library, where) -> what is behind it.
WHY = {
    ("ml_dtypes", "overflow"): _RULE,
    ("ml_dtypes", "Inf"): _RULE,
    ("ml_dtypes", "NaN"): _NAN,
    ("ml_dtypes", "tie"): _TIE,
    ("ml_dtypes", "subnormal"): _NEAR,
    ("ml_dtypes", "zero"): "E8M0 has no zero: NaN there, the smallest scale here",
    ("torch", "overflow"): _TORCH,
    ("torch", "Inf"): _TORCH,
    ("torch", "tie"): _TIE,
    ("torch", "subnormal"): _NEAR,
    ("torch", "negative"): _MINUS,
    ("gfloat", "subnormal"): "under 0.75 * 2**-127: NaN there, the smallest scale here",
    ("gfloat", "Inf"): "asked to saturate; no scale is Inf here",
    ("onnx", "NaN"): _NAN + " (through ml_dtypes)",
    ("onnx nearest", "tie"): _TIE,
    ("onnx nearest", "subnormal"): _NEAR,
    ("onnx nearest", "negative"): _MINUS,
    ("onnx up", "subnormal"): "2**-127 is the next above; rounded up past it",
    ("onnx up", "negative"): _MINUS,
    ("onnx down", "negative"): _MINUS,
}


@dataclass(frozen=True)
class Row:
    """One kind of input on which a library and we disagree, with the smallest one."""

    library: str
    format: str
    where: str
    x: float
    theirs: int
    ours: int

    def text(self) -> str:
        """A row of the Markdown table."""
        codes = " | ".join(_code(c, self.format) for c in (self.theirs, self.ours))
        why = WHY[self.library, self.where]
        if FORMATS[self.format].bits == 16:
            why = _IEEE
        where = f"{self.library} | `{self.format}` | {self.where}"
        return f"| {where} | `{self.x!r}` | {codes} | {why} |"


def _code(code: int, name: str) -> str:
    fmt = FORMATS[name]
    kind = np.uint16 if fmt.bits == 16 else np.uint8
    value = float(decode(np.array([code], kind), name)[0])
    return f"0x{code:02X} ({value!r})"


@functools.cache
def inputs(name: str) -> Any:
    """Every float16 and bfloat16, midpoints with neighbours, powers of two; unique."""
    every = np.arange(65536).astype(np.uint16)
    parts = [
        every.view(np.float16).astype(np.float32),
        every.view(ml_dtypes.bfloat16).astype(np.float32),
        oracles.midpoints(name),
        oracles.powers_of_two(),
    ]
    x = np.unique(np.concatenate(parts).view(np.uint32)).view(np.float32)
    # Simplest first: closest to one, positive before negative.
    with np.errstate(all="ignore"):
        far = np.abs(np.log2(np.abs(x.astype(np.float64))))
    return x[np.lexsort((np.signbit(x), far))]


def casts(name: str) -> Iterator[tuple[str, Callable[[Any], Any], dict[str, Any]]]:
    """Library, its cast to codes, and what is asked of us to compare with it."""
    kind = np.uint16 if FORMATS[name].bits == 16 else np.uint8
    yield "ml_dtypes", lambda x: x.astype(oracles.ML[name]).view(kind), {}
    if name in TORCH:
        bits = torch.uint16 if kind is np.uint16 else torch.uint8
        yield (
            "torch",
            lambda x: torch.from_numpy(x).to(TORCH[name]).view(bits).numpy(),
            {},
        )
    if name in ONNX:
        dtype = helper.tensor_dtype_to_np_dtype(ONNX[name])
        yield "onnx", lambda x: numpy_helper.saturate_cast(x, dtype).view(kind), {}
    if name in oracles.GFLOAT:
        yield "gfloat", lambda x: _gfloat(x, name).astype(kind), {}
    for mode in ("nearest", "up", "down") if name == "fp8_e8m0" else ():
        yield (
            f"onnx {mode}",
            lambda x, mode=mode: numpy_helper.to_float8e8m0(
                x, round_mode=mode, saturate=True
            ).view(np.uint8),
            {"rounding": "nearest_even" if mode == "nearest" else mode},
        )


def _gfloat(x: Any, name: str) -> Any:
    info = oracles.GFLOAT[name]
    wide = x.astype(np.float64)
    with np.errstate(all="ignore"):
        rounded = gfloat.round_ndarray(info, wide, sat=True)
        if FORMATS[name].nan_code is None:
            # It refuses to encode NaN there, which is no other code than ours.
            rounded = np.where(np.isnan(rounded), -0.0, rounded)
        codes = gfloat.encode_ndarray(info, rounded)
    if name == "fp8_e8m0":
        # What no byte holds (negatives, Inf) is no code: see the page's second table.
        codes = np.where(codes > 255, np.uint64(255), codes)
    return codes


def where(x: float, name: str) -> str:
    """The kind of input."""
    fmt = FORMATS[name]
    if np.isnan(x):
        return "NaN"
    if np.isinf(x):
        return "Inf"
    if x == 0:
        return "zero"
    if name == "fp8_e8m0" and x < 0:
        return "negative"
    if abs(x) > fmt.max:
        return "overflow"
    if name == "fp8_e8m0" and x < 2.0**-126:
        return "subnormal"
    return "tie" if np.frexp(x)[0] == 0.75 else "in range"


def rows(name: str) -> list[Row]:
    """Every disagreement on a format, one row a library and kind of input."""
    x = inputs(name)
    found = []
    for library, cast, options in casts(name):
        with np.errstate(all="ignore"):
            theirs = cast(x.copy())
        ours = encode(x, name, **options)
        nan = [np.isnan(decode(codes, name)) for codes in (theirs, ours)]
        kinds: dict[str, Row] = {}
        for i in np.flatnonzero((theirs != ours) & ~(nan[0] & nan[1])):
            value = float(x[i])
            kind = where(value, name)
            row = Row(library, name, kind, value, int(theirs[i]), int(ours[i]))
            kinds.setdefault(kind, row)
        found += kinds.values()
    return found


def table() -> str:
    """The rows of the documentation's table."""
    return "\n".join(row.text() for name in NAMES for row in rows(name))


def parts(page: str) -> tuple[str, str, str]:
    """What stands before the rows of the page's first table, the rows, and the rest."""
    head = "| --- | --- | --- | --- | --- | --- | --- |\n"
    before, after = page.split(head)
    made, rest = after.split("\n\n", 1)
    return before + head, made, "\n\n" + rest


if __name__ == "__main__":
    first, _, last = parts(PAGE.read_text("utf-8"))
    PAGE.write_text(first + table() + last, "utf-8")
