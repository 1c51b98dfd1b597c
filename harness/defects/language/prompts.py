"""Defects of prompts: tokens that never reach the model."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, Final

import numpy as np

from harness.defects.language.model import Fired
from harness.defects.types import Defect, Parameter, Severity, Unfit

Array = np.ndarray[Any, np.dtype[Any]]
#: Model, token ids of one prompt, strength -> which of them the model is given.
_Change = Callable[[Any, Array, float], Array]


def _truncated(model: Any, ids: Array, strength: float) -> Array:  # noqa: ARG001
    """The beginning is cut off: so many tokens are left."""
    kept: Array = np.arange(ids.size) >= ids.size - round(strength)
    return kept


def _template(model: Any, ids: Array, strength: float) -> Array:  # noqa: ARG001
    """Without the tokens that mark whose turn it is."""
    control = [
        model.tokenizer.encode(mark)
        for mark in ("<|im_start|>", "<|im_end|>", "<s>", "[INST]", "[/INST]")
    ]
    single = {found[0] for found in control if len(found) == 1}
    if not single:
        raise Unfit("the template's marks are no tokens of their own")
    kept: Array = ~np.isin(ids, sorted(single))
    return kept


def _bos(model: Any, ids: Array, strength: float) -> Array:  # noqa: ARG001
    kept: Array = np.arange(ids.size) > 0
    return kept


class PlantedPrompts:
    """A session whose prompts lack tokens; what is asked for stays where it was."""

    def __init__(self, session: Any, keep: Callable[[Array], Array]) -> None:
        self._session = session
        self._keep = keep
        self.counted = Fired()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._session, name)

    def try_on(self, ids: Sequence[int]) -> None:
        """Raise `Unfit` before anything is run, where the model gives no chance."""
        self._keep(np.asarray(ids))

    def _kept(self, ids: Array) -> Array:
        """Which tokens are given; the last always is."""
        found = self._keep(ids)
        found[-1:] = True
        if not found.all():
            self.counted.fired += 1
        return found

    def _masked(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        mask = np.array(inputs["attention_mask"])
        for row, ids in enumerate(inputs["input_ids"]):
            there = np.flatnonzero(mask[row])
            mask[row, there[~self._kept(ids[there])]] = 0
        return {**inputs, "attention_mask": mask}

    def run(self, inputs: Mapping[str, Array], *, capture: Collection[str] = ()) -> Any:
        """Run once; what is left out is masked, and positions are counted without."""
        return self._session.run(self._masked(inputs), capture=capture)

    def run_in_pieces(
        self, inputs: Mapping[str, Array], size: int, **options: Any
    ) -> Any:
        """The same, a few tokens at a time."""
        return self._session.run_in_pieces(self._masked(inputs), size, **options)

    def generate(self, requests: Sequence[Any], *, batch: int) -> Any:
        """Continue prompts that lack tokens."""
        given = [
            dataclasses.replace(r, tokens=r.tokens[self._kept(r.tokens)])
            for r in requests
        ]
        return self._session.generate(given, batch=batch)

    def close(self) -> None:
        """Free what the session holds."""
        self._session.close()


def _defect(  # noqa: PLR0917 - a table's columns
    name: str,
    summary: str,
    severity: Severity,
    links: str,
    change: _Change,
    parameter: Parameter,
    needs: str,
) -> Defect:
    return Defect(
        name=f"prompt_{name}",
        summary=summary,
        place="prompt",
        severity=severity,
        links=tuple(links.split()),
        change=change,
        parameter=parameter,
        needs=needs,
    )


_THERE: Final = Parameter(name="there or not", low=1, catalogue=1, high=1)

PROMPTS: Final = (
    _defect(
        "truncated",
        "the beginning of a prompt that is too long is cut off",
        "conditional",
        "ollama/ollama#3839 ollama/ollama#299",
        _truncated,
        Parameter(
            name="tokens kept", low=1024, catalogue=256, high=32, none=float("inf")
        ),
        "a case of more than 256 tokens",
    ),
    _defect(
        "template_missing",
        "the marks of the chat template are left out",
        "visible",
        "mudler/vllm.cpp#2077 ggml-org/llama.cpp#9583 vllm-project/vllm#28539",
        _template,
        _THERE,
        "a prompt that goes through a chat template",
    ),
    _defect(
        "start_token_missing",
        "the first token of a prompt is left out",
        "visible",
        "EleutherAI/lm-evaluation-harness#2676 tenstorrent/tt-metal#48444",
        _bos,
        _THERE,
        "a prompt of more than one token",
    ),
)
