"""The models that every tool is given: clean controls and planted defects, as ONNX.

A specimen is what a user would have after quantizing: an ONNX file in one scheme. A
planted one is the same graph with one defect of the catalogue in it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort

from harness.backends.registry import Registry, load_registry
from harness.defects import DEFECTS, Defect, Planting
from harness.defects.onnx_graph import INPUT_EDITS, OUTPUT_EDITS, plant_graph
from harness.errors import UnsupportedError
from harness.execution.calibrated import calibrated
from harness.execution.cases_run import run_cases, spread
from harness.execution.loaded import Loaded, LoadedSuite
from harness.execution.matrix import suite_ref
from harness.execution.selftest.plan import levels
from harness.execution.suite import Suite, Target, load_suite
from harness.golden.store import Golden, read_golden
from harness.schemes.apply import plan_one
from harness.schemes.onnx_qdq import build

ROOT = Path(__file__).parents[2]
Array = np.ndarray[Any, np.dtype[Any]]
Feed = dict[str, Array]
SEVERITIES = ("catastrophic", "visible", "silent", "conditional")
#: Drawn in turn: strength, and whether one operator has it or all.
TURNS = (("catalogue", "one"), ("low", "one"), ("catalogue", "all"))
#: Cases whose operators are looked at; quantharness takes as many.
FEW = 10
#: Steps of a recurrent model, spread over a clip, at which operators are looked at.
STEPS = 3


@dataclass(frozen=True, eq=False, kw_only=True)
class Specimen:
    """One model for every tool, and how it is run."""

    suite: str
    scheme: str
    model: bytes
    planting: Planting | None = None
    severity: str = ""
    level: str = "clean"
    #: How a clean control differs from the usual run: "", "threads", "batch",
    #: "unoptimized".
    control: str = ""

    def as_dict(self) -> dict[str, Any]:
        """Plain values, without the model."""
        planting = self.planting
        return {
            "suite": self.suite,
            "scheme": self.scheme,
            "defect": planting.defect if planting else "",
            "planted_in": (planting.operator or "all") if planting else "",
            "strength": planting.strength if planting else None,
            "severity": self.severity,
            "level": self.level,
            "control": self.control,
        }


#: Controls: the same clean model, run otherwise.
CONTROLS = ("", "threads", "batch", "unoptimized")


@dataclass(eq=False)
class Counter:
    """Sessions that count how often a model was run."""

    runs: int = 0

    def session(self, model: bytes, control: str = "") -> Any:
        """An ONNX Runtime session of one thread (two for "threads")."""
        options = ort.SessionOptions()
        options.log_severity_level = 3
        options.intra_op_num_threads = 2 if control == "threads" else 1
        if control == "unoptimized":
            level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
            options.graph_optimization_level = level
        session = ort.InferenceSession(
            model, options, providers=["CPUExecutionProvider"]
        )
        run = session.run

        def counted(*args: Any, **kwargs: Any) -> Any:
            self.runs += 1
            return run(*args, **kwargs)

        session.run = counted
        return session


class _Recording:
    """A session of the harness's protocol that keeps what it was fed."""

    def __init__(self, session: Any) -> None:
        self.session = session
        self.names = [value.name for value in session.get_outputs()]
        self.inputs = [value.name for value in session.get_inputs()]
        self.feeds: list[Feed] = []

    def run(self, inputs: Mapping[str, Array], *, capture: Any = ()) -> Any:  # noqa: ARG002
        feed = {name: np.ascontiguousarray(inputs[name]) for name in self.inputs}
        self.feeds.append(feed)
        return dict(zip(self.names, self.session.run(None, feed), strict=True))


@dataclass(eq=False)
class Bench:
    """A suite: its reference in FP32, its schemes, and inputs for every tool."""

    suite: Suite
    golden: Golden
    loaded: LoadedSuite
    targets: dict[str, Target]
    registry: Registry
    reference: bytes
    #: Operator -> the tensor that it gives.
    tensors: dict[str, str] = field(default_factory=dict)
    #: Batch size -> what every call of the FP32 model is fed, over all cases.
    feeds: dict[int, list[Feed]] = field(default_factory=dict)
    #: The same of few cases, and of a recurrent model few steps, as operators see.
    few: dict[int, list[Feed]] = field(default_factory=dict)

    def clean(self, scheme: str) -> Any:
        """The model as the scheme makes it, without any defect."""
        target = calibrated(self.targets[scheme].scheme, self.golden)
        return build(self.loaded.model.onnx(), target)

    def planted(self, scheme: str, planting: Planting) -> bytes:
        """The same with a defect in it.

        Raises:
            UnsupportedError: the defect has nothing to change here.
        """
        target = calibrated(self.targets[scheme].scheme, self.golden)
        built = build(self.loaded.model.onnx(), target)
        defect = DEFECTS[planting.defect]
        done = plant_graph(built, self.loaded.model, target, defect, planting)
        return done.proto.SerializeToString()

    def size(self, control: str) -> int:
        """How many cases are stacked."""
        return 1 if control == "batch" else self.suite.batch

    def outputs(self, model: bytes, counter: Counter, control: str = "") -> Any:
        """Outputs of all cases: case -> name -> array."""
        session = _Recording(counter.session(model, control))
        run = run_cases(
            session,  # type: ignore[arg-type]
            self.loaded.model,
            self.loaded.cases,
            batch=self.size(control),
        )
        return run.outputs


def open_bench(name: str, schemes: Sequence[str], cases: int = 0) -> Bench:
    """Load a shipped suite and what its FP32 model is fed, call by call.

    Args:
        name: of a folder in `suites`.
        schemes: of its targets on ONNX Runtime.
        cases: only so many, of as many shapes as there are; 0: all.
    """
    registry = load_registry(())
    suite = load_suite(ROOT / "suites" / name, registry)
    loaded = Loaded().get(dataclasses.replace(suite_ref(suite), few=cases))
    targets = {
        target.scheme.name: target
        for target in suite.targets
        if target.backend == "onnxruntime" and target.scheme.name in schemes
    }
    golden = read_golden(suite.golden, suite=suite.name)
    reference = loaded.model.onnx()
    bench = Bench(
        suite, golden, loaded, targets, registry, reference.SerializeToString()
    )
    first = bench.clean(next(iter(targets)))
    bench.tensors = {name: pair[1] for name, pair in first.observed.items()}
    counter = Counter()
    for batch in (suite.batch, 1):
        bench.feeds[batch] = _fed(bench, loaded.cases, batch, counter)
        some = spread(loaded.cases, FEW)
        bench.few[batch] = _fed(bench, some, batch, counter, steps=STEPS)
    return bench


def _fed(
    bench: Bench, cases: Any, batch: int, counter: Counter, steps: int = 0
) -> list[Feed]:
    """What the FP32 model is fed; of a recurrent one, its own state at each step."""
    model = bench.loaded.model
    session = _Recording(counter.session(bench.reference))
    run_cases(session, model, cases, batch=batch)  # type: ignore[arg-type]
    if not (steps and model.step_inputs):
        return session.feeds
    clips: list[list[Feed]] = []
    state = next(iter(model.state.values()))
    for feed in session.feeds:
        if not np.any(feed[state]):
            clips.append([])
        clips[-1].append(feed)
    return [
        clip[index]
        for clip in clips
        for index in np.linspace(0, len(clip) - 1, steps).astype(int)
    ]


def expressible(defect: Defect) -> bool:
    """Whether a graph can have it."""
    graph = {*INPUT_EDITS, *OUTPUT_EDITS, "input_left_unquantized"}
    return defect.place == "weight" or defect.name in graph


def drawn(bench: Bench, scheme: str, count: int, seed: int) -> Iterator[Specimen]:
    """Plantings that fit and change an output, drawn by seed.

    Severities come in turn, and strengths and places within them, as far as there are
    defects left that fit.
    """
    names = [o.name for o in bench.loaded.operators if _quantized(bench, scheme, o)]
    key = int.from_bytes(f"{bench.suite.name}/{scheme}".encode()[-8:], "little")
    rng = np.random.default_rng([seed, key])
    clean = bench.clean(scheme).proto.SerializeToString()
    right = bench.outputs(clean, Counter())
    known = [d for d in DEFECTS.values() if expressible(d)]
    queue = [known[index] for index in rng.permutation(len(known))]
    for number in range(count):
        level, place = TURNS[(number + number // len(SEVERITIES)) % len(TURNS)]
        wanted = SEVERITIES[number % len(SEVERITIES)]
        # The severity in turn first, then whatever is left.
        queue.sort(key=lambda defect: defect.severity != wanted)
        for defect in list(queue):
            has = dict(levels(defect, ("low", "catalogue")))
            if level not in has:
                continue
            operator = str(rng.choice(names)) if place == "one" else None
            planting = Planting(
                defect=defect.name, operator=operator, strength=has[level]
            )
            found = _specimen(bench, scheme, planting, defect, level)
            if found is None or not _shows(bench, found, right):
                continue
            queue.remove(defect)
            yield found
            break


def _quantized(bench: Bench, scheme: str, operator: Any) -> bool:
    plan = plan_one(bench.targets[scheme].scheme, operator)
    return bool(plan.weights or plan.activations)


def _specimen(
    bench: Bench, scheme: str, planting: Planting, defect: Defect, level: str
) -> Specimen | None:
    try:
        model = bench.planted(scheme, planting)
    except UnsupportedError:
        return None
    return Specimen(
        suite=bench.suite.name,
        scheme=scheme,
        model=model,
        planting=planting,
        severity=defect.severity,
        level=level,
    )


def _shows(bench: Bench, specimen: Specimen, right: Any) -> bool:
    """Whether an output changes; a graph that does not even load is no specimen."""
    try:
        return not same(right, bench.outputs(specimen.model, Counter()))
    except Exception:  # noqa: BLE001 - its classes have no common base
        return False


def controls(bench: Bench, scheme: str) -> list[Specimen]:
    """The clean model, run as usual and in the other ways that ask the same."""
    model = bench.clean(scheme).proto.SerializeToString()
    first = Specimen(suite=bench.suite.name, scheme=scheme, model=model)
    return [dataclasses.replace(first, control=name) for name in CONTROLS]


def same(first: Any, second: Any) -> bool:
    """Whether two runs gave the same bits."""
    return all(
        np.array_equal(array, second[case][name], equal_nan=True)
        for case, arrays in first.items()
        for name, array in arrays.items()
    )
