"""The defects between operators: which step, which of its tensors, and what is done."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Literal

from harness.defects.types import Defect, Parameter, Severity

#: What a model computes between its layers, whoever runs it. A sum is one of two
#: computed tensors, as at the end of a residual branch; of a norm that is spelled out,
#: the root is the step.
Step = Literal["norm", "softmax", "activation", "sum"]


@dataclass(frozen=True, kw_only=True)
class Edit:
    """What is done to one tensor of every step of some kinds."""

    steps: frozenset[Step]
    #: Which tensor: what the step reads, the second of two summands, what it gives; or
    #: what a norm adds to the variance.
    at: Literal["input", "second", "output", "epsilon"]
    #: "scale" multiplies by `value`, "add" adds it, "round" keeps that many bits after
    #: the point.
    how: Literal["scale", "add", "round"]
    value: float


def split_factor(bits: int) -> float:
    """The c of Veltkamp's splitting: x c - (x c - x) has so many bits after the point.

    float32 (Dekker 1971, "A floating-point technique for extending the available
    precision", section 5): it needs neither a cast nor a bit operation, so that every
    engine does the same.
    """
    return float(2 ** (23 - bits) + 1)


def _defect(  # noqa: PLR0917 - a table's columns
    name: str,
    summary: str,
    severity: Severity,
    links: str,
    change: Callable[[float], Edit],
    parameter: Parameter,
) -> Defect:
    return Defect(
        name=name,
        summary=summary,
        place="between",
        severity=severity,
        links=tuple(links.split()),
        change=change,
        parameter=parameter,
    )


def _scores(strength: float) -> Edit:
    return Edit(
        steps=frozenset({"softmax"}), at="input", how="scale", value=1 + strength
    )


def _epsilon(strength: float) -> Edit:
    return Edit(steps=frozenset({"norm"}), at="epsilon", how="add", value=strength)


def _branch(strength: float) -> Edit:
    return Edit(steps=frozenset({"sum"}), at="second", how="scale", value=1 - strength)


def _activation(strength: float) -> Edit:
    return Edit(
        steps=frozenset({"activation"}), at="input", how="scale", value=1 + strength
    )


def _rounded(strength: float) -> Edit:
    return Edit(
        steps=frozenset({"norm", "softmax", "activation"}),
        at="output",
        how="round",
        value=strength,
    )


BETWEEN: Final = (
    _defect(
        "scores_ratio",
        "what goes into every softmax is scaled by another number",
        "visible",
        "NVIDIA/TensorRT-LLM#3675 flashinfer-ai/flashinfer#787",
        _scores,
        Parameter(name="relative error", low=0.001, catalogue=0.44, high=3.0),
    ),
    _defect(
        "norm_epsilon_larger",
        "norms add another epsilon to the variance",
        "silent",
        "vllm-project/vllm#48324",
        _epsilon,
        Parameter(name="added to the epsilon", low=1e-5, catalogue=1e-3, high=0.1),
    ),
    _defect(
        "branch_ratio",
        "one of two branches that meet is scaled",
        "visible",
        "flashinfer-ai/flashinfer#4431",
        _branch,
        Parameter(name="relative error", low=0.001, catalogue=0.1, high=1.0),
    ),
    _defect(
        "activation_ratio",
        "activations are taken of a scaled input: their parameter is lost",
        "visible",
        "vllm-project/vllm#49473 vllm-project/vllm#46845",
        _activation,
        Parameter(name="relative error", low=0.001, catalogue=0.7, high=4.0),
    ),
    _defect(
        "rounded_between_layers",
        "what norms, softmaxes and activations give is rounded once more",
        "silent",
        "flashinfer-ai/flashinfer#4160",
        _rounded,
        Parameter(name="bits after the point", low=10, catalogue=7, high=3, none=23),
    ),
)
