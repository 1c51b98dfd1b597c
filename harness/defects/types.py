"""What a defect is: a declared value that can be planted, and where it was planted."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, Literal

import numpy as np

from harness.models.types import Operator
from harness.schemes.types import Scheme

Array = np.ndarray[Any, np.dtype[Any]]

#: catastrophic: garbage or NaN; visible: scores drop; silent: only distances move;
#: conditional: shows only for some inputs, calls, lengths or batches.
Severity = Literal["catastrophic", "visible", "silent", "conditional"]
#: What a defect changes: the weight as it is read, the bytes that a file stores of it,
#: how the input is quantized, what an operator gives; of a language model, what it
#: keeps of keys and values, what lies between its layers, which tokens it is given,
#: what a server makes of its answers; of any model, what is computed between its
#: operators; or what the whole runtime does between calls.
Place = Literal[
    "weight",
    "stored",
    "input",
    "output",
    "between",
    "cache",
    "model",
    "prompt",
    "answer",
    "runtime",
]
#: Places before and after a language model, which any backend's session has.
OUTSIDE: Final = frozenset({"prompt", "answer"})
#: Places that belong to no operator.
WHOLE: Final = OUTSIDE | {"between", "cache", "model", "runtime"}


class Unfit(Exception):  # noqa: N818 - no error: most defects fit few schemes
    """The defect has nothing to change at a site; says why."""


@dataclass(frozen=True, kw_only=True)
class Parameter:
    """What a strength means, from barely visible to gross."""

    #: "relative error of the scale", "share of output channels", ...
    name: str
    low: float
    #: As real bugs had it.
    catalogue: float
    high: float
    #: Where the defect is gone: the value that changes nothing.
    none: float = 0.0


#: Ties that the last bit of a scale decides: at most one step in one code of a hundred.
TIES: Final = 0.01
#: Most defects are there or not; their strength is how much of the operator has them.
SHARE = Parameter(name="share of output channels", low=0.02, catalogue=1.0, high=1.0)


@dataclass(frozen=True)
class Site:
    """One operator under one scheme, as a defect sees it."""

    operator: Operator
    scheme: Scheme
    #: The operator executed before it, of the same weight shape if there is one.
    other: Operator | None = None
    seed: int = 0

    def rng(self) -> np.random.Generator:
        """Draws that depend on the seed and the operator's name alone."""
        name = int.from_bytes(self.operator.name.encode()[-8:], "little")
        return np.random.default_rng([self.seed, name])


@dataclass(frozen=True, kw_only=True)
class Trigger:
    """When a planted defect fires; the default is always.

    Every condition that is set must hold. Positions are those along the last but one
    axis of a linear layer's input, along the last axis of a convolution's.
    """

    #: So many calls after the load are right.
    calls: int = 0
    #: Only entries of a batch from this one on.
    batch: int = 0
    #: Only positions from this one on.
    position: int = 0
    #: Only inputs with at least so many positions.
    length: int = 0
    #: Only positions whose largest magnitude is so many times the median position's.
    magnitude: float = 0.0
    #: Chance of each call to be wrong.
    probability: float = 1.0


ALWAYS = Trigger()


@dataclass(frozen=True)
class Call:
    """One call of an operator as it should be."""

    #: float32: decoded input, decoded weight, right output.
    x: Array
    weight: Array
    y: Array


@dataclass(frozen=True, kw_only=True)
class Defect:
    """A known way for quantized inference to be wrong."""

    #: Words with underscores; unique.
    name: str
    #: What goes wrong, in one line.
    summary: str
    place: Place
    severity: Severity
    #: Issues and pull requests behind it: "owner/repo#123".
    links: tuple[str, ...]
    parameter: Parameter = SHARE
    #: weight: (Site, Quantized, strength) -> Quantized (other bytes are stored) or
    #: float32 (the bytes are read otherwise); input: (Site, x, strength) -> float32,
    #: the decoded input; output: (Site, Call, strength) -> float32; runtime: a factory
    #: of `runtime.Behaviour`; stored: (StoredWeight, Neighbours, strength) ->
    #: StoredWeight; between: (strength) -> `between.Edit`; answer: a factory of
    #: `language.server.Server`; cache, model, prompt: see `harness.defects.language`.
    #: Raises `Unfit` where there is nothing to change.
    change: Callable[..., Any]
    #: Of stored bytes, the parts that may change: "codes", "scales", "zeros",
    #: "tensor_scale"; nothing else of the file does.
    touches: tuple[str, ...] = ()
    #: When it fires.
    trigger: Trigger = ALWAYS
    #: What a suite's cases must have for it to show, beyond the trigger; "": nothing.
    needs: str = ""
    #: Share of an input's codes that two right backends may have one step apart in this
    #: very way, because their scales differ in the last bit; 0: they may not.
    tolerated: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Planting:
    """A defect, where it is planted, and how much of it; what a job carries."""

    defect: str
    #: None: every operator that it fits.
    operator: str | None = None
    #: None: as real bugs had it.
    strength: float | None = None
    #: None: when real bugs had it.
    trigger: Trigger | None = None
    #: Whether the bytes that are stored are wrong too, as a bad file's are, or only
    #: what is made of them, as in a kernel's bug.
    stored: bool = False
    seed: int = 0
