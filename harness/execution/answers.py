"""Right or wrong by case: a run's answers beside the reference's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np

from harness.behaviours.types import Answer, Behaviour, Replies, Reply
from harness.execution.context import Context, tags_of
from harness.execution.jobs import Description, Outputs, TargetRun
from harness.execution.suite import Suite
from harness.golden.store import Golden
from harness.judge.evidence import BehaviourEvidence
from harness.judge.slices import clusters_of
from harness.models.types import Case

#: Under which behaviours a golden keeps what the reference wrote.
REPLIES: Final = "replies"


def answers_of(
    suite: Suite,
    description: Description,
    outputs: Outputs,
    kinds: Mapping[str, Any],
    *,
    replies: Replies,
    reference: Replies | None = None,
) -> dict[str, dict[str, Answer]]:
    """Behaviour name -> case -> answer, of one run.

    Args:
        suite: whose behaviours are evaluated.
        description: its cases and what its model carries.
        outputs: the run's.
        kinds: behaviours by kind.
        replies: what the run's language model wrote.
        reference: what the reference wrote; None: the run is the reference.
    """
    found = {}
    for behaviour in suite.behaviours:
        kind = kinds[behaviour.kind]
        metadata = description.metadata
        given: Any = outputs
        if getattr(kind, "reads", "outputs") == "replies":
            given = replies
            metadata = {**metadata, "reference": reference}
        found[behaviour.name] = kind.evaluate(
            asked_of(kind, description, given), given, behaviour.options, metadata
        )
    if replies:
        found[REPLIES] = {
            case: Answer(r.text, right=True) for case, r in replies.items()
        }
    return found


def recorded_replies(golden: Golden) -> dict[str, Reply]:
    """What the reference wrote, as a golden keeps it: text and token ids."""
    found = {}
    for case, entry in golden.behaviours.get(REPLIES, {}).items():
        tokens = np.array(entry["tokens"], dtype=np.int64)
        found[case] = Reply(
            text=entry["answer"],
            tokens=tokens,
            probabilities=np.array(entry["probabilities"], dtype=np.float32),
            ended=bool(entry["ended"]),
        )
    return found


def asked_of(
    kind: Any, description: Description, outputs: Mapping[str, Any]
) -> Sequence[Case]:
    """The cases that a kind judges, of those in `outputs`: variants are no others."""
    variants = getattr(kind, "variants", False)
    return [
        Case(
            id=case.id,
            inputs={},
            expected=case.expected,
            tags=case.tags,
            variant_of=case.variant_of,
        )
        for case in description.cases
        if case.id in outputs and (variants or not case.variant_of)
    ]


def behaviour_evidence(
    context: Context, run: TargetRun
) -> tuple[BehaviourEvidence, ...]:
    """Right or wrong by case, beside what the reference answered at record time."""
    by_name = {behaviour.name: behaviour for behaviour in context.suite.behaviours}
    whole = context.every <= set(run.outputs)
    found = []
    answers = answers_of(
        context.suite,
        context.description,
        run.outputs,
        context.behaviours,
        replies=run.replies,
        reference=recorded_replies(context.golden),
    )
    answers.pop(REPLIES, None)
    for name, target in answers.items():
        if by_name[name].all_cases and not whole:
            continue
        recorded = _recorded(context, by_name[name], whole=whole)
        kind = context.behaviours[by_name[name].kind]
        cases = tuple(case for case in target if case in recorded)
        before = [recorded[case].both for case in cases]
        unjudged = ""
        variants = getattr(kind, "variants", False)
        if variants and not whole and not target:
            unjudged = f"no variant is among the {len(run.outputs)} cases that were run"
        if variants and any(before):
            # The reference does both, so its own answer is no news: what is held
            # against the target's is how the same target does the original.
            cases = tuple(case for case in cases if recorded[case].both)
            before = [bool(target[case].original) for case in cases]
            if not any(before):
                unjudged = f"the target has none of {len(cases)} originals right"
        found.append(
            BehaviourEvidence(
                name=name,
                cases=cases,
                reference_right=np.array(before, bool),
                target_right=np.array([target[c].right for c in cases], bool),
                answers={c: (recorded[c].text, target[c].text) for c in cases},
                margin=by_name[name].margin,
                clusters=clusters_of(tags_of(context), cases),
                relative=getattr(kind, "relative", False),
                variants=variants,
                unjudged=unjudged,
            )
        )
    return tuple(found)


def _recorded(
    context: Context, behaviour: Behaviour, *, whole: bool
) -> dict[str, Answer]:
    """What the reference answered.

    Where answers depend on what other cases there are, those were given among all of
    them; among some, the reference is asked again, by the outputs that the golden
    keeps. Where it does not keep them whole nobody knows: no case is judged.

    A golden that is older than the behaviour has at least what the reference wrote, and
    a behaviour that reads nothing else can be judged by that.
    """
    kept = context.golden.behaviours.get(behaviour.name)
    kind = context.behaviours[behaviour.kind]
    if getattr(kind, "among_cases", False) and not whole:
        return _among(context, behaviour)
    if kept is not None:
        return {c: Answer(e["answer"], bool(e["right"])) for c, e in kept.items()}
    replies = recorded_replies(context.golden)
    if getattr(kind, "reads", "outputs") != "replies" or not replies:
        return {}
    metadata = {**context.description.metadata, "reference": replies}
    cases = asked_of(kind, context.description, replies)
    found: dict[str, Answer] = kind.evaluate(
        cases, replies, behaviour.options, metadata
    )
    return found


def _among(context: Context, behaviour: Behaviour) -> dict[str, Answer]:
    """What the reference answers among the cases that are run."""
    kept = context.golden.outputs
    whole = {
        case: {
            name: array
            for name, array in arrays.items()
            if array.shape == kept[case][name].shape
        }
        for case, arrays in context.reference.items()
    }
    if any(len(whole[case]) < len(kept[case]) for case in whole):
        return {}
    kind = context.behaviours[behaviour.kind]
    found: dict[str, Answer] = kind.evaluate(
        asked_of(kind, context.description, whole),
        whole,
        behaviour.options,
        context.description.metadata,
    )
    return found
