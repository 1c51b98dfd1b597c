"""A behaviour: a check at the end of the pipeline, right or wrong for each case."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from harness.models.types import Case

Array = np.ndarray[Any, np.dtype[Any]]
#: Case id -> output name -> array.
CaseOutputs = Mapping[str, Mapping[str, Array]]


@dataclass(frozen=True)
class Answer:
    """What the model answered in one case, as a user would read it."""

    text: str
    right: bool
    #: Of a variant: whether its original is right too; None: it is none.
    original: bool | None = None

    @property
    def both(self) -> bool:
        """Whether it is right, and so is its original if it has one."""
        return self.right and self.original is not False


@dataclass(frozen=True, eq=False, kw_only=True)
class Reply:
    """What a language model wrote in one case."""

    #: Special tokens are shown in it, but for the end token itself.
    text: str
    #: int64 token ids, and the float32 probability of each.
    tokens: Array
    probabilities: Array
    #: Whether it ended by itself, not by the limit on its length.
    ended: bool
    #: What it replies to, as the model read it.
    prompt: str = ""


#: Case id -> reply.
Replies = Mapping[str, Reply]


@dataclass(frozen=True, kw_only=True)
class Behaviour:
    """One `[[behaviour]]` of a suite."""

    #: A name in `KINDS`, or one that a plugin registered.
    kind: str
    name: str
    #: The table's other keys, checked by the kind.
    options: Mapping[str, Any] = field(default_factory=dict)
    #: Largest loss of right answers that is good enough, as a share of the cases.
    margin: float | None = None
    #: Judged only where all cases are run: those that a selection took may be right
    #: answers that are nearest to a wrong one, of which any change loses some.
    all_cases: bool = False


@dataclass(frozen=True, kw_only=True)
class BehaviourKind:
    """How a kind of behaviour is evaluated; plugins register values of this."""

    name: str
    #: Answers of the cases that have what the kind needs, by case id.
    evaluate: Callable[
        [Sequence[Case], Any, Mapping[str, Any], Mapping[str, Any]],
        dict[str, Answer],
    ]
    #: Option name -> what it means; every other key is a configuration error.
    options: Mapping[str, str]
    required: tuple[str, ...] = ()
    summary: str = ""
    #: What `evaluate` is given: a model's outputs, or what a language model wrote.
    #: Of replies it is given the reference's too, in `metadata["reference"]`, where
    #: there are any: nothing is there while a golden is recorded.
    reads: Literal["outputs", "replies"] = "outputs"
    #: Whether a case's answer depends on what other cases there are.
    among_cases: bool = False
    #: Whether the reference's own answer is what is right: nothing can be gained then,
    #: and whatever changes something loses something.
    relative: bool = False
    #: Whether it judges variants of cases, beside their originals. All others are asked
    #: every question once.
    variants: bool = False
