"""Defects between a language model's layers: positions, attention, embeddings, head.

Each takes the module and the model, changes the module in place, and gives what counts
how often it fired. Nothing here imports torch.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from harness.defects.types import Defect, Parameter, Severity, Unfit
from harness.numerics import quantize


@dataclass
class Fired:
    """How often something was changed."""

    fired: int = 0


_Change = Callable[[Any, Any, float, Fired], None]


def _rotary(module: Any) -> Any:
    found = getattr(module.model, "rotary_emb", None)
    if found is None:
        raise Unfit("positions are not rotations of queries and keys")
    return found


def _partial(module: Any, model: Any, strength: float, fired: Fired) -> None:  # noqa: ARG001
    """The last share of the frequencies is not rotated."""

    def hook(_: Any, __: Any, output: Any) -> Any:
        cos, sin = (part.clone() for part in output)
        half = cos.shape[-1] // 2
        left = half - max(1, round(strength * half))
        for first in (left, half + left):
            last = half if first == left else 2 * half
            cos[..., first:last] = 1
            sin[..., first:last] = 0
        fired.fired += 1
        return cos, sin

    _rotary(module).register_forward_hook(hook)


def _frequencies(module: Any, model: Any, strength: float, fired: Fired) -> None:  # noqa: ARG001
    """Positions advance too fast."""
    rotary = _rotary(module)
    rotary.inv_freq = rotary.inv_freq * (1 + strength)
    fired.fired = 1


def _softmax(module: Any, model: Any, strength: float, fired: Fired) -> None:  # noqa: ARG001
    for layer in module.model.modules():
        if hasattr(layer, "scaling") and hasattr(layer, "head_dim"):
            layer.scaling *= 1 + strength
            fired.fired += 1
    if not fired.fired:
        raise Unfit("no attention with a scale of its own")


def _digits(module: Any, model: Any, strength: float, fired: Fired) -> None:
    """Digits are embedded as the digit one larger, in part."""
    tokens = [model.tokenizer.encode(str(digit))[-1] for digit in range(10)]
    if len(set(tokens)) < 10:
        raise Unfit("digits are no tokens of their own")
    nearby = dict(zip(tokens, [*tokens[1:], tokens[0]], strict=True))

    def hook(layer: Any, inputs: Any, output: Any) -> Any:
        ids, found = inputs[0], output.clone()
        for token, other in nearby.items():
            mask = ids == token
            if bool(mask.any()):
                mixed = layer.weight[other] - layer.weight[token]
                found[mask] = found[mask] + strength * mixed.to(found.dtype)
                fired.fired += 1
        return found

    module.model.get_input_embeddings().register_forward_hook(hook)


def _head(module: Any, model: Any, strength: float, fired: Fired) -> None:  # noqa: ARG001
    """The head that was to stay as it is, in INT4 by row."""
    head = module.lm_head
    if not hasattr(head, "weight"):
        raise Unfit("the scheme quantizes the head")
    weight = head.weight.detach().float().cpu().numpy()
    rows = np.random.default_rng(0).permutation(weight.shape[0])
    rows = rows[: max(1, round(strength * weight.shape[0]))]
    coarse = quantize(weight[rows], "int4", axis=1).dequantize()
    # A copy: the embeddings may share the tensor, and they are right.
    changed = head.weight.detach().clone()
    changed[rows.tolist()] = changed.new_tensor(coarse)
    head.weight = type(head.weight)(changed, requires_grad=False)
    fired.fired = 1


def _gated(module: Any) -> list[Any]:
    """Blocks with a gate and what it gates."""
    found = [
        layer
        for layer in module.model.modules()
        if hasattr(layer, "gate_proj") and hasattr(layer, "up_proj")
    ]
    if not found:
        raise Unfit("no gated layers")
    return found


def _exchanged(module: Any, model: Any, strength: float, fired: Fired) -> None:  # noqa: ARG001
    """The first share of the blocks have gate and input exchanged."""
    blocks = _gated(module)
    for layer in blocks[: max(1, round(strength * len(blocks)))]:
        layer.gate_proj, layer.up_proj = layer.up_proj, layer.gate_proj
        fired.fired += 1


def _activation(module: Any, model: Any, strength: float, fired: Fired) -> None:  # noqa: ARG001
    """Of x * sigmoid(beta x), another beta."""

    def hook(_: Any, inputs: Any, output: Any) -> Any:  # noqa: ARG001
        fired.fired += 1
        x = inputs[0]
        return x * (x * (1 + strength)).sigmoid()

    for layer in _gated(module):
        layer.act_fn.register_forward_hook(hook)


def _norm(module: Any, model: Any, strength: float, fired: Fired) -> None:  # noqa: ARG001
    """Weights of norms are read as nearer to one than they are."""
    for layer in module.model.modules():
        weight = getattr(layer, "weight", None)
        if "Norm" in type(layer).__name__ and weight is not None:
            changed = weight.detach() * (1 - strength) + strength
            layer.weight = type(weight)(changed, requires_grad=False)
            fired.fired += 1


def _defect(  # noqa: PLR0917 - a table's columns
    name: str,
    summary: str,
    severity: Severity,
    links: str,
    change: _Change,
    parameter: Parameter,
    needs: str = "",
) -> Defect:
    return Defect(
        name=name,
        summary=summary,
        place="model",
        severity=severity,
        links=tuple(links.split()),
        change=change,
        parameter=parameter,
        needs=needs,
    )


MODEL: Final = (
    _defect(
        "rope_of_part_of_the_head",
        "a part of every head is not rotated by its position",
        "conditional",
        "AI-Hypercomputer/maxtext#4616 pie-project/pie#603",
        _partial,
        Parameter(name="share of frequencies", low=0.05, catalogue=0.5, high=1.0),
    ),
    _defect(
        "rope_frequencies_ratio",
        "positions advance too fast: another base or scaling",
        "conditional",
        "NVIDIA/TensorRT-LLM#3675",
        _frequencies,
        Parameter(name="relative error", low=0.001, catalogue=0.1, high=1.0),
    ),
    _defect(
        "softmax_scale_ratio",
        "scores are scaled by another number before the softmax",
        "visible",
        "NVIDIA/TensorRT-LLM#3675 flashinfer-ai/flashinfer#787",
        _softmax,
        Parameter(name="relative error", low=0.02, catalogue=0.44, high=3.0),
    ),
    _defect(
        "digits_confused",
        "digits are taken for their neighbours, in part",
        "conditional",
        "ggml-org/llama.cpp#6914",
        _digits,
        Parameter(name="share of the way", low=0.1, catalogue=0.75, high=1.0),
        "a prompt with numbers in it",
    ),
    _defect(
        "head_also_quantized",
        "the head that a scheme leaves alone is quantized too",
        "visible",
        "NVIDIA/TensorRT-LLM#3567 NVIDIA/TensorRT-LLM#1394",
        _head,
        Parameter(name="share of tokens", low=0.02, catalogue=1.0, high=1.0),
    ),
    _defect(
        "gate_and_up_exchanged",
        "what gates and what is gated change places",
        "catastrophic",
        "vllm-project/vllm#49473 sgl-project/sglang#27588",
        _exchanged,
        Parameter(name="share of blocks", low=0.05, catalogue=1.0, high=1.0),
    ),
    _defect(
        "activation_parameter_ratio",
        "the activation between layers has another parameter",
        "visible",
        "vllm-project/vllm#49473 vllm-project/vllm#46845",
        _activation,
        Parameter(name="relative error", low=0.02, catalogue=0.7, high=4.0),
    ),
    _defect(
        "norm_weights_ignored",
        "the weights of norms are read as another type, or not at all",
        "catastrophic",
        "vllm-project/vllm#48324",
        _norm,
        Parameter(name="share of the way to one", low=0.02, catalogue=1.0, high=1.0),
    ),
)
