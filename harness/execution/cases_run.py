"""Running a model's cases through a session: stacking, steps, captures."""

from __future__ import annotations

import ctypes
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np

from harness.backends.protocol import Session
from harness.errors import BackendError
from harness.models.types import Case, Model

Array = np.ndarray[Any, np.dtype[Any]]
#: Operator name, its observed input and output.
OnCapture = Callable[[str, Array, Array], None]
#: A call's inputs, and its outputs with all that was captured.
OnCall = Callable[[Mapping[str, Array], Mapping[str, Array]], None]


#: Tokens of the longest prompt that is not long.
LONGEST: Final = 400


@dataclass(frozen=True)
class Capture:
    """Which operators are watched, by whom, and for how many recurrent steps."""

    operators: Collection[str] = ()
    observer: OnCapture | None = None
    #: None: every step.
    steps: int | None = 3
    #: Told of every watched call as a whole.
    on_call: OnCall | None = None


@dataclass
class CasesRun:
    """Outputs by case and name, each with its batch axis of length 1."""

    outputs: dict[str, dict[str, Array]] = field(default_factory=dict)
    #: Seconds inside the session, calls made.
    seconds: float = 0.0
    calls: int = 0
    #: The first call's outputs as they were handed over, and copies of them.
    first: dict[str, tuple[Array, Array]] = field(default_factory=dict)
    #: Outputs that the second call changed, as they were and as they are then: views
    #: of memory that the backend writes over or has freed.
    rewritten: dict[str, tuple[Array, Array]] = field(default_factory=dict)

    def watch_memory(self, outputs: Mapping[str, Array]) -> None:
        """Hold the first call's outputs until the second call has been made."""
        if self.calls == 1:
            self.first = {name: (a, np.array(a)) for name, a in outputs.items()}
            return
        for name, (array, copy) in self.first.items():
            if array.tobytes() != copy.tobytes():
                self.rewritten[name] = copy, np.array(array)
        self.first = {}


def batches(cases: Sequence[Case], size: int) -> Iterator[list[Case]]:
    """Cases of equal shapes, at most `size` together, in order of first sight.

    Only cases whose arrays have the same shapes are stacked, so nothing is padded
    and a case's result does not depend on its neighbours' lengths.
    """
    groups: defaultdict[tuple[Any, ...], list[Case]] = defaultdict(list)
    for case in cases:
        groups[_signature(case)].append(case)
    for group in groups.values():
        for start in range(0, len(group), size):
            yield group[start : start + size]


def _signature(case: Case) -> tuple[Any, ...]:
    """What must be equal for two cases to be stacked."""
    return tuple(
        (name, array.shape, array.dtype.str)
        for name, array in sorted(case.inputs.items())
    )


def largest_batch(cases: Sequence[Case], size: int) -> list[Case]:
    """Of the batches with the most cases, the one whose cases are smallest."""
    return min(
        batches(cases, size),
        key=lambda group: (-len(group), _elements(group[0])),
        default=[],
    )


def watched_batches(cases: Sequence[Case], count: int, size: int) -> list[list[Case]]:
    """Whose operators are watched: `count` cases, and one batch as large as any.

    The shortest and the longest come first. What is wrong with the rows behind the
    first, or only when there are many, is seen by no case alone. All others follow: a
    wrong weight that few inputs meet is seen by them.
    """
    some = moderate(cases)
    groups = list(batches(spread(some, count), size))
    together = largest_batch(some, size)
    if len(together) > max(map(len, groups), default=0):
        groups.insert(min(2, len(groups)), together)
    seen = {case.id for group in groups for case in group}
    others = [case for case in some if case.id not in seen]
    return [*groups, *batches(others, size)]


def whole_batches(cases: Sequence[Case], size: int, count: int) -> list[Case]:
    """The first batches that hold at least `count` cases together."""
    chosen: list[Case] = []
    for group in batches(cases, size):
        if len(chosen) >= count:
            break
        chosen.extend(group)
    return chosen


def moderate(cases: Sequence[Case]) -> Sequence[Case]:
    """Cases of at most 400 tokens, where there are such; all of other models.

    What is done again and again, or multiplied out exactly, is done on these: long
    prompts take as long as all others together.
    """
    return [case for case in cases if not is_long(case)] or cases


def is_long(case: Case) -> bool:
    """Whether it is a prompt of more than 400 tokens."""
    return "positions" in case.inputs and case.inputs["input_ids"].size > LONGEST


def spread(cases: Sequence[Case], count: int) -> list[Case]:
    """At most `count` cases that cover as many shapes and tags as possible.

    One of each shape, where there is room for all, else the largest and the smallest:
    what fails only at some length is seen. Then those that add most tags: what fails
    only for digits is seen by no other case.
    """
    groups: defaultdict[tuple[Any, ...], list[Case]] = defaultdict(list)
    for case in cases:
        groups[_signature(case)].append(case)
    by_size = sorted(groups.values(), key=lambda group: _elements(group[0]))
    outside_in: list[list[Case]] = []
    while by_size:
        outside_in.append(by_size.pop())
        if by_size:
            outside_in.append(by_size.pop(0))
    order = [
        group[turn]
        for turn in range(max((len(group) for group in outside_in), default=0))
        for group in outside_in
        if turn < len(group)
    ]
    shapes = len(groups) if len(groups) <= count else _ENDS
    chosen, left = order[: min(shapes, count)], order[min(shapes, count) :]
    known = {tag for case in chosen for tag in case.tags}
    while left and len(chosen) < count:
        # The first of those that add as much.
        new = [len(set(case.tags) - known) for case in left]
        chosen.append(left.pop(new.index(max(new))))
        known.update(chosen[-1].tags)
    return chosen


def _elements(case: Case) -> int:
    return sum(array.size for array in case.inputs.values())


#: Of shapes too many to see each: the largest and the smallest.
_ENDS: Final = 2
#: Operators that a session which does not stream shows in the first run.
AT_A_TIME: Final = 256
#: Bytes that observed inputs and outputs may take at a time.
_ROOM: Final = 256 << 20


class Streamed(frozenset[str]):
    """Operators that are watched, with whom to tell as soon as each has run.

    A session that does so holds one operator's arrays at a time; one that does not
    look for `observer` returns them with the outputs, as for any `capture`.
    """

    observer: OnCapture


def release_memory() -> None:
    """Give freed memory back to the system, where the C library keeps it (Linux).

    Captured arrays of ever other sizes leave its heap in pieces: gigabytes more than
    what is held.
    """
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim is not None:
            trim(0)


def run_cases(
    session: Session,
    model: Model,
    cases: Sequence[Case],
    *,
    batch: int,
    capture: Collection[str] = (),
    on_capture: OnCapture | None = None,
    on_call: OnCall | None = None,
    capture_steps: int | None = 3,
    on_progress: Callable[[int, int], None] | None = None,
) -> CasesRun:
    """Run every case once.

    Args:
        session: a loaded model.
        model: what it is, for its state and batch axes.
        cases: what to run.
        batch: most cases that are stacked.
        capture: operators whose input and output are handed to `on_capture`.
        on_capture: called for every captured operator of every (captured) call.
        on_call: called after every captured call, with all of it; what a session would
            show an operator at a time is then held for the length of the call.
        capture_steps: of a recurrent model, how many steps are captured, spread from
            the first to the last; None: all.
        on_progress: called with cases done and cases in all.

    Raises:
        BackendError: an output is missing its batch axis or has another length.
    """
    run = CasesRun()
    watch = Capture(capture, on_capture, capture_steps, on_call)
    done = 0
    for group in batches(cases, batch):
        stacked = _stack(group, model)
        results = _steps(session, model, stacked, run, watch)
        _unstack(results, group, model, run)
        done += len(group)
        if on_progress is not None:
            on_progress(done, len(cases))
    return run


def _batch_axis(model: Model, name: str) -> int:
    axes: Mapping[str, int] = getattr(model, "batch_axes", {})
    return axes.get(name, 0)


def _stack(group: Sequence[Case], model: Model) -> dict[str, Array]:
    stacked = {}
    for name in group[0].inputs:
        axis = _batch_axis(model, name) + (name in model.step_inputs)
        arrays = [case.inputs[name] for case in group]
        one = len(arrays) == 1 or arrays[0].ndim <= axis
        stacked[name] = arrays[0] if one else np.concatenate(arrays, axis=axis)
    return stacked


def _steps(
    session: Session,
    model: Model,
    inputs: Mapping[str, Array],
    run: CasesRun,
    watch: Capture,
) -> dict[str, Array]:
    """One call, or one call a step with the state carried over."""
    if not model.step_inputs:
        return _call(session, inputs, run, watch)
    steps = inputs[model.step_inputs[0]].shape[0]
    count = steps if watch.steps is None else watch.steps
    watched = set(np.linspace(0, steps - 1, count).astype(int).tolist())
    feed = {name: a for name, a in inputs.items() if name not in model.step_inputs}
    collected: defaultdict[str, list[Array]] = defaultdict(list)
    last: dict[str, Array] = {}
    for step in range(steps):
        for name in model.step_inputs:
            feed[name] = inputs[name][step]
        last = _call(session, feed, run, watch if step in watched else Capture())
        for output, array in last.items():
            if output in model.state:
                feed[model.state[output]] = array
            else:
                collected[output].append(array)
    result = {name: np.stack(arrays) for name, arrays in collected.items()}
    return result | {name: last[name] for name in model.state if name in last}


def _call(
    session: Session,
    inputs: Mapping[str, Array],
    run: CasesRun,
    watch: Capture,
) -> dict[str, Array]:
    held: dict[str, Array] = {}
    left, size = list(watch.operators), _first_portion(session, inputs, watch)
    outputs: dict[str, Array] | None = None
    while outputs is None or left:
        shown = _observed(left[:size], watch, held) if size else watch.operators
        start = time.perf_counter()
        found = session.run(inputs, capture=shown)
        run.seconds += time.perf_counter() - start
        run.calls += 1
        for operator in shown:
            if watch.observer is not None and operator in found:
                watch.observer(operator, found[f"{operator}/input"], found[operator])
        hidden = {*shown, *(f"{name}/input" for name in shown)}
        if outputs is None:
            outputs = {n: np.asarray(a) for n, a in found.items() if n not in hidden}
            run.watch_memory(outputs)
        if watch.on_call is not None:
            held.update(found)
        left = left[size:] if size else []
        taken = sum(found[name].nbytes for name in hidden if name in found)
        size = max(AT_A_TIME, _ROOM * len(shown) // max(taken, 1))
        del found
    if watch.on_call is not None and watch.operators:
        watch.on_call(inputs, {**held, **outputs})
    return outputs


def _first_portion(
    session: Session, inputs: Mapping[str, Array], watch: Capture
) -> int:
    """How many operators are watched in the first run; 0: all, in the plain way.

    A session that streams tells of each operator as it runs, and holds one at a time.
    Of another, some are watched in a run, and the inputs are run again for the next:
    it shows a row of every layer for every token of a text, and of a graph of
    thousands of operators thousands of tensors. How many the next run has room for
    follows from what the first ones took.
    """
    many = "positions" in inputs or len(watch.operators) > AT_A_TIME
    if watch.observer is None or not many:
        return 0
    streams = getattr(session, "streams", False)
    return max(1, len(watch.operators)) if streams else AT_A_TIME


def _observed(names: list[str], watch: Capture, held: dict[str, Array]) -> Streamed:
    """Operators and whom to tell; where the call is wanted whole, what was told too."""
    observer = watch.observer
    assert observer is not None  # sanity check

    def hold(name: str, x: Array, y: Array) -> None:
        observer(name, x, y)
        held[f"{name}/input"], held[name] = x, y

    found = Streamed(names)
    found.observer = observer if watch.on_call is None else hold
    return found


def _unstack(
    results: Mapping[str, Array], group: Sequence[Case], model: Model, run: CasesRun
) -> None:
    for index, case in enumerate(group):
        run.outputs[case.id] = {}
        for name, array in results.items():
            axis = _batch_axis(model, model.state.get(name, name))
            if model.step_inputs and name not in model.state:
                axis += 1
            if array.ndim <= axis or array.shape[axis] != len(group):
                raise BackendError(
                    f"output {name!r} has shape {array.shape}, but should have "
                    f"{len(group)} entries along axis {axis} [case {case.id}]"
                )
            run.outputs[case.id][name] = np.take(array, [index], axis=axis)
