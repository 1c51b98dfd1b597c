"""What is sent to a worker process and what comes back: plain values only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np

from harness.backends.protocol import Arithmetic, Availability, Finding, Support
from harness.behaviours.types import Reply
from harness.compare.operator_evidence import (
    OperatorEvidence,
    PathEvidence,
    WeightEvidence,
)
from harness.conformance.report import SchemeReport
from harness.defects.types import Planting
from harness.diagnose.types import Diagnosis
from harness.judge.evidence import Failure, LatencyEvidence, Paired
from harness.models.types import Operator, TensorSpec
from harness.schemes.types import Scheme

Array = np.ndarray[Any, np.dtype[Any]]
Outputs = dict[str, dict[str, Array]]


@dataclass(frozen=True, kw_only=True)
class SuiteRef:
    """What a worker needs to load a suite's model and cases."""

    name: str
    folder: str
    model: str
    cases: str
    batch: int
    seed: int
    #: Only so many cases, of as many different shapes as there are; 0: all.
    few: int = 0
    #: Only a random half of the cases, the one of this number; 0: all.
    draw: int = 0
    #: Only cases with this tag; "": all.
    select: str = ""


@dataclass(frozen=True, kw_only=True)
class CaseInfo:
    """A case without its tensors."""

    id: str
    expected: Mapping[str, Any]
    tags: tuple[str, ...]
    #: Id of the case that it asks in other words; "": of none.
    variant_of: str = ""


@dataclass(frozen=True, kw_only=True)
class Description:
    """A suite's model and cases, as far as the parent process needs them."""

    model_fingerprint: str
    cases_fingerprint: str
    cases: tuple[CaseInfo, ...]
    outputs: tuple[TensorSpec, ...]
    metadata: Mapping[str, Any]
    #: The model's operators with weights, in order of execution: name, weight's shape.
    operators: tuple[tuple[str, tuple[int, ...]], ...] = ()


@dataclass(frozen=True, kw_only=True)
class DescribeJob:
    """Load the model and the cases; raises what is wrong with them."""

    suite: SuiteRef


@dataclass(frozen=True, kw_only=True)
class TargetJob:
    """Run one target over all cases and check its operators."""

    suite: SuiteRef
    backend: str
    scheme: Scheme
    #: Cases whose operators are captured; cases run again singly.
    capture_cases: int = 10
    repeat_cases: int = 4
    #: Seconds for timing it beside the unquantized model; 0: not timed.
    latency_seconds: float = 0.0
    #: A defect to plant in the backend: what the self-test runs.
    planting: Planting | None = None
    #: Whether operators that noise cannot explain are captured again and their cause
    #: looked for.
    diagnose: bool = True


@dataclass(frozen=True, kw_only=True)
class QuantizeJob:
    """Let a library make a scheme's file of the model, where it is not there."""

    suite: SuiteRef
    scheme: Scheme
    file: str


@dataclass(frozen=True, kw_only=True)
class QuantizedFile:
    """The file is there and can be read; or why not."""

    failure: str = ""


@dataclass(frozen=True, kw_only=True)
class DrawsJob:
    """Run a target that is not exact as several devices, at several ages."""

    suite: SuiteRef
    backend: str
    scheme: Scheme
    seeds: tuple[int, ...]
    ages: tuple[float, ...]
    #: Cases that are run, and those of them whose operators are watched.
    cases: int = 32
    watched: int = 4


@dataclass(frozen=True, kw_only=True, eq=False)
class Draw:
    """What one device gave at one age."""

    seed: int
    age: float
    outputs: Outputs
    #: Operator -> channel -> squared distance from the oracle, and what was declared.
    residual: Mapping[str, Array]
    declared: Mapping[str, Array]
    #: Operator -> mean distance from what was declared on average: along the oracle's
    #: outputs, as a share of them; and the same for all, in their root mean square.
    gain: Mapping[str, float]
    offset: Mapping[str, float]


@dataclass(frozen=True, kw_only=True)
class DrawsRun:
    """Every device at every age."""

    draws: tuple[Draw, ...]
    #: Whether the device says by how much its operators are off.
    declares: bool


@dataclass(frozen=True, kw_only=True)
class OracleJob:
    """Run the model with exactly quantized weights, otherwise untouched."""

    suite: SuiteRef
    backend: str
    scheme: Scheme


@dataclass(frozen=True, kw_only=True)
class ReferenceJob:
    """Run the reference and measure what it can be trusted for."""

    suite: SuiteRef
    backend: str
    precision: str


@dataclass(frozen=True, kw_only=True)
class ReproJob:
    """Shrink an input on which one operator of a target is wrong."""

    suite: SuiteRef
    backend: str
    scheme: Scheme
    operator: str


@dataclass(frozen=True, kw_only=True)
class BisectJob:
    """Find the guilty operator of a target by leaving parts unquantized."""

    suite: SuiteRef
    backend: str
    #: That which emulates the scheme exactly.
    oracle: str
    scheme: Scheme


@dataclass(frozen=True, kw_only=True)
class ConformanceJob:
    """Examine one scheme on one backend."""

    backend: str
    scheme: Scheme


@dataclass(frozen=True, kw_only=True)
class PreflightJob:
    """What a backend lacks for a model, before anything is compiled."""

    model: str
    folder: str
    backend: str
    schemes: tuple[Scheme, ...]


@dataclass(frozen=True, kw_only=True)
class PreflightRun:
    """What was found."""

    availability: Availability
    operators: int
    #: None: the backend cannot be asked.
    findings: tuple[Finding, ...] | None
    #: Scheme -> whether the backend says that it runs.
    schemes: Mapping[str, Support]


@dataclass(frozen=True, kw_only=True)
class HuntJob:
    """Look for the prompts that a target gets most wrong."""

    suite: SuiteRef
    backend: str
    scheme: Scheme
    precision: str
    seconds: float
    count: int


@dataclass(frozen=True, kw_only=True)
class HardPrompt:
    """A prompt, and how far the target is from the reference on it."""

    text: str
    kl: float
    tokens: int


@dataclass(frozen=True, kw_only=True)
class HuntRun:
    """What a hunt found."""

    tried: int
    #: Mean KL of the suite's own prompts that were tried first.
    seed_kl: float
    findings: tuple[HardPrompt, ...]


Job = (
    DescribeJob
    | TargetJob
    | QuantizeJob
    | DrawsJob
    | OracleJob
    | ReferenceJob
    | ReproJob
    | BisectJob
    | ConformanceJob
    | PreflightJob
    | HuntJob
)


#: Name of a `Repeat`: what a call returned, before and after the next call.
REWRITTEN: Final = "what was returned, after the next call"


@dataclass(frozen=True, kw_only=True)
class Repeat:
    """The same thing done twice: the second against the first."""

    name: str
    difference: Paired
    #: What the second gave: case -> output -> array.
    outputs: Outputs


@dataclass(kw_only=True)
class TargetRun:
    """What a worker measured of one target."""

    availability: Availability
    support: Support | None = None
    failure: Failure | None = None
    arithmetic: Arithmetic | None = None
    outputs: Outputs = field(default_factory=dict)
    #: What a language model wrote, by case.
    replies: dict[str, Reply] = field(default_factory=dict)
    weights: tuple[WeightEvidence, ...] = ()
    activations_expected: tuple[str, ...] = ()
    activations_found: tuple[str, ...] = ()
    operators: tuple[OperatorEvidence, ...] = ()
    #: What lies between the operators; and why that was not looked at, if so.
    paths: tuple[PathEvidence, ...] = ()
    paths_skipped: str = ""
    repeats: tuple[Repeat, ...] = ()
    latency: tuple[LatencyEvidence, ...] = ()
    #: Whether the session is not exact, and can become other devices.
    drawable: bool = False
    #: Why there is no operator check, if there is none.
    uncaptured: str = ""
    #: How many of `watched_batches` were checked operator by operator.
    watched: int = 0
    #: What is wrong with the operators that noise cannot explain, the first executed
    #: first.
    diagnosis: tuple[Diagnosis, ...] = ()
    #: Operators that a planted defect really changed; None: nothing was planted, or
    #: the backend cannot say.
    fired: tuple[str, ...] | None = None
    #: Whether it changed no more than right backends may differ by.
    tolerated: bool = False
    timings: dict[str, float] = field(default_factory=dict)


@dataclass(kw_only=True)
class OracleRun:
    """The oracle's outputs and the backend that computed them."""

    outputs: Outputs
    backend: str


@dataclass(kw_only=True)
class ReferenceRun:
    """The reference's outputs and what it can be trusted for."""

    outputs: Outputs
    precision: dict[str, Any]
    #: Kind ("repeat", "threads", "batch", "fp16 against fp64") -> relative L2.
    noise_floor: dict[str, float]
    #: Operator -> statistics of its input over all cases.
    operators: dict[str, dict[str, Any]]
    #: Relative L2 of each output against the widest precision that ran.
    against_exact: dict[str, float]
    exact_precision: str
    nonfinite: tuple[str, ...]
    version: str
    device: str
    #: Case -> right tokens of its logits, (1, positions); -1: none.
    labels: dict[str, Array] = field(default_factory=dict)
    #: What a language model wrote, by case.
    replies: dict[str, Reply] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, eq=False)
class Repro:
    """The smallest input that was found on which an operator is wrong."""

    #: The case that it was made of.
    case: str
    inputs: Mapping[str, Array]
    #: Inputs that were tried.
    tried: int
    unexplained: float
    limit: float
    operator: Operator
    #: The operator's own input, float32; what it gave; what it should give, float64.
    x: Array
    observed: Array
    expected: Array
    #: Whether a model of this operator alone is wrong on `x`.
    alone: bool


@dataclass(frozen=True, kw_only=True)
class BisectStep:
    """One part that was run alone."""

    operators: tuple[str, ...]
    #: Relative L2 from the oracle of this part; and what jitter makes of the oracle.
    off: float
    noise: float


@dataclass(frozen=True, kw_only=True)
class Bisection:
    """The smallest part that is wrong by itself, and how it was found."""

    operators: tuple[str, ...]
    steps: tuple[BisectStep, ...]

    def as_dict(self) -> dict[str, Any]:
        """JSON."""
        return {
            "operators": list(self.operators),
            "steps": [
                {"operators": len(s.operators), "off": s.off, "noise": s.noise}
                for s in self.steps
            ],
        }


Result = (
    Description
    | TargetRun
    | QuantizedFile
    | DrawsRun
    | OracleRun
    | ReferenceRun
    | Repro
    | Bisection
    | SchemeReport
    | PreflightRun
    | HuntRun
)
