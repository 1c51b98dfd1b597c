"""A behaviour: a check at the end of the pipeline, right or wrong for each case."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

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


@dataclass(frozen=True, kw_only=True)
class BehaviourKind:
    """How a kind of behaviour is evaluated; plugins register values of this."""

    name: str
    #: Answers of the cases that have what the kind needs, by case id.
    evaluate: Callable[
        [Sequence[Case], CaseOutputs, Mapping[str, Any], Mapping[str, Any]],
        dict[str, Answer],
    ]
    #: Option name -> what it means; every other key is a configuration error.
    options: Mapping[str, str]
    required: tuple[str, ...] = ()
    summary: str = ""
