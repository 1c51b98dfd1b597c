"""Defects of the keys and values that are kept: stale, shifted, scaled, saturated.

Each takes what is about to be written and gives what is written instead. Tensors are
torch's; nothing here imports it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from harness.defects.types import ALWAYS, Defect, Parameter, Severity, Trigger

Tensor = Any


@dataclass(frozen=True, eq=False)
class Line:
    """What one layer is about to store."""

    #: (batch, heads, tokens, width).
    keys: Tensor
    values: Tensor
    #: Position of the first of these tokens.
    start: int
    #: The key and value stored last before them, (batch, heads, 1, width); None: none.
    before: tuple[Tensor, Tensor] | None


_Change = Callable[[Line, float], tuple[Tensor, Tensor]]


def _ratio(line: Line, strength: float) -> tuple[Tensor, Tensor]:
    return line.keys * (1 + strength), line.values * (1 + strength)


def _head(line: Line, strength: float) -> tuple[Tensor, Tensor]:
    """The first head's scale."""
    keys, values = line.keys.clone(), line.values.clone()
    keys[:, :1] *= 1 + strength
    values[:, :1] *= 1 + strength
    return keys, values


def _exchanged(line: Line, strength: float) -> tuple[Tensor, Tensor]:  # noqa: ARG001
    return line.values, line.keys


def _amax(x: Tensor) -> Tensor:
    """Largest magnitude of each token and head; never zero."""
    return x.abs().amax(dim=-1, keepdim=True).clamp(min=1e-6)


def _scales(line: Line, strength: float) -> tuple[Tensor, Tensor]:  # noqa: ARG001
    """Codes of each under the scales of the other."""
    by = _amax(line.values) / _amax(line.keys)
    return line.keys * by, line.values / by


def _saturated(line: Line, strength: float) -> tuple[Tensor, Tensor]:
    def cut(x: Tensor) -> Tensor:
        limit = strength * float(x.abs().max())
        return x.clamp(-limit, limit)

    return cut(line.keys), cut(line.values)


def _previous(x: Tensor, before: Tensor | None) -> Tensor:
    """Each token's entry as the token before it has it; the first keeps its own."""
    found = x.roll(1, dims=2)
    found[:, :, :1] = x[:, :, :1] if before is None else before
    return found


def _both_previous(line: Line) -> tuple[Tensor, Tensor]:
    before = line.before or (None, None)
    return _previous(line.keys, before[0]), _previous(line.values, before[1])


def _shifted(line: Line, strength: float) -> tuple[Tensor, Tensor]:  # noqa: ARG001
    return _both_previous(line)


def _every(line: Line, step: float) -> list[int]:
    """Tokens of this write whose position is the last of its page."""
    size = max(2, round(step))
    count = line.keys.shape[2]
    return [i for i in range(count) if (line.start + i) % size == size - 1]


def _stale(line: Line, strength: float) -> tuple[Tensor, Tensor]:
    """The last line of every page still holds what was there."""
    keys, values = line.keys.clone(), line.values.clone()
    rows = _every(line, strength)
    old = _both_previous(line)
    keys[:, :, rows], values[:, :, rows] = old[0][:, :, rows], old[1][:, :, rows]
    return keys, values


def _zero(line: Line, strength: float) -> tuple[Tensor, Tensor]:
    """The last line of every page was never written."""
    keys, values = line.keys.clone(), line.values.clone()
    rows = _every(line, strength)
    keys[:, :, rows] = 0
    values[:, :, rows] = 0
    return keys, values


def _halved(line: Line, strength: float) -> tuple[Tensor, Tensor]:  # noqa: ARG001
    return line.keys / 2, line.values / 2


def _defect(  # noqa: PLR0917 - a table's columns
    name: str,
    summary: str,
    severity: Severity,
    links: str,
    change: _Change,
    parameter: Parameter,
    trigger: Trigger = ALWAYS,
) -> Defect:
    return Defect(
        name=f"cache_{name}",
        summary=summary,
        place="cache",
        severity=severity,
        links=tuple(links.split()),
        change=change,
        parameter=parameter,
        trigger=trigger,
    )


_THERE: Final = Parameter(name="there or not", low=1, catalogue=1, high=1)
_ERROR: Final = Parameter(name="relative error", low=0.02, catalogue=0.5, high=4)
_PAGE: Final = Parameter(
    name="tokens a page", low=128, catalogue=16, high=4, none=float("inf")
)

CACHE: Final = (
    _defect(
        "scale_ratio",
        "keys and values are scaled twice, or their scale is wrong",
        "visible",
        "vllm-project/vllm#48016 vllm-project/vllm#34863 flashinfer-ai/flashinfer#1254",
        _ratio,
        _ERROR,
    ),
    _defect(
        "head_scale_ratio",
        "one head's keys and values have another head's scale",
        "silent",
        "vllm-project/vllm#49716 vllm-project/vllm#25047",
        _head,
        _ERROR,
    ),
    _defect(
        "read_as_fnuz",
        "bytes of one FP8 variant read as the other: half of every key and value",
        "catastrophic",
        "vllm-project/vllm#45562",
        _halved,
        _THERE,
    ),
    _defect(
        "keys_and_values_exchanged",
        "keys are used as values and values as keys",
        "catastrophic",
        "ikawrakow/ik_llama.cpp#1592",
        _exchanged,
        _THERE,
    ),
    _defect(
        "scales_exchanged",
        "keys are decoded with the values' scales and the reverse",
        "catastrophic",
        "flashinfer-ai/flashinfer#1254 vllm-project/vllm#42580",
        _scales,
        _THERE,
    ),
    _defect(
        "saturates",
        "keys and values beyond a scale of one saturate",
        "visible",
        "ROCm/vllm#317 vllm-project/vllm#11906",
        _saturated,
        Parameter(
            name="largest kept / largest",
            low=0.95,
            catalogue=0.25,
            high=0.05,
            none=1.0,
        ),
    ),
    _defect(
        "stale_lines",
        "the last line of every page holds the line before",
        "silent",
        "NVIDIA/TensorRT-LLM#2699 vllm-project/vllm#25800",
        _stale,
        _PAGE,
    ),
    _defect(
        "lines_unwritten",
        "the last line of every page is zero",
        "silent",
        "ROCm/aiter#2183 deepseek-ai/DeepGEMM#323",
        _zero,
        _PAGE,
    ),
    _defect(
        "position_shifted",
        "every line is that of the token before",
        "catastrophic",
        "vllm-project/vllm#49716",
        _shifted,
        _THERE,
    ),
    _defect(
        "wrong_beyond_512_tokens",
        "lines from the 512th token on are wrong",
        "conditional",
        "sgl-project/sglang#36390 vllm-project/vllm#26042",
        _ratio,
        _ERROR,
        Trigger(position=512),
    ),
    _defect(
        "wrong_from_fifth_entry",
        "lines of a batch's entries from the fifth on are wrong",
        "conditional",
        "NVIDIA/TensorRT-LLM#17964 flashinfer-ai/flashinfer#3604",
        _ratio,
        _ERROR,
        Trigger(batch=4),
    ),
)
