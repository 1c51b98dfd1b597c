"""What a session shows of its operators, in the numbers that tests ask about."""

from __future__ import annotations

import math

import numpy as np

from harness.compare.explained import Explained
from harness.judge.statistics.quadratic import energy_factor

#: False alarms of an operator: one in a hundred clean runs of a thousand operators.
LEVEL = 0.01 / 1000


def largest_inputs(model, session, x):
    """The largest |input| of every operator: what a static scheme is calibrated with.

    Args:
        model: whose operators are watched.
        session: of the unquantized model.
        x: its input "x".
    """
    names = [operator.name for operator in model.operators()]
    outputs = session.run({"x": x}, capture=names)
    return {name: float(np.abs(outputs[f"{name}/input"]).max()) for name in names}


def beyond(model, scheme, session, x, *, kinds=("conv", "linear"), level=LEVEL):
    """Unexplained drift of each operator, in units of its limit: below 1 it passes.

    Args:
        model: whose operators are watched.
        scheme: what they should compute.
        session: what computes them.
        x: its input "x".
        kinds: of the operators that are watched.
        level: how often the limit may be exceeded by chance.
    """
    operators = {o.name: o for o in model.operators() if o.kind in kinds}
    outputs = session.run({"x": x}, capture=list(operators))
    explained = Explained(scheme, session.arithmetic())
    for name, operator in operators.items():
        explained.add(operator, outputs[f"{name}/input"], outputs[name])
    factor = energy_factor(level)
    return {
        entry.operator: math.sqrt(entry.residual_sq / entry.explained_sq) / factor
        for entry in explained.result()
    }


def furthest(model, scheme, session, x):
    """The operator that is furthest beyond its limit, and its ratio."""
    ratios = beyond(model, scheme, session, x)
    name = max(ratios, key=lambda key: ratios[key])
    return name, ratios[name]
