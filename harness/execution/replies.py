"""What a language model writes in the cases that ask it to."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np

from harness.backends.protocol import Request, Session
from harness.behaviours.types import Reply
from harness.errors import CasesError, UnsupportedError
from harness.models.types import Case, Model

#: Prompts that are continued at a time, for each that is stacked otherwise: a step
#: reads every weight once, for one row or for many.
_AT_A_TIME: Final = 8
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
