"""Questions asked again, in other words or with noise: is the answer still right?

Judged in pairs: a variant is right when it and its original are. What the reference
does not answer both ways is not blamed on a target, as of any behaviour.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from harness.behaviours import facts
from harness.behaviours.answers import answers
from harness.behaviours.each_reply import Seen
from harness.behaviours.types import Answer, BehaviourKind, CaseOutputs, Replies
from harness.models.types import Case

#: Whether a case and its original are both right; None: nothing to say.
Both = Callable[[Case, Case], bool | None]


def _pairs(
    cases: Sequence[Case], both: Both, text: Callable[[Case], str]
) -> dict[str, Answer]:
    """The answers of all variants whose original is there."""
    by_id = {case.id: case for case in cases}
    found = {}
    for case in cases:
        original = by_id.get(case.variant_of)
        right = None if original is None else both(case, original)
        if right is not None:
            found[case.id] = Answer(text(case), right)
    return found


def _robust(
    cases: Sequence[Case],
    replies: Replies,
    options: Mapping[str, Any],
    metadata: Mapping[str, Any],
) -> dict[str, Answer]:
    """By what the cases expect; where they expect nothing, both have one reply."""

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

    def both(case: Case, original: Case) -> bool:
        own, first = right(case), right(original)
        if own is None or first is None:
            return replies[case.id].text.strip() == replies[original.id].text.strip()
        return own and first

    return _pairs(cases, both, lambda case: replies[case.id].text)


def _robust_choice(
    cases: Sequence[Case],
    outputs: CaseOutputs,
    options: Mapping[str, Any],
    metadata: Mapping[str, Any],
) -> dict[str, Answer]:
    """By the likeliest of the choices of each."""
    found = facts.choose(cases, outputs, options, metadata)

    def both(case: Case, original: Case) -> bool | None:
        if case.id not in found or original.id not in found:
            return None
        return found[case.id].right and found[original.id].right

    return _pairs(cases, both, lambda case: found[case.id].text)


KINDS: Final = (
    BehaviourKind(
        name="robust",
        evaluate=_robust,
        options={},
        reads="replies",
        variants=True,
        summary="a variant and its original are both answered right",
    ),
    BehaviourKind(
        name="robust_choice",
        evaluate=_robust_choice,
        options={"output": "name of the logits; default: logits"},
        variants=True,
        summary="of a variant and its original the likeliest answers are both right",
    ),
)
