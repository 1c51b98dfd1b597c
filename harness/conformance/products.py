"""Quantized products of drawn shapes and magnitudes, and what long sums cost.

Every draw is held against the oracle on the operator's own observed input, by the same
chi-square bound as a suite's operators.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import numpy as np

from harness.backends.protocol import Backend
from harness.compare.explained import Explained
from harness.conformance.probes import NAME, OUTPUT, Probe, Shape
from harness.conformance.report import CheckReport
from harness.errors import UnsupportedError
from harness.judge.statistics.quadratic import energy_factor
from harness.schemes.types import Scheme

Array = np.ndarray[Any, np.dtype[Any]]

#: Chance that one scheme of a faithful backend fails by one of these checks.
ALPHA: Final = 1e-3
#: Reductions: shorter than a block, whole blocks, and one more or less.
_LENGTHS: Final = (1, 3, 15, 16, 31, 32, 33, 64, 96, 100, 129, 256)
#: Reductions of the accumulation check.
_LONG: Final = (64, 256, 1024, 4096)
DRAWS: Final = 12


def operators(
    backend: Backend, scheme: Scheme, folder: Path, seed: int = 0
) -> CheckReport:
    """Linear layers and convolutions, drawn."""
    worst, where, refused, ran = 0.0, "", [], 0
    factor = energy_factor(ALPHA / DRAWS)
    for what, shape, x in _draws(seed):
        try:
            ratio = _ratio(backend, scheme, shape, x, folder)
        except UnsupportedError as error:
            refused.append(f"{what}: {error}")
            continue
        ran += 1
        if not ratio / factor <= worst:
            worst, where = ratio / factor, what
    if not ran:
        return CheckReport(
            name="operators", passed=False, detail=f"none ran: {refused}"
        )
    detail = f"{ran} draws; worst {worst:.2g} of its limit [{where}, seed {seed}]"
    if refused:
        detail += f"; {len(refused)} refused: {refused[0]}"
    return CheckReport(name="operators", passed=worst <= 1, detail=detail, cases=ran)


def accumulation(
    backend: Backend, scheme: Scheme, folder: Path, seed: int = 0
) -> CheckReport:
    """The error of ever longer sums, in units of what theory allows for each."""
    rng = np.random.default_rng(seed)
    factor = energy_factor(ALPHA / len(_LONG))
    found = {}
    for length in _LONG:
        weight = rng.standard_normal((16, length))
        x = rng.standard_normal((16, length)).astype(np.float32)
        ratio = _ratio(backend, scheme, Shape(weight), x, folder)
        found[length] = ratio / factor
    shown = ", ".join(f"K={length}: {ratio:.2g}" for length, ratio in found.items())
    return CheckReport(
        name="accumulation",
        passed=all(ratio <= 1 for ratio in found.values()),
        detail=f"of the limit: {shown}",
        cases=len(found),
    )


def _ratio(
    backend: Backend, scheme: Scheme, shape: Shape, x: Array, folder: Path
) -> float:
    """Residual over expected noise, root of energies; infinite for a wrong shape."""
    amax = float(np.abs(x).max()) or 1.0
    with Probe(backend, scheme, shape, folder, amax=amax) as probe:
        outputs = probe.captured(x)
        explained = Explained(probe.scheme, probe.arithmetic)
        # A backend that shows no operators is held to its output: it is the operator's.
        seen = outputs.get(f"{NAME}/input", x)
        explained.add(probe.operator, seen, outputs.get(NAME, outputs[OUTPUT]))
    entry = explained.result()[0]
    if entry.residual_sq == 0:
        return 0.0
    if not entry.explained_sq > 0:
        return math.inf
    return math.sqrt(entry.residual_sq / entry.explained_sq)


def _draws(seed: int) -> Iterator[tuple[str, Shape, Array]]:
    """Shapes, weights and inputs; every draw in words, so that it can be repeated."""
    rng = np.random.default_rng(seed)
    for index in range(DRAWS):
        length = int(rng.choice(_LENGTHS))
        out, rows = int(rng.integers(1, 40)), int(rng.integers(1, 9))
        magnitude = 2.0 ** int(rng.integers(-20, 21))
        # Student's t with three degrees of freedom has the tails of real activations.
        tails = bool(rng.integers(2))
        bias = rng.standard_normal(out) * magnitude if index % 2 else None
        words = f"K={length} out={out} rows={rows} x 2^{math.log2(magnitude):.0f}"
        words += " heavy tails" * tails + " bias" * (bias is not None)
        if index % 3:
            weight = _draw(rng, (out, length), tails=tails)
            x = _draw(rng, (rows, length), tails=tails)
            yield f"linear {words}", Shape(weight, bias), _scaled(x, magnitude)
            continue
        groups = int(rng.choice([1, 1, 2]))
        weight = rng.standard_normal((out * groups, length, 3))
        bias = None if bias is None else np.resize(bias, out * groups)
        shape = Shape(weight, bias, padding=1, stride=1 + index % 2, groups=groups)
        x = rng.standard_normal((rows, length * groups, 12))
        yield f"conv {words} groups={groups}", shape, _scaled(x, magnitude)


def _draw(rng: np.random.Generator, shape: tuple[int, ...], *, tails: bool) -> Array:
    return rng.standard_t(3, shape) if tails else rng.standard_normal(shape)


def _scaled(x: Array, magnitude: float) -> Array:
    return np.asarray(x * magnitude, np.float32)
