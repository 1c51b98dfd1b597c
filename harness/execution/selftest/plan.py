"""What a self-test tries: which defects, where, at which strengths."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from harness.defects import DEFECTS, WHOLE, Defect, Planting
from harness.execution.jobs import Description
from harness.execution.selftest.stage import Item, Stage
from harness.execution.suite import Target
from harness.models.types import Operator
from harness.schemes.apply import plan_one

#: Of a weight.
Shape = tuple[int, ...]


def levels(defect: Defect, wanted: Sequence[str]) -> Iterator[tuple[str, float]]:
    """The strengths of a defect, each once."""
    seen: set[float] = set()
    for name in wanted:
        value = float(getattr(defect.parameter, name))
        if value not in seen:
            seen.add(value)
            yield name, value


def plan(
    stage: Stage,
    targets: Sequence[Target],
    operators: Mapping[str, Mapping[str, Shape]],
    *,
    defects: Mapping[str, Defect] | None = None,
    strengths: Sequence[str] = ("low", "catalogue", "high"),
    places: Sequence[str] = ("one", "all"),
    controls: int = 1,
) -> list[Item]:
    """Every defect in every target, at every strength, in one operator and in all.

    Args:
        stage: suite and backend.
        targets: of that backend.
        operators: by target, those that are quantized, with their weights' shapes.
        defects: name -> defect; None: the catalogue.
        strengths: "low", "catalogue", "high".
        places: "one", "all".
        controls: clean runs of each target.
    """
    items: list[Item] = []
    known = DEFECTS if defects is None else defects
    for target in targets:
        items.extend(
            Item(stage=stage, target=target, planting=None, number=number)
            for number in range(controls)
        )
        shapes = operators[target.name]
        names = list(shapes)
        for number, defect in enumerate(known.values()):
            inside = defect.place not in WHOLE
            if inside and not names:
                continue
            for place in places if inside else ("all",):
                one = names[number % len(names)] if place == "one" else None
                items.extend(
                    Item(
                        stage=stage,
                        target=target,
                        planting=Planting(
                            defect=defect.name, operator=one, strength=strength
                        ),
                        severity=defect.severity,
                        level=level,
                        elsewhere=() if one is None else others(one, shapes),
                    )
                    for level, strength in levels(defect, strengths)
                )
    return items


def others(name: str, shapes: Mapping[str, Shape]) -> tuple[str, ...]:
    """An operator of every other shape, the next in the network first.

    What a defect needs of an operator (columns enough, several blocks, another operator
    that is alike) hangs on its shape.
    """
    names = list(shapes)
    place = names.index(name)
    seen = {shapes[name]}
    found = []
    for other in (*names[place + 1 :], *names[:place]):
        if shapes[other] not in seen:
            seen.add(shapes[other])
            found.append(other)
    return tuple(found)


def quantized_operators(target: Target, description: Description) -> dict[str, Shape]:
    """Operators that a target's scheme quantizes, with their weights' shapes."""
    found: dict[str, Shape] = {}
    for name, shape in description.operators:
        kind: Any = "linear" if len(shape) == 2 else "conv"
        # What a scheme does depends on the shape alone, so no weight is needed.
        weight = np.broadcast_to(np.float32(0), shape)
        entry = plan_one(target.scheme, Operator(name=name, kind=kind, weight=weight))
        if entry.weights or entry.activations:
            found[name] = tuple(shape)
    return found
