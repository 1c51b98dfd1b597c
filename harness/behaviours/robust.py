"""Questions asked again, in other words or with noise: is the answer still right?

A model that is changed at all loses answers and gains others, and variants are made of
questions that the reference answers right: held against the reference alone, they
could only lose. So a target's answer to a variant is held against its own answer to the
original, over the pairs that the reference has right both ways. Either of the two may
then be the one that is lost, unless other words or noise are what breaks it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from harness.behaviours import facts
from harness.behaviours.answers import answers
from harness.behaviours.each_reply import Seen
from harness.behaviours.types import Answer, BehaviourKind, CaseOutputs, Replies
from harness.models.types import Case

#: Whether the answer to a case is right; None: nothing to say.
Right = Callable[[Case], bool | None]


def _beside_originals(
    cases: Sequence[Case], right: Right, text: Callable[[Case], str]
) -> dict[str, Answer]:
    """The answers of all variants whose original has one."""
    by_id = {case.id: case for case in cases}
    found = {}
    for case in cases:
        original = by_id.get(case.variant_of)
        if original is None:
            continue
        own, first = right(case), right(original)
        if own is not None and first is not None:
            found[case.id] = Answer(text(case), own, original=first)
    return found


def _robust(
    cases: Sequence[Case],
    replies: Replies,
    options: Mapping[str, Any],
    metadata: Mapping[str, Any],
) -> dict[str, Answer]:
    """By what the cases expect of a reply."""

    def right(case: Case) -> bool | None:
        return answers(
            Seen(
                case=case,
                reply=replies[case.id],
                wanted=None,
                options=options,
                metadata=metadata,
                reference=None,
            )
        )

    return _beside_originals(cases, right, lambda case: replies[case.id].text)


def _robust_choice(
    cases: Sequence[Case],
    outputs: CaseOutputs,
    options: Mapping[str, Any],
    metadata: Mapping[str, Any],
) -> dict[str, Answer]:
    """By the likeliest of the choices of each."""
    found = facts.choose(cases, outputs, options, metadata)

    def right(case: Case) -> bool | None:
        return found[case.id].right if case.id in found else None

    return _beside_originals(cases, right, lambda case: found[case.id].text)


KINDS: Final = (
    BehaviourKind(
        name="robust",
        evaluate=_robust,
        options={},
        reads="replies",
        variants=True,
        summary="a variant is answered right as often as its original",
    ),
    BehaviourKind(
        name="robust_choice",
        evaluate=_robust_choice,
        options={"output": "name of the logits; default: logits"},
        variants=True,
        summary="the same, by the likeliest of the choices",
    ),
)
