"""Backends that are wrong only sometimes: does the suite see what averages do not?

A plugin. `python benchmarks/llm/run_conditional.py` runs the smollm2 suite on each.
Every backend is torch with one fault that is planted after the model is loaded.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from harness.backends.registry import Registry
from harness.backends.torch_backend import TorchBackend, TorchSession
from harness.models.types import Model
from harness.schemes.types import Scheme

#: Tokens 0 to 9 of SmolLM2's vocabulary.
DIGITS = tuple(range(32, 42))


def beyond_512(module: Any) -> None:
    """Positions from 512 on are counted one too far, as an off-by-one table would."""

    def shift(_: Any, args: Any, kwargs: Any) -> Any:
        where = kwargs["position_ids"]
        return args, kwargs | {
            "position_ids": torch.where(where < 512, where, where + 1)
        }

    module.model.register_forward_pre_hook(shift, with_kwargs=True)


def batch_over_4(module: Any) -> None:
    """Rows from the fifth on lose a tenth of what the first block adds."""

    def weaken(_: Any, __: Any, output: torch.Tensor) -> torch.Tensor:
        if output.shape[0] <= 4:
            return output
        wrong = output.clone()
        wrong[4:] *= 0.9
        return wrong

    module.model.layers[0].mlp.register_forward_hook(weaken)


def digits(module: Any) -> None:
    """The embeddings of the digits are 15 % too large."""
    first = module.model.embed_tokens

    def scale(_: Any, inputs: Any, output: torch.Tensor) -> torch.Tensor:
        is_digit = torch.isin(inputs[0], torch.tensor(DIGITS)).unsqueeze(-1)
        return torch.where(is_digit, output * 1.15, output)

    first.register_forward_hook(scale)


def stale_line(module: Any) -> None:
    """Once more is read, layer 3 has one head's line 8 of the cache still empty."""
    make = module.new_cache

    def stale() -> Any:
        cache = make()
        layer = cache.layers[3]
        update = layer.update

        def forget(keys: Any, values: Any, *args: Any, **kwargs: Any) -> Any:
            whole = update(keys, values, *args, **kwargs)
            if whole[0].shape[-2] == keys.shape[-2] or whole[0].shape[-2] < 9:
                return whole
            both = tuple(part.clone() for part in whole)
            for part in both:
                part[:, 0, 8] = 0
            return both

        layer.update = forget
        return cache

    module.new_cache = stale


def half_rotated(module: Any) -> None:
    """The rotary embedding turns the last quarter of each head's angles not at all."""

    def stop(_: Any, __: Any, output: Any) -> Any:
        cosine, sine = (part.clone() for part in output)
        width = cosine.shape[-1]
        quarter = slice(width * 3 // 4, width)
        cosine[..., quarter], sine[..., quarter] = 1, 0
        return cosine, sine

    module.model.rotary_emb.register_forward_hook(stop)


def truncated(module: Any) -> None:
    """Only the last 512 tokens are attended to: the start of a long prompt is lost."""

    def cut(_: Any, args: Any, kwargs: Any) -> Any:
        mask = kwargs["attention_mask"].clone()
        mask[:, : max(0, mask.shape[1] - 512)] = 0
        return args, kwargs | {"attention_mask": mask}

    module.model.register_forward_pre_hook(cut, with_kwargs=True)


DEFECTS: dict[str, Callable[[Any], None]] = {
    "beyond-512": beyond_512,
    "batch-over-4": batch_over_4,
    "digits": digits,
    "stale-line": stale_line,
    "half-rotated": half_rotated,
    "truncated": truncated,
}


class Defective(TorchBackend):
    """Torch with a fault."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = f"torch-{name}"
        self.fault = DEFECTS[name]

    def load(self, model: Model, scheme: Scheme | None) -> TorchSession:
        """Load, then plant the fault."""
        session = super().load(model, scheme)
        self.fault(session._module)  # noqa: SLF001 - from inside, as a fault is
        return session


def register(registry: Registry) -> None:
    """Add a backend for each fault."""
    for name in DEFECTS:
        registry.add_backend(Defective(name))
