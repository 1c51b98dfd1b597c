"""What IBM's aihwkit makes of a crossbar, in expectation; computed without it.

Its cells have the numbers of `analog_device`. Around them it does otherwise than the
simulation of `analog_layer`, as its source (1.2.0) says:

* the two cells of a weight become one when they are programmed: the weight is what is
  left of their difference, and drifts with the exponent of the cell that has its sign;
* before it drifts, the largest weight that was programmed, noise included, becomes the
  largest conductance, on which the noise of reading depends;
* the noise of reading is drawn once an age, not once a read;
* the compensation compares mean absolute outputs for one-hot inputs, through the noise
  and the steps of the output's converter, and multiplies what comes out of that
  converter.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from harness.backends.analog_device import (
    Cells,
    decades,
    exponents,
    programming_noise,
    read_noise,
)

Array = np.ndarray[Any, np.dtype[Any]]

#: Targets at which moments are tabled, and nodes of each integral.
_GRID: Final = 129
_FINE: Final = 121
_NODES: Final = 24
#: Weights that are drawn to find a compensation, and at most so many devices.
_DRAWN: Final = 400_000
_DEVICES: Final = 200


@dataclass(frozen=True, kw_only=True)
class Converter:
    """Behind a column, in units of the largest input times the largest weight.

    `bits` bits over -`bound` to `bound`, after noise of standard deviation `noise`.
    """

    bits: int = 9
    bound: float = 12.0
    noise: float = 0.02

    @property
    def step(self) -> float:
        """What one code is worth: aihwkit's resolution times its range."""
        return 2 * self.bound / float(2**self.bits - 2)

    def __call__(self, y: Array, rng: np.random.Generator) -> Array:
        """Outputs as they are read."""
        noisy = y + self.noise * rng.standard_normal(y.shape)
        codes = np.round(noisy / self.step) * self.step
        return np.asarray(codes.clip(-self.bound, self.bound))


@dataclass(frozen=True, kw_only=True)
class Compensation:
    """The factor on all outputs of a layer, over devices."""

    mean: float
    square: float
    #: The largest weight that is programmed, in units of the largest target.
    top: float


def compensation(target: Array, age: float, converter: Converter) -> Compensation:
    """Global drift compensation of weights, by drawing devices of a fixed seed.

    Args:
        target: relative weights, -1 to 1, any shape.
        age: seconds after programming.
        converter: through which the compensation looks.
    """
    rng = np.random.default_rng(0)
    flat = target.reshape(-1).astype(np.float64)
    devices = min(_DEVICES, max(1, math.ceil(_DRAWN / flat.size)))
    factors, tops = [], []
    for _ in range(devices):
        weight, exponent = programmed(flat, rng)
        tops.append(float(np.abs(weight).max()))
        later = drifted(weight, exponent, age, rng)
        first, second = (np.abs(converter(w, rng)).mean() for w in (weight, later))
        factors.append(max(first, 1e-4) / max(second, 1e-4))
    found = np.array(factors)
    return Compensation(
        mean=float(found.mean()),
        square=float(np.square(found).mean()),
        top=float(np.mean(tops)),
    )


def programmed(target: Array, rng: np.random.Generator) -> tuple[Array, Array]:
    """A device: its weights, in units of the largest target, and their exponents."""
    cells = np.stack([np.maximum(target, 0), np.maximum(-target, 0)])
    noise = programming_noise(cells, Cells()) * rng.standard_normal(cells.shape)
    noisy = np.maximum(cells + noise, 0)
    mean, deviation = exponents(cells)
    exponent = np.abs(mean + deviation * rng.standard_normal(cells.shape))
    weight = noisy[0] - noisy[1]
    return weight, np.where(weight > 0, exponent[0], exponent[1])


def drifted(
    weight: Array, exponent: Array, age: float, rng: np.random.Generator
) -> Array:
    """The same device later."""
    largest = np.abs(weight).max()
    noise = read_noise(np.abs(weight) / largest, age, Cells())
    read = np.maximum(1 + noise * rng.standard_normal(weight.shape), 0)
    return np.asarray(weight * np.exp(-exponent * decades(age)) * read)


def moments(target: Array, age: float, top: float) -> tuple[Array, Array]:
    """Mean and variance over devices of weights, before any compensation.

    Args:
        target: relative weights, -1 to 1.
        age: seconds after programming.
        top: the largest weight that is programmed.
    """
    grid, mean, variance = _table(age, round(top, 2))
    g = np.abs(target)
    return np.copysign(np.interp(g, grid, mean), target), np.interp(g, grid, variance)


@functools.lru_cache(maxsize=64)
def _table(age: float, top: float) -> tuple[Array, Array, Array]:
    """Targets from 0 to 1, and mean and variance of what they are at `age`."""
    g = np.linspace(0.0, 1.0, _GRID)
    fine = np.linspace(-4.5, 4.5, _FINE)
    density = np.exp(-fine * fine / 2)
    density /= density.sum()
    spread = programming_noise(g, Cells())
    first = np.maximum(g[:, None] + spread[:, None] * fine, 0)
    second = np.maximum(spread[0] * fine, 0)
    weight = first[:, :, None] - second
    read = read_noise(np.abs(weight) / top, age, Cells())
    once, twice = _clipped(read)
    positive = weight > 0
    decay, decay2 = _decays(g, age)
    once *= weight * np.where(positive, decay[:, None, None], decay[0])
    twice *= weight**2 * np.where(positive, decay2[:, None, None], decay2[0])
    found = once @ density @ density
    return g, found, twice @ density @ density - found**2


def _decays(g: Array, age: float) -> tuple[Array, Array]:
    """Mean and mean square of what drift leaves of cells of target `g`."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(_NODES)
    mean, deviation = exponents(g)
    exponent = np.abs(mean[:, None] + deviation[:, None] * nodes)
    decay = np.exp(-exponent * decades(age))
    weights = weights / weights.sum()
    return decay @ weights, (decay * decay) @ weights


def _clipped(spread: Array) -> tuple[Array, Array]:
    """Mean and mean square of max(1 + `spread` N(0, 1), 0)."""
    from scipy.special import ndtr

    at = 1 / np.maximum(spread, 1e-12)
    inside = ndtr(at)
    edge = spread * np.exp(-at * at / 2) / math.sqrt(2 * math.pi)
    return inside + edge, (1 + spread**2) * inside + edge
