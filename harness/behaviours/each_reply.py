"""Behaviours of replies: one judgement a reply, on what the case expects of it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from harness.behaviours.types import Answer, BehaviourKind, Replies, Reply
from harness.models.types import Case


@dataclass(frozen=True, eq=False, kw_only=True)
class Seen:
    """All that a judgement of one reply may look at."""

    case: Case
    reply: Reply
    #: What the case expects under the kind's key; None where the kind has no key.
    wanted: Any
    options: Mapping[str, Any]
    metadata: Mapping[str, Any]
    #: The reference's reply; None while the reference itself is recorded.
    reference: Reply | None

    def about(self, wanted: Any) -> Seen:
        """The same reply, asked about something else that its case expects."""
        return dataclasses.replace(self, wanted=wanted)

    @property
    def text(self) -> str:
        """What was written, without white space around it."""
        return self.reply.text.strip()


#: Whether a reply is right; None: the case says nothing about it.
Judge = Callable[[Seen], bool | None]


def of_each(
    name: str,
    judge: Judge,
    *,
    key: str = "",
    options: Mapping[str, str] | None = None,
    relative: bool = False,
    summary: str,
) -> BehaviourKind:
    """A kind that judges every reply by itself.

    Args:
        name: of the kind.
        judge: decides one reply.
        key: of `expected`, whose cases are judged; "": all that were replied to.
        options: what suite.toml may say.
        relative: the reference's own reply is the right one.
        summary: one line.
    """

    def evaluate(
        cases: Sequence[Case],
        replies: Replies,
        options: Mapping[str, Any],
        metadata: Mapping[str, Any],
    ) -> dict[str, Answer]:
        reference = metadata.get("reference")
        answers = {}
        for case in cases:
            if key and key not in case.expected:
                continue
            seen = Seen(
                case=case,
                reply=replies[case.id],
                wanted=case.expected.get(key) if key else None,
                options=options,
                metadata=metadata,
                reference=None if reference is None else reference.get(case.id),
            )
            right = judge(seen)
            if right is not None:
                answers[case.id] = Answer(seen.reply.text, right)
        return answers

    return BehaviourKind(
        name=name,
        evaluate=evaluate,
        options=options or {},
        summary=summary,
        reads="replies",
        relative=relative,
    )
