"""Defects of what a server asks its model, and of the log-probabilities it tells."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, Final

import numpy as np

from harness.backends.protocol import Generated, Request
from harness.defects.language.replies import REPLIES
from harness.defects.language.server import (
    THERE,
    Array,
    Inputs,
    Server,
    declared,
)
from harness.defects.types import Parameter


class _LogprobsShifted(Server):
    """Each token of a reply comes with the log-probability of one before it."""

    def reply(self, request: Request, reply: Generated) -> Generated:  # noqa: ARG002
        p = reply.probabilities
        if p.size < 2:
            return reply
        before = np.maximum(np.arange(p.size) - self.count, 0)
        return self.changed(reply, probabilities=p[before])


class _PromptLogprobsShifted(Server):
    """The log-probabilities after a token of the prompt are those after one before."""

    def given(self, inputs: Inputs) -> Inputs:
        before = np.maximum(inputs["positions"] - self.count, 0)
        self.counted.fired += not np.array_equal(before, inputs["positions"])
        return {**inputs, "positions": before}


class _TopLogprobsReversed(Server):
    """The likeliest tokens have each other's log-probabilities."""

    def logits(self, logits: Array) -> Array:
        order = np.argpartition(-logits, self.count, axis=-1)[..., : self.count]
        top = np.take_along_axis(logits, order, axis=-1)
        rank = top.argsort(axis=-1)
        order = np.take_along_axis(order, rank, axis=-1)
        top = np.take_along_axis(top, rank, axis=-1)
        found = logits.copy()
        np.put_along_axis(found, order, top[..., ::-1], axis=-1)
        self.counted.fired += 1
        return found


class _LogprobsTempered(Server):
    """Log-probabilities are given after the temperature of sampling."""

    def logits(self, logits: Array) -> Array:
        self.counted.fired += 1
        found: Array = logits / np.float32(self.strength)
        return found


class _SeedIgnored(Server):
    """Sampled with another seed than was asked for."""

    def asked(self, requests: Sequence[Request]) -> Sequence[Request]:
        self.counted.fired += sum(r.temperature > 0 for r in requests)
        return [dataclasses.replace(r, seed=r.seed + self.count) for r in requests]


class _TemperatureIgnored(Server):
    """The server's own temperature instead of the one that was asked for."""

    def asked(self, requests: Sequence[Request]) -> Sequence[Request]:
        self.counted.fired += sum(r.temperature != self.strength for r in requests)
        return [dataclasses.replace(r, temperature=self.strength) for r in requests]


class _PrefixOfAnother(Server):
    """The cached beginning of another prompt is taken for this one's."""

    def __init__(self, model: Any, strength: float, seed: int) -> None:
        super().__init__(model, strength, seed)
        self._before: Array | None = None

    def _mixed(self, ids: Array) -> Array:
        """The prompt with the beginning of the prompt before; its last token stays."""
        before, self._before = self._before, np.array(ids)
        if before is None:
            return ids
        size = min(self.count, ids.size - 1, before.size)
        found = ids.copy()
        found[:size] = before[:size]
        self.counted.fired += not np.array_equal(found, ids)
        return found

    def given(self, inputs: Inputs) -> Inputs:
        ids = np.array(inputs["input_ids"])
        for row, mask in zip(ids, inputs["attention_mask"], strict=True):
            there = np.flatnonzero(mask)
            row[there] = self._mixed(row[there])
        return {**inputs, "input_ids": ids}

    def asked(self, requests: Sequence[Request]) -> Sequence[Request]:
        return [dataclasses.replace(r, tokens=self._mixed(r.tokens)) for r in requests]


class _StartTokenTwice(Server):
    """The template has a start token, and the tokenizer adds another."""

    def given(self, inputs: Inputs) -> Inputs:
        self.counted.fired += 1
        mask = inputs["attention_mask"]
        first = mask.argmax(axis=1)
        found = {
            name: np.stack(
                [
                    np.insert(row, at, row[at])
                    for row, at in zip(inputs[name], first, strict=True)
                ]
            )
            for name in ("input_ids", "attention_mask")
        }
        return {**inputs, **found, "positions": inputs["positions"] + 1}

    def asked(self, requests: Sequence[Request]) -> Sequence[Request]:
        self.counted.fired += len(requests)
        return [
            dataclasses.replace(r, tokens=np.insert(r.tokens, 0, r.tokens[0]))
            for r in requests
        ]


ASKED: Final = (
    declared(
        "logprobs_shifted",
        "a reply's tokens have the log-probabilities of other tokens of it",
        "silent",
        "sgl-project/sglang#2088 abetlen/llama-cpp-python#453",
        _LogprobsShifted,
        Parameter(name="tokens", low=1, catalogue=1, high=8),
        "a reply of more than one token",
    ),
    declared(
        "prompt_logprobs_shifted",
        "log-probabilities of the prompt belong to the token before",
        "catastrophic",
        "AI-Hypercomputer/maxtext#2103 meta-llama/llama#869",
        _PromptLogprobsShifted,
        Parameter(name="tokens", low=1, catalogue=1, high=8),
    ),
    declared(
        "top_logprobs_reversed",
        "the likeliest tokens have each other's log-probabilities",
        "visible",
        "ggml-org/llama.cpp#4166 theroyallab/tabbyAPI#141 vllm-project/vllm#42887",
        _TopLogprobsReversed,
        Parameter(name="tokens", low=2, catalogue=2, high=10),
    ),
    declared(
        "logprobs_tempered",
        "log-probabilities after the temperature instead of before it",
        "silent",
        "standardcompletions/rfcs#11 sgl-project/sglang#8375",
        _LogprobsTempered,
        Parameter(name="temperature", low=0.99, catalogue=0.7, high=0.1, none=1.0),
    ),
    declared(
        "seed_ignored",
        "sampled with another seed than was asked for",
        "conditional",
        "vllm-project/vllm#51226 ml-explore/mlx-lm#1331",
        _SeedIgnored,
        THERE,
        "a case whose `generate` has a temperature",
    ),
    declared(
        "temperature_ignored",
        "the server's own temperature instead of the one that was asked for",
        "visible",
        "osaurus-ai/osaurus#932 Blaizzy/mlx-vlm#1331",
        _TemperatureIgnored,
        Parameter(name="temperature", low=0.1, catalogue=0.7, high=2.0),
    ),
    declared(
        "prefix_of_another",
        "the cached beginning of another prompt is taken for this one's",
        "conditional",
        "openvinotoolkit/openvino.genai#3722 kvcache-ai/Mooncake#4153",
        _PrefixOfAnother,
        Parameter(name="tokens", low=32, catalogue=64, high=256),
        "prompts that begin differently, one after another",
    ),
    declared(
        "start_token_twice",
        "a prompt begins with two start tokens",
        "visible",
        "sgl-project/sglang#888 abetlen/llama-cpp-python#1501 janhq/cortex.cpp#618",
        _StartTokenTwice,
        THERE,
    ),
)

#: All that a server does around a model.
ANSWERS: Final = (*REPLIES, *ASKED)
