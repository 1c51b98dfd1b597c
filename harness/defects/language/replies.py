"""Defects of what a server makes of replies: where they end, what they hold, whose."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Final

import numpy as np

from harness.backends.protocol import Generated, Request
from harness.defects.language.server import (
    THERE,
    Array,
    Generate,
    Replies,
    Server,
    declared,
)
from harness.defects.types import Parameter


class _CutOff(Server):
    """A share of the reply is missing at its end, and it is said to have ended."""

    def reply(self, request: Request, reply: Generated) -> Generated:  # noqa: ARG002
        words = self.words(reply)
        kept = words.size - max(1, round(self.strength * words.size))
        if kept < 1:
            return reply
        cut = reply.probabilities[:kept]
        return self.changed(reply, tokens=words[:kept], probabilities=cut, ended=True)


class _StopsEarly(Server):
    """A line's end is taken for a stop sequence."""

    def reply(self, request: Request, reply: Generated) -> Generated:  # noqa: ARG002
        words = self.words(reply)
        for kept in range(1, words.size):
            text = self.tokenizer.decode(words[:kept].tolist())
            if text.strip() and text.rstrip(" ").count("\n") >= self.count:
                cut = reply.probabilities[:kept]
                return self.changed(
                    reply, tokens=words[:kept], probabilities=cut, ended=True
                )
        return reply


class _EndIgnored(Server):
    """The token that ends a reply does not end it: the model goes on."""

    def replied(
        self, requests: Sequence[Request], replies: Replies, again: Generate
    ) -> Replies:
        found = dict(replies)
        most = {
            r.name: min(r.longest, len(replies[r.name].tokens) + self.count)
            for r in requests
            if replies[r.name].ended
        }
        while True:
            more = [
                dataclasses.replace(
                    r,
                    tokens=np.concatenate([r.tokens, found[r.name].tokens]),
                    longest=most[r.name] - len(found[r.name].tokens),
                )
                for r in requests
                if r.name in most and len(found[r.name].tokens) < most[r.name]
            ]
            if not more:
                return found
            for name, entry in again(more).items():
                before = found[name]
                both = (before, entry)
                tokens = np.concatenate([e.tokens for e in both])
                probabilities = np.concatenate([e.probabilities for e in both])
                found[name] = self.changed(
                    before, tokens=tokens, probabilities=probabilities, ended=False
                )


class _SpecialTokensShown(Server):
    """The token that ends a reply is in its text."""

    def reply(self, request: Request, reply: Generated) -> Generated:  # noqa: ARG002
        words = self.words(reply)
        if words.size == reply.tokens.size:
            return reply
        mark = self.tokenizer.decode([int(reply.tokens[-1])])
        # In two parts: the text is shown, the token itself would be left out again.
        halves = (mark[: len(mark) // 2], mark[len(mark) // 2 :])
        shown = [t for half in halves for t in self.tokenizer.encode(half)]
        sure = np.ones(len(shown), np.float32)
        return self.changed(
            reply,
            tokens=np.concatenate([words, np.array(shown), reply.tokens[-1:]]),
            probabilities=np.insert(reply.probabilities, words.size, sure),
        )


class _OfAnotherRequest(Server):
    """Some pairs of requests get each other's reply."""

    def replied(
        self,
        requests: Sequence[Request],
        replies: Replies,
        again: Generate,  # noqa: ARG002
    ) -> Replies:
        found = dict(replies)
        names = [r.name for r in requests]
        pairs = list(zip(names[::2], names[1::2], strict=False))
        count = max(1, round(self.strength * len(pairs)))
        for index in self.rng.permutation(len(pairs))[:count]:
            one, other = pairs[index]
            found[one], found[other] = replies[other], replies[one]
            self.counted.fired += not np.array_equal(
                replies[one].tokens, replies[other].tokens
            )
        return found


class _Retokenized(Server):
    """A reply's tokens are its text, tokenized again; its log-probabilities are not."""

    def reply(self, request: Request, reply: Generated) -> Generated:  # noqa: ARG002
        words = self.words(reply)
        text = self.tokenizer.decode(words.tolist())
        return self.rewritten(reply, words, text)

    def rewritten(self, reply: Generated, words: Array, text: str) -> Generated:
        """The reply with the tokens of a text in place of its own."""
        ids = np.array(self.tokenizer.encode(text), np.int64)
        if np.array_equal(ids, words):
            return reply
        tokens = np.concatenate([ids, reply.tokens[words.size :]])
        # Clients fill up with zero, the logarithm of one, or cut off.
        p = np.ones(tokens.size, np.float32)
        common = min(p.size, reply.probabilities.size)
        p[:common] = reply.probabilities[:common]
        return self.changed(reply, tokens=tokens, probabilities=p)


class _CharactersBroken(_Retokenized):
    """Every token is made a text by itself: characters of several are lost."""

    def reply(self, request: Request, reply: Generated) -> Generated:  # noqa: ARG002
        words = self.words(reply)
        text = "".join(self.tokenizer.decode([t]) for t in words.tolist())
        if text == self.tokenizer.decode(words.tolist()):
            return reply
        return self.rewritten(reply, words, text)


class _LastTokensMissing(Server):
    """What was held back for a stop sequence is never sent."""

    def reply(self, request: Request, reply: Generated) -> Generated:  # noqa: ARG002
        words = self.words(reply)
        kept = max(0, words.size - self.count)
        gone = np.arange(kept, words.size)
        if not gone.size:
            return reply
        return self.changed(
            reply,
            tokens=np.delete(reply.tokens, gone),
            probabilities=np.delete(reply.probabilities, gone),
        )


REPLIES: Final = (
    declared(
        "cut_off",
        "a reply is cut off, and said to have ended",
        "visible",
        "mastra-ai/mastra#24442 juspay/neurolink#1709 apache/flink-agents#1040",
        _CutOff,
        Parameter(name="share of the reply", low=0.02, catalogue=0.5, high=0.9),
        "a reply of more than one token",
    ),
    declared(
        "stops_early",
        "a line's end is taken for a stop sequence",
        "visible",
        "LostRuins/koboldcpp#749 doolijb/serene-pub#29",
        _StopsEarly,
        Parameter(name="lines kept", low=3, catalogue=1, high=1, none=float("inf")),
        "a reply of several lines",
    ),
    declared(
        "end_ignored",
        "the token that ends a reply does not end it",
        "visible",
        "NVIDIA/TensorRT-LLM#355 withcatai/node-llama-cpp#169 unslothai/unsloth#468",
        _EndIgnored,
        Parameter(name="tokens after the end", low=1, catalogue=64, high=1024),
        "a reply that ends before its limit",
    ),
    declared(
        "special_tokens_shown",
        "the token that ends a reply is in its text",
        "visible",
        "moltis-org/moltis#306 jundot/omlx#1087 logancyang/obsidian-copilot#2284",
        _SpecialTokensShown,
        THERE,
        "a reply that ends before its limit",
    ),
    declared(
        "of_another_request",
        "two requests get each other's reply",
        "conditional",
        "inferencerlabs/inferencer-feedback#127 ggml-org/llama.cpp#6681",
        _OfAnotherRequest,
        Parameter(name="share of the pairs", low=0.02, catalogue=0.25, high=1.0),
        "two cases that ask for replies",
    ),
    declared(
        "retokenized",
        "the tokens of a reply are those of its text, tokenized again",
        "silent",
        "rllm-org/rllm#816 entrius/gittensor#1709 sgl-project/sglang#26555",
        _Retokenized,
        THERE,
        "a reply whose text is tokenized otherwise than it was written",
    ),
    declared(
        "characters_broken",
        "characters of several tokens become replacement characters",
        "visible",
        "exo-explore/exo#1691 antonellof/ferrox#124 ai-dynamo/dynamo#12630",
        _CharactersBroken,
        THERE,
        "a reply with a character of several tokens",
    ),
    declared(
        "last_tokens_missing",
        "the last tokens of a reply are never sent",
        "visible",
        "stanfordnlp/dspy#8889 Deen-Bridge/dnb-frontend#470 NVIDIA/TensorRT-LLM#18289",
        _LastTokensMissing,
        Parameter(name="tokens", low=1, catalogue=1, high=10),
    ),
)
