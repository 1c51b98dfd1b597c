"""Cases are stacked, stepped and taken apart again without being mixed up."""

import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest

from harness.backends.protocol import Outputs
from harness.errors import BackendError
from harness.execution.cases_run import (
    batches,
    largest_batch,
    moderate,
    run_cases,
    spread,
    watched_batches,
)
from harness.models.types import Case


def case(name, length, value):
    """A case of one input of shape (1, length)."""
    return Case(id=name, inputs={"x": np.full((1, length), value, np.float32)})


class Doubling:
    """y = 2 x; keeps what it was called with."""

    def __init__(self):
        self.shapes = []

    def run(self, inputs, *, capture=()):
        self.shapes.append(inputs["x"].shape)
        arrays = {"y": 2 * inputs["x"]}
        for name in capture:
            arrays |= {name: arrays["y"], f"{name}/input": inputs["x"]}
        return Outputs(arrays)


class Reusing(Doubling):
    """Returns views of memory that the next call writes over."""

    def run(self, inputs, *, capture=()):
        found = super().run(inputs, capture=capture)
        self.memory = getattr(self, "memory", np.zeros(64, np.float32))
        view = self.memory[: found["y"].size].reshape(found["y"].shape)
        view[:] = found["y"]
        return Outputs({"y": view})


def test_views_of_memory_that_is_written_over_are_seen():
    """What a call returned stays what it was: it is looked at after the next one."""
    sound, reusing = Doubling(), Reusing()

    found = run_cases(reusing, PLAIN, CASES, batch=1).rewritten

    before, after = found["y"]
    assert not np.array_equal(before, after)
    assert list(found) == ["y"]
    assert {} == run_cases(sound, PLAIN, CASES, batch=1).rewritten


PLAIN = SimpleNamespace(step_inputs=(), state={}, batch_axes={})
CASES = [case("a", 3, 1.0), case("b", 5, 2.0), case("c", 3, 3.0), case("d", 3, 4.0)]


def test_only_equal_shapes_are_stacked():
    """Nothing is padded: a batch holds one shape, at most `size` cases."""
    names = [[c.id for c in group] for group in batches(CASES, 2)]

    assert [["a", "c"], ["d"], ["b"]] == names


@pytest.mark.parametrize("batch", [1, 2, 16])
def test_outputs_do_not_depend_on_stacking(batch):
    """Each case gets its own output back, with a batch axis of 1."""
    run = run_cases(Doubling(), PLAIN, CASES, batch=batch)

    for member in CASES:
        expected = 2 * member.inputs["x"]
        np.testing.assert_array_equal(expected, run.outputs[member.id]["y"])


def test_captures_reach_the_observer_and_stay_out_of_the_outputs():
    """Captured operators are handed over, not mistaken for outputs."""
    seen = []
    run = run_cases(
        Doubling(),
        PLAIN,
        CASES,
        batch=16,
        capture=["op"],
        on_capture=lambda name, x, y: seen.append((name, x.shape, y.shape)),
    )

    assert [("op", (3, 3), (3, 3)), ("op", (1, 5), (1, 5))] == seen
    assert {"y"} == set(run.outputs["a"])


def test_state_is_carried_over_steps():
    """A recurrent model sees its own state: here a running sum."""

    class Summing:
        def run(self, inputs, **_):
            total = inputs["state"] + inputs["x"][None, :, :1]
            return Outputs({"y": total[0], "next": total})

    model = SimpleNamespace(
        step_inputs=("x",), state={"next": "state"}, batch_axes={"state": 1}
    )
    cases = [
        Case(
            id=str(scale),
            inputs={
                "x": scale * np.arange(4.0).reshape(4, 1, 1),
                "state": np.zeros((1, 1, 1)),
            },
        )
        for scale in (1, 10)
    ]

    run = run_cases(Summing(), model, cases, batch=2)

    np.testing.assert_array_equal([0, 10, 30, 60], run.outputs["10"]["y"].ravel())
    np.testing.assert_array_equal([[[6]]], run.outputs["1"]["next"])


def test_an_output_without_its_batch_axis_is_garbage():
    """A backend that returns another number of rows is an error, never sliced."""

    class Short:
        def run(self, inputs, **_):
            return Outputs({"y": inputs["x"][:1]})

    with pytest.raises(BackendError, match=r"output 'y' has shape \(1, 3\)"):
        run_cases(Short(), PLAIN, CASES, batch=16)


def test_spread_sees_every_shape_first():
    """The sample covers lengths before it repeats one."""
    chosen = spread(CASES, 2)

    assert {3, 5} == {c.inputs["x"].shape[1] for c in chosen}
    assert 4 == len(spread(CASES, 99))


def test_spread_sees_rare_tags():
    """Where every case has a shape of its own: the ends, then what is tagged."""
    plain = [case(f"p{n}", n, 1.0) for n in range(1, 40)]
    rare = [
        dataclasses.replace(plain[20], tags=("digits", "short")),
        dataclasses.replace(plain[25], tags=("emoji",)),
    ]
    cases = [*plain[:20], rare[0], *plain[21:25], rare[1], *plain[26:]]
    chosen = [c.id for c in spread(cases, 6)]

    assert ["p39", "p1", "p21", "p26"] == chosen[:4]
    assert 6 == len(chosen)
    assert 30 == len({c.id for c in spread(cases, 30)})


def test_long_prompts_are_left_out_where_there_are_others():
    """Alone they stay; cases of other models are never long."""

    def prompt(name, tokens):
        ids = np.zeros((1, tokens), np.int64)
        return Case(id=name, inputs={"input_ids": ids, "positions": ids[:, :1]})

    short, long = prompt("s", 400), prompt("l", 401)
    plain = case("p", 5000, 1.0)

    assert [short] == list(moderate([short, long]))
    assert [long] == list(moderate([long]))
    assert [plain] == list(moderate([plain]))


def test_the_largest_batch_is_the_one_with_most_cases_and_the_smallest():
    """Of two of the same size the cheaper; none where there are no cases."""
    small, large = (
        [Case(id=f"{n}{i}", inputs={"x": np.zeros((1, n))}) for i in range(3)]
        for n in (4, 9)
    )
    alone = Case(id="a", inputs={"x": np.zeros((1, 1))})

    assert small == largest_batch([alone, *large, *small], 8)
    assert [] == largest_batch([], 8)


def test_one_whole_batch_is_watched_beside_single_cases():
    """After the shortest and the longest; not twice where they are a batch already."""
    cases = [
        Case(id=f"{n}{i}", inputs={"x": np.zeros((1, n))})
        for n, many in ((1, 1), (4, 5), (9, 1), (16, 1))
        for i in range(many)
    ]
    found = watched_batches(cases, 4, 8)

    assert [["160"], ["10"], ["40", "41", "42", "43", "44"]] == [
        [case.id for case in group] for group in found[:3]
    ]
    assert 5 == len(found)
    assert 1 == len(watched_batches(cases[1:6], 10, 8))


def test_all_others_are_watched_after_those_that_must_be():
    """A wrong weight that few inputs meet is met by one of them; none comes twice."""
    cases = [Case(id=f"{i}", inputs={"x": np.zeros((1, 4))}) for i in range(20)]
    found = watched_batches(cases, 3, 4)
    ids = [case.id for group in found for case in group]

    assert 3 == len(found[0])
    assert {case.id for case in cases} == set(ids)
    assert max(map(len, found)) == 4
    # One batch as large as any comes between, whatever is in it.
    assert 20 <= len(ids) <= 24
