"""Backends that are wrong only sometimes: does the suite see what averages do not?

A plugin. `python benchmarks/llm/run_conditional.py` runs the smollm2 suite on each.
Every backend is torch with one fault that is planted after the model is loaded.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from harness.backends.protocol import Request
from harness.backends.registry import Registry
from harness.backends.torch_backend import TorchBackend
from harness.backends.torch_session import TorchSession
from harness.models.types import Model
from harness.schemes.types import Scheme

#: Tokens 0 to 9 of SmolLM2's vocabulary.
DIGITS = tuple(range(32, 42))


def beyond_512(session: Any) -> None:
    """Positions from 512 on are counted one too far, as an off-by-one table would."""

    def shift(_: Any, args: Any, kwargs: Any) -> Any:
        where = kwargs["position_ids"]
        return args, kwargs | {
            "position_ids": torch.where(where < 512, where, where + 1)
        }

    session.module.model.register_forward_pre_hook(shift, with_kwargs=True)


def batch_over_4(session: Any) -> None:
    """Rows from the fifth on lose a tenth of what the first block adds."""

    def weaken(_: Any, __: Any, output: torch.Tensor) -> torch.Tensor:
        if output.shape[0] <= 4:
            return output
        wrong = output.clone()
        wrong[4:] *= 0.9
        return wrong

    session.module.model.layers[0].mlp.register_forward_hook(weaken)


def digits(session: Any) -> None:
    """The embeddings of the digits are 15 % too large."""
    first = session.module.model.embed_tokens

    def scale(_: Any, inputs: Any, output: torch.Tensor) -> torch.Tensor:
        is_digit = torch.isin(inputs[0], torch.tensor(DIGITS)).unsqueeze(-1)
        return torch.where(is_digit, output * 1.15, output)

    first.register_forward_hook(scale)


def stale_line(session: Any) -> None:
    """Once more is read, layer 3 has one head's line 8 of the cache still empty."""
    module = session.module
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


def half_rotated(session: Any) -> None:
    """The rotary embedding turns the last quarter of each head's angles not at all."""

    def stop(_: Any, __: Any, output: Any) -> Any:
        cosine, sine = (part.clone() for part in output)
        width = cosine.shape[-1]
        quarter = slice(width * 3 // 4, width)
        cosine[..., quarter], sine[..., quarter] = 1, 0
        return cosine, sine

    session.module.model.rotary_emb.register_forward_hook(stop)


def truncated(session: Any) -> None:
    """Only the last 512 tokens are attended to: the start of a long prompt is lost."""

    def cut(_: Any, args: Any, kwargs: Any) -> Any:
        mask = kwargs["attention_mask"].clone()
        mask[:, : max(0, mask.shape[1] - 512)] = 0
        return args, kwargs | {"attention_mask": mask}

    session.module.model.register_forward_pre_hook(cut, with_kwargs=True)


def no_system_message(session: Any) -> None:
    """A chat template without the system message that the model was tuned with."""
    tokenizer = session.tokenizer
    whole = tokenizer.encode(tokenizer.render([{"role": "user", "content": "?"}]))
    width = whole.index(tokenizer.encode("<|im_start|>")[0], 1)
    header = np.array(whole[:width])
    run, in_pieces, reply = session.run, session.run_in_pieces, session.generate

    def starts(tokens: np.ndarray) -> bool:
        return len(tokens) > width and np.array_equal(tokens[:width], header)

    def without(inputs: Mapping[str, Any]) -> dict[str, Any]:
        # What is masked on the left is not there, as padding is not.
        mask = inputs["attention_mask"].copy()
        for row, ids, seen in zip(mask, inputs["input_ids"], mask, strict=True):
            first = int(seen.argmax())
            if starts(ids[first:]):
                row[: first + width] = 0
        return {**inputs, "attention_mask": mask}

    def generate(requests: Sequence[Request], **options: Any) -> Any:
        shorter = [
            dataclasses.replace(r, tokens=r.tokens[width:]) if starts(r.tokens) else r
            for r in requests
        ]
        return reply(shorter, **options)

    session.run = lambda inputs, **options: run(without(inputs), **options)
    session.run_in_pieces = lambda inputs, *a, **o: in_pieces(without(inputs), *a, **o)
    session.generate = generate


DEFECTS: dict[str, Callable[[Any], None]] = {
    "beyond-512": beyond_512,
    "batch-over-4": batch_over_4,
    "digits": digits,
    "stale-line": stale_line,
    "half-rotated": half_rotated,
    "truncated": truncated,
    "no-system-message": no_system_message,
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
        session.tokenizer = model.tokenizer
        self.fault(session)
        return session


def register(registry: Registry) -> None:
    """Add a backend for each fault."""
    for name in DEFECTS:
        registry.add_backend(Defective(name))
