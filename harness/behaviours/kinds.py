"""The kinds of behaviour that ship; adding one is adding a value to `KINDS`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from harness.behaviours import (
    answers,
    facts,
    fluency,
    languages,
    meaning,
    robust,
    structured,
)
from harness.behaviours.types import Answer, Array, BehaviourKind, CaseOutputs
from harness.errors import ConfigError
from harness.models.types import Case


def _output(
    outputs: Mapping[str, Array], options: Mapping[str, Any], kind: str
) -> Array:
    """The output that the option `output` names."""
    name = str(options["output"])
    if name not in outputs:
        raise ConfigError(
            f"behaviour {kind}: output={name!r}, but the model has "
            f"{sorted(outputs)}; write one of these in suite.toml"
        )
    return np.asarray(outputs[name], dtype=np.float64)


def _nearest_neighbour(
    cases: Sequence[Case],
    outputs: CaseOutputs,
    options: Mapping[str, Any],
    metadata: Mapping[str, Any],  # noqa: ARG001 - one signature for all kinds
) -> dict[str, Answer]:
    """Which other case has the most similar embedding (cosine)."""
    ids = [case.id for case in cases]
    flat = [
        _output(outputs[name], options, "nearest_neighbour").ravel() for name in ids
    ]
    table = np.stack(flat)
    norms = np.linalg.norm(table, axis=1, keepdims=True)
    # A zero or non-finite embedding is nobody's neighbour: NaN never wins argmax.
    unit = np.divide(table, norms, out=np.zeros_like(table), where=norms > 0)
    similarity = np.nan_to_num(unit @ unit.T, nan=-np.inf)
    np.fill_diagonal(similarity, -np.inf)
    answers = {}
    for row, case in enumerate(cases):
        if "nearest" not in case.expected:
            continue
        found = ids[int(similarity[row].argmax())]
        answers[case.id] = Answer(found, found == case.expected["nearest"])
    return answers


def _ctc_text(
    cases: Sequence[Case],
    outputs: CaseOutputs,
    options: Mapping[str, Any],
    metadata: Mapping[str, Any],
) -> dict[str, Answer]:
    """Text read by greedy CTC: best class a frame, repeats merged, blanks dropped."""
    characters = metadata.get("characters")
    if characters is None:
        raise ConfigError("behaviour ctc_text: the model carries no character list")
    blank = int(options.get("blank", 0))
    answers = {}
    for case in cases:
        if "text" not in case.expected:
            continue
        frames = _output(outputs[case.id], options, "ctc_text")
        best = frames.reshape(-1, frames.shape[-1]).argmax(axis=-1)
        keep = (best != blank) & np.append(True, best[1:] != best[:-1])
        # Blanks at the ends cannot be seen, so they cannot be wrong.
        text = "".join(characters[index] for index in best[keep]).strip(" ")
        answers[case.id] = Answer(text, text == case.expected["text"])
    return answers


def _threshold(
    cases: Sequence[Case],
    outputs: CaseOutputs,
    options: Mapping[str, Any],
    metadata: Mapping[str, Any],  # noqa: ARG001
) -> dict[str, Answer]:
    """Whether a quantile over time of a score is above a threshold."""
    label = str(options["label"])
    threshold = float(options.get("threshold", 0.5))
    quantile = float(options.get("quantile", 1.0))
    answers = {}
    for case in cases:
        if label not in case.expected:
            continue
        scores = _output(outputs[case.id], options, "threshold").ravel()
        score = float(np.quantile(scores, quantile)) if scores.size else float("nan")
        found = score > threshold
        right = bool(np.isfinite(score)) and found == bool(case.expected[label])
        text = f"{label if found else 'no ' + label} ({score:.3f})"
        answers[case.id] = Answer(text, right)
    return answers


def _argmax(
    cases: Sequence[Case],
    outputs: CaseOutputs,
    options: Mapping[str, Any],
    metadata: Mapping[str, Any],
) -> dict[str, Answer]:
    """The class with the highest score, by number or by the model's label list."""
    labels = metadata.get("labels")
    key = str(options.get("label", "label"))
    answers = {}
    for case in cases:
        if key not in case.expected:
            continue
        scores = _output(outputs[case.id], options, "argmax").ravel()
        best = int(scores.argmax())
        found = labels[best] if labels is not None else best
        right = bool(np.isfinite(scores).all()) and found == case.expected[key]
        answers[case.id] = Answer(str(found), right)
    return answers


_OUTPUT = {"output": "name of the output that is read"}

#: Kind name -> how it is evaluated.
KINDS: dict[str, BehaviourKind] = {
    kind.name: kind
    for kind in (
        BehaviourKind(
            name="nearest_neighbour",
            evaluate=_nearest_neighbour,
            among_cases=True,
            options=_OUTPUT,
            required=("output",),
            summary="the case with the most similar embedding is the expected one",
        ),
        BehaviourKind(
            name="ctc_text",
            evaluate=_ctc_text,
            options={**_OUTPUT, "blank": "index of the blank class"},
            required=("output",),
            summary="the text read by greedy CTC is the expected one",
        ),
        BehaviourKind(
            name="threshold",
            evaluate=_threshold,
            options={
                **_OUTPUT,
                "label": "key of `expected` that says yes or no",
                "threshold": "score above which the answer is yes",
                "quantile": "over time: 1.0 is the maximum",
            },
            required=("output", "label"),
            summary="a score over time is above a threshold when it should be",
        ),
        BehaviourKind(
            name="argmax",
            evaluate=_argmax,
            options={**_OUTPUT, "label": "key of `expected` with the right class"},
            required=("output",),
            summary="the class with the highest score is the expected one",
        ),
        *structured.KINDS,
        *facts.KINDS,
        *fluency.KINDS,
        *answers.KINDS,
        *robust.KINDS,
        *meaning.KINDS,
        *languages.KINDS,
    )
}
