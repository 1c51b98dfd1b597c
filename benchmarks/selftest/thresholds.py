"""What people write by hand: cosine, allclose, and the loss of right answers.

Each compares the outputs of all cases with those of the FP32 model in ONNX Runtime. A
recurrent model carries its own state, so that drift adds up as it does in use.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from planted import Bench, Counter, Specimen

from harness.behaviours.kinds import KINDS

#: Statistic -> limits as published: a project's own setting.
USUAL = {
    # A cosine of 0.99 and of 0.999, as people write it: of the worst case, and of the
    # mean case, which forgives more.
    "cosine distance": (1e-2, 1e-3),
    "mean cosine distance": (1e-2, 1e-3),
    # numpy's and torch's habit; 1e-2: KernelBench's.
    "allclose": (1e-3, 1e-2, 1e-1),
    # NNCF's accuracy control: a drop of at most one point.
    "right answers lost": (1e-2,),
}


def measure(bench: Bench, specimen: Specimen, reference: Any) -> dict[str, Any]:
    """Statistic -> output -> the worst of all cases; how many runs.

    Args:
        bench: the suite.
        specimen: the model.
        reference: outputs of the FP32 model.
    """
    counter = Counter()
    found = bench.outputs(specimen.model, counter, specimen.control)
    cosines: dict[str, list[float]] = {}
    values: dict[str, dict[str, float]] = {
        "cosine distance": {},
        "allclose": {},
        "right answers lost": {},
    }
    with np.errstate(all="ignore"):
        for case, arrays in reference.items():
            for name, right in arrays.items():
                near = _near(right, found[case][name])
                cosines.setdefault(name, []).append(near["cosine distance"])
                for statistic, value in near.items():
                    worst = values[statistic].get(name, -np.inf)
                    values[statistic][name] = max(worst, value)
    values["mean cosine distance"] = {
        name: float(np.mean(each)) for name, each in cosines.items()
    }
    lost = _right(bench, reference) - _right(bench, found)
    values["right answers lost"]["answers"] = lost
    return {"values": values, "runs": counter.runs}


def _near(right: Any, found: Any) -> dict[str, float]:
    """Distances of one output; what is not finite is infinitely far."""
    a = np.asarray(right, np.float64).ravel()
    b = np.asarray(found, np.float64).ravel()
    if a.shape != b.shape or not np.isfinite(b).all():
        return {"cosine distance": np.inf, "allclose": np.inf}
    size = np.linalg.norm(a) * np.linalg.norm(b)
    cosine = 1 - a @ b / size if size else float(not np.array_equal(a, b))
    # The smallest t for which allclose(rtol=t, atol=t) holds.
    return {
        "cosine distance": float(cosine),
        "allclose": float((np.abs(a - b) / (1 + np.abs(a))).max(initial=0)),
    }


def _right(bench: Bench, outputs: Any) -> float:
    """Share of the cases whose answer is right, as the suite's behaviour has it."""
    behaviour = bench.suite.behaviours[0]
    answers = KINDS[behaviour.kind].evaluate(
        bench.loaded.cases, outputs, behaviour.options, bench.loaded.model.metadata
    )
    return sum(answer.right for answer in answers.values()) / len(answers)
