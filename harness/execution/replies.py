"""What a language model writes in the cases that ask it to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np

from harness.backends.protocol import Request, Session
from harness.backends.sampling import scores_of
from harness.behaviours.types import Reply
from harness.errors import CasesError, UnsupportedError
from harness.execution.cases_run import moderate, spread
from harness.execution.errors_by_case import paired
from harness.execution.jobs import Repeat, TargetRun
from harness.models.types import Case, Model

#: Prompts that are continued at a time, for each that is stacked otherwise: a step
#: reads every weight once, for one row or for many.
_AT_A_TIME: Final = 8
Array = np.ndarray[Any, np.dtype[Any]]
#: Case -> name -> array.
ByCase = Mapping[str, Mapping[str, Array]]
#: Name of the repeat that holds them so.
REPLY: Final = "reply and its logits"
#: Replies that are held against the logits before their own tokens.
_AGAIN: Final = 12
#: And, at least, that are sampled.
_SAMPLED: Final = 2
#: Probabilities of less than this are taken for this: float32 has none below.
_TINY: Final = 1e-45
#: Keys of `generate` that say how a reply is written.
_KEYS: Final = frozenset({"tokens", "temperature", "seed"})


def replies_of(
    session: Session, model: Model, cases: Sequence[Case], *, batch: int
) -> dict[str, Reply]:
    """The replies of all cases whose `expected` names `generate`, by case.

    `generate` is the most tokens of the reply, or a table of `tokens`, `temperature`
    and `seed`. The prompt is what stands before the first of the case's `positions`,
    and the token there.

    Raises:
        CasesError: `generate` is neither, or the model takes no prompts.
        UnsupportedError: the backend does not generate.
    """
    requests = [request for case in cases if (request := _request(case, model))]
    if not requests:
        return {}
    generate = getattr(session, "generate", None)
    if generate is None:
        raise UnsupportedError(
            f"cases ask {model.name} for replies ({requests[0].name!r}), but the "
            "backend does not generate"
        )
    found = generate(requests, batch=_AT_A_TIME * batch)
    tokenizer: Any = getattr(model, "tokenizer")  # noqa: B009 - of language models only
    ends = set(model.metadata.get("ends", ()))
    prompts = {request.name: request.tokens for request in requests}
    return {
        name: Reply(
            text=tokenizer.decode([t for t in entry.tokens.tolist() if t not in ends]),
            tokens=entry.tokens,
            probabilities=entry.probabilities,
            ended=entry.ended,
            prompt=tokenizer.decode(prompts[name].tolist()),
        )
        for name, entry in found.items()
    }


def replies_again(
    session: Session, model: Model, cases: Sequence[Case], run: TargetRun
) -> Repeat:
    """Replies beside the logits before their own tokens: two ways to ask the same.

    What a server makes of a reply shows in no logits and, mostly, in no behaviour.

    Args:
        session: what replied.
        model: a language model.
        cases: of the suite; some of all shapes and tags are asked again, and some
            that are sampled.
        run: its replies, and the outputs by which its noise is known.
    """
    assert run.outputs is not None  # sanity check
    replied = [case for case in cases if case.id in run.replies]
    chosen = spread(moderate(replied), _AGAIN)
    # Another code path, and the only one that has a seed.
    sampled = [case for case in replied if _is_sampled(case, model)]
    chosen += [case for case in sampled[:_SAMPLED] if case not in chosen]
    given, again = replies_and_logits(session, model, chosen, run.replies)
    return Repeat(
        name=REPLY,
        difference=paired(given, again),
        outputs={case: run.outputs[case] for case in given},
    )


def limit_of_replies(
    run: TargetRun, limit: float, source: str, least: float
) -> tuple[float, str]:
    """How far replies may be from their logits: no further than other ways to ask.

    Two draws of the quantization noise are a bound for whatever asks the same; in this
    very run is measured what padding, batch mates and the cache really change, of all
    logits. Replies are compared by the largest ones, which move less: 0.0007 where the
    cache moved logits by 0.010 (smollm2, `torch/kv_fp8`).

    Args:
        run: its repeats.
        limit: of any way to ask the same, and where it is from.
        source: where that is from.
        least: what the reference moves by itself.
    """
    ways = [
        repeat.difference.ratio
        for repeat in run.repeats
        if repeat.name not in ("repeat", "capture", REPLY)
    ]
    worst = max(ways, default=limit)
    if not worst < limit:
        return limit, source
    return max(worst, least), "what the other ways to ask the same change"


def _is_sampled(case: Case, model: Model) -> bool:
    request = _request(case, model)
    return request is not None and request.temperature > 0


def replies_and_logits(
    session: Session, model: Model, cases: Sequence[Case], replies: Mapping[str, Reply]
) -> tuple[ByCase, ByCase]:
    """Replies as they were given, and as the logits after each of their tokens are.

    Nothing is known of the right reply here, only that a reply and the logits before
    its own tokens, read in one go, must agree: each token is the one that the request
    chooses, its probability the one that was given, and it ends where it says.

    Args:
        session: what replied.
        model: a language model.
        cases: some that were replied to.
        replies: of these cases and others.

    Returns:
        case -> "reply" -> float64 (2, tokens): the logit that the given probability
        stands for and the score of the token; its logit and the highest score. Scores
        are logits at the request's temperature, noise of sampling included. The second
        is empty where a reply does not end as it says.
    """
    ends = set(model.metadata.get("ends", ()))
    given: dict[str, dict[str, Array]] = {}
    again: dict[str, dict[str, Array]] = {}
    for case in cases:
        request = _request(case, model)
        if request is None:
            continue
        reply = replies[case.id]
        count = len(reply.tokens)
        if not _ends_as_it_says(request, reply, ends):
            given[case.id] = {"reply": np.ones((2, max(1, count)))}
            again[case.id] = {"reply": np.empty((2, 0))}
            continue
        tokens = np.concatenate([request.tokens, reply.tokens[:-1]])[None]
        where = np.arange(count)[None] + len(request.tokens) - 1
        asked = {
            "input_ids": tokens,
            "attention_mask": np.ones_like(tokens),
            "positions": where,
        }
        logits = np.asarray(session.run(asked)["logits"][0])
        steps = [_step(row, request, reply, n) for n, row in enumerate(logits)]
        pair = np.array(steps).transpose(1, 2, 0)
        given[case.id], again[case.id] = {"reply": pair[0]}, {"reply": pair[1]}
    return given, again


def _ends_as_it_says(request: Request, reply: Reply, ends: set[int]) -> bool:
    """Of one length, ended by the only token that ends it or by the request's limit."""
    tokens = reply.tokens.tolist()
    if not tokens or len(tokens) != len(reply.probabilities):
        return False
    if ends & set(tokens[:-1]):
        return False
    ended = tokens[-1] in ends if ends else reply.ended
    return reply.ended is ended and (ended or len(tokens) == request.longest)


def _step(
    logits: Array, request: Request, reply: Reply, step: int
) -> tuple[tuple[float, float], tuple[float, float]]:
    """What was given of a token, and what the logits before it say."""
    token = int(reply.tokens[step])
    wide = logits.astype(np.float64)
    largest = float(wide.max())
    whole = largest + float(np.log(np.exp(wide - largest).sum()))
    told = max(float(reply.probabilities[step]), _TINY)
    scores = scores_of(logits, request, step)
    return (
        (float(np.log(told)) + whole, float(scores[token])),
        (float(wide[token]), float(scores.max())),
    )


def _request(case: Case, model: Model) -> Request | None:
    asked = case.expected.get("generate")
    if asked is None:
        return None
    table = {"tokens": asked} if isinstance(asked, int) else asked
    fits = isinstance(table, dict) and set(table) <= _KEYS and "tokens" in table
    if not fits or type(table["tokens"]) is not int or table["tokens"] < 1:
        raise CasesError(
            f"case {case.id!r}: expected.generate={asked!r}, but should be the most "
            "tokens of the reply, or {tokens, temperature, seed}"
        )
    if "positions" not in case.inputs or not hasattr(model, "tokenizer"):
        raise CasesError(
            f"case {case.id!r} asks for a reply, but {model.name} is no language model"
        )
    last = int(case.inputs["positions"].flat[0])
    tokens = np.ascontiguousarray(case.inputs["input_ids"][0, : last + 1])
    context = model.metadata.get("context")
    if context and tokens.size + table["tokens"] > context:
        raise CasesError(
            f"case {case.id!r}: expected.generate={asked!r} after a prompt of "
            f"{tokens.size} tokens, but the model's context is {context}: ask for at "
            f"most {context - tokens.size}"
        )
    return Request(
        name=case.id,
        tokens=tokens,
        longest=table["tokens"],
        temperature=float(table.get("temperature", 0.0)),
        seed=int(table.get("seed", 0)),
    )
