"""Phase-change memory cells: programming noise, drift over time, read noise.

A weight is the difference of two conductances, one of which is programmed to 0. In
units of the largest conductance, 25 uS, a cell that should have conductance g gets

* g + s N(0, 1), s = 0.26348/25 + 1.9650/25 g - 1.1731/25 g^2, not below 0, when it
  is programmed;
* that times ((t + t0)/t0)^-v, t seconds after it is programmed, t0 = 20 s, with v drawn
  once a cell: |N(m, d)|, m = -0.0155 ln g + 0.0244 within 0.049 and 0.1, d = -0.0125
  ln g - 0.0059 within 0.008 and 0.045 (the crystal relaxes);
* that times 1 + q sqrt(ln((t + t0 + r)/(2 r))) N(0, 1), q = 0.0088 g^-0.65 and at most
  0.2, r = 250 ns, at every read (1/f noise), not below 0.

Measured on a million cells: Joshi et al., "Accurate deep neural network inference using
computational phase-change memory", Nature Communications 11 (2020); Nandakumar et al.,
"Phase-change memory models for deep learning training and inference", ICECS 2019. The
numbers are those that IBM's aihwkit takes from them.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]

#: Standard deviation of programming by powers of g, in units of the largest g.
_PROGRAMMING: Final = (0.26348 / 25, 1.9650 / 25, -1.1731 / 25)
#: Seconds after programming that drift is counted from; seconds a read takes.
START: Final = 20.0
READ: Final = 250e-9
#: Below it, logarithms and powers take this conductance.
_SMALLEST: Final = 1e-7
#: Points of g at which expectations are tabled, and nodes of each integral.
_GRID: Final = 257
_NODES: Final = 24


@dataclass(frozen=True, kw_only=True)
class Cells:
    """How strong each effect is; 1 is as measured, 0 is none."""

    programming: float = 1.0
    drift: float = 1.0
    read: float = 1.0


def programming_noise(g: Array, cells: Cells) -> Array:
    """Standard deviation of what cells of target `g` (0 to 1) are programmed to."""
    first, second, third = _PROGRAMMING
    return np.asarray(cells.programming * (first + second * g + third * g * g))


def exponents(g: Array) -> tuple[Array, Array]:
    """Mean and standard deviation of the drift exponent of cells of target `g`."""
    log = np.log(np.maximum(g, _SMALLEST))
    mean = np.clip(-0.0155 * log + 0.0244, 0.049, 0.1)
    return mean, np.clip(-0.0125 * log - 0.0059, 0.008, 0.045)


def read_noise(programmed: Array, age: float, cells: Cells) -> Array:
    """Relative standard deviation of one read of cells programmed to `programmed`."""
    power = np.maximum(programmed, 1e-12) ** 0.65
    quality = np.minimum(0.0088 / np.maximum(power, 1e-3), 0.2)
    span = np.log((age + START + READ) / (2 * READ))
    return np.asarray(cells.read * quality * np.sqrt(span))


def decades(age: float) -> float:
    """ln((t + t0)/t0): what a drift exponent is multiplied by."""
    return float(np.log1p(age / START))


@functools.lru_cache(maxsize=64)
def _table(age: float, cells: Cells) -> tuple[Array, Array, Array]:
    """Targets, and mean and mean square of what is read of them at `age`."""
    g = np.linspace(0.0, 1.0, _GRID)
    nodes, weights = np.polynomial.hermite_e.hermegauss(_NODES)
    weights = weights / weights.sum()
    # A fine, even grid where the density has a corner: cells that end at 0.
    fine = np.linspace(-5, 5, 401)
    density = np.exp(-fine * fine / 2)
    density /= density.sum()
    programmed = g[:, None] + programming_noise(g, cells)[:, None] * fine
    programmed = np.maximum(programmed, 0)
    mean, deviation = exponents(g)
    exponent = np.abs(mean[:, None] + deviation[:, None] * nodes) * cells.drift
    decay = np.exp(-exponent * decades(age))
    first, second = decay @ weights, (decay * decay) @ weights
    noise = read_noise(programmed, age, cells)
    read = np.maximum(1 + noise[..., None] * fine, 0)
    once = (programmed * (read @ density)) @ density
    square = (programmed**2 * (read**2 @ density)) @ density
    return g, first * once, second * square


def expected(g: Array, age: float, cells: Cells) -> tuple[Array, Array]:
    """Mean and variance over devices and reads of cells of target `g` (0 to 1)."""
    grid, mean, square = _table(age, cells)
    found = np.interp(g, grid, mean)
    return found, np.maximum(np.interp(g, grid, square) - found**2, 0)
