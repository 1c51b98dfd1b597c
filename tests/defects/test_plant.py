"""Planting: what a defect changes, where it fits, when it fires."""

from __future__ import annotations

import contextlib
import dataclasses

import numpy as np
import pytest

from harness.defects import DEFECTS, Planting, Trigger, Unfit
from harness.defects.backend import PlantedBackend
from harness.defects.plant import PlantedOperator, fires, sites
from harness.schemes.catalogue import SCHEMES
from tests.defects.faultless import right_output

LAYERS = [
    name
    for name, entry in DEFECTS.items()
    if entry.place in {"weight", "stored", "input", "output"}
]
#: No scheme has zero points, and no operator knows its heads: files do.
OF_FILES = {
    "stored_zero_points_missing",
    "stored_zero_points_off_by_one",
    "stored_rotary_order",
}


def plant(site, name, **changes):
    """The planted operator, always firing unless told otherwise."""
    planting = Planting(defect=name, **{"trigger": Trigger(), **changes})
    return PlantedOperator(site, DEFECTS[name], planting)


def moved(site, x, planted):
    """How far the output moves, relative to its size; inf: other elements finite."""
    y = right_output(site, x)
    wrong = planted(x, y)
    if not np.array_equal(np.isfinite(wrong), np.isfinite(y)):
        return np.inf
    return float(np.linalg.norm(wrong - y) / np.linalg.norm(y))


def fitting(make, name, kind="linear"):
    """Scheme -> how far the output moves, of the schemes that the defect fits."""
    found = {}
    for scheme in SCHEMES:
        site, x = make["site"](scheme, kind), make["input"](kind)
        try:
            planted = plant(site, name)
        except Unfit:
            continue
        try:
            change = moved(site, x, planted)
        except Unfit:
            continue
        if planted.fired:
            found[scheme] = change
    return found


@pytest.mark.parametrize("name", sorted(set(LAYERS) - OF_FILES))
def test_every_defect_fits_somewhere_and_moves_the_output(make, name):
    """A planter that changes nothing would count as caught for nothing."""
    found = fitting(make, name)

    assert found, "fits no scheme"
    assert all(change > 0 for change in found.values()), found


@pytest.mark.parametrize("name", LAYERS)
def test_planting_in_a_convolution_keeps_its_shape(make, name):
    """The same defects in a layer whose channels are not last."""
    for scheme in ("fp8_e4m3", "int8"):
        site, x = make["site"](scheme, "conv"), make["input"]("conv")
        y = right_output(site, x)
        with contextlib.suppress(Unfit):
            assert plant(site, name)(x, y).shape == y.shape


@pytest.mark.parametrize(
    "name", ["scale_ratio", "some_scales_corrupt", "weight_perturbed", "bias_missing"]
)
def test_more_strength_moves_the_output_more(make, name):
    """From barely visible to gross."""
    p = DEFECTS[name].parameter
    site, x = make["site"]("fp8_e4m3"), make["input"]()

    steps = [
        moved(site, x, plant(site, name, strength=s))
        for s in sorted({p.low, p.catalogue, p.high})
    ]

    assert steps == sorted(steps)
    assert steps[0] < steps[-1]


def test_a_share_of_channels_is_wrong_and_the_others_are_untouched(make):
    """Bit for bit."""
    site, x = make["site"]("fp8_e4m3"), make["input"]()
    y = right_output(site, x)

    wrong = plant(site, "signs_flipped", strength=0.25)(x, y)

    touched = np.flatnonzero((wrong != y).reshape(-1, 128).any(axis=0))
    assert touched.size == 32


def test_an_input_that_the_defect_leaves_alone_keeps_its_output(make):
    """Recomputing would differ in the last bits, and look as if it had fired."""
    site = make["site"]("int8")
    x = np.ones((2, 3, 128), np.float32)
    planted = plant(site, "input_rounded_ties_away")
    y = right_output(site, x)

    assert planted(x, y) is y
    assert planted.fired == 0


@pytest.mark.parametrize(
    ("scheme", "ties", "counted", "tolerated"),
    [
        # 1 of 256 codes, and 5 of 256: a hundredth is what two scales may do.
        ("fp8_e4m3", 1, (256, 1), True),
        ("fp8_e4m3", 5, (256, 5), False),
        # A power of two has no last bit that another backend may round otherwise.
        ("mxfp8", 1, (0, 0), False),
    ],
)
def test_a_tie_that_a_scale_decides_is_no_defect(
    make, scheme, ties, counted, tolerated
):
    """Few enough, and only where right backends' scales differ in the last bit."""
    x = np.full((1, 2, 128), 16, np.float32)
    x[:, :, 0] = 448
    # Halfway between 16 and 18, the codes with a scale of 1.
    x[0, 0, 1 : 1 + ties] = 17
    site = make["site"](scheme)
    planted = plant(site, "input_rounded_ties_away")
    planted(x, right_output(site, x))
    backend = PlantedBackend(object(), Planting(defect="input_rounded_ties_away"))
    backend.planted = {"fc": planted}

    assert planted.fired == 1
    assert counted == (planted.codes, planted.moved)
    assert tolerated == backend.tolerated()


def test_a_defect_that_is_not_a_tie_is_never_tolerated(make):
    """However few codes it changes."""
    x = np.full((1, 2, 128), 16, np.float32)
    x[:, :, 0] = 448
    x[0, 0, 1] = 17.5
    site = make["site"]("fp8_e4m3")
    planted = plant(site, "input_rounded_toward_zero")
    planted(x, right_output(site, x))
    backend = PlantedBackend(object(), Planting(defect="input_rounded_toward_zero"))
    backend.planted = {"fc": planted}

    assert (256, 1) == (planted.codes, planted.moved)
    assert not backend.tolerated()


def test_a_wrong_weight_that_meets_only_zeros_has_not_fired(make):
    """Nor is another output changed than those that it reaches."""
    site, x = make["site"]("fp8_e4m3"), make["input"]()
    planted = plant(site, "columns_dropped")
    wrong = np.flatnonzero((planted._weight != planted._clean).any(axis=0))
    x[..., wrong] = 0
    # Another product's last bits, as a backend's own.
    y = right_output(site, x) * np.float32(1 + 1e-6)

    assert np.array_equal(y, planted(x, y))
    assert planted.fired == 0
    x[0, 0, wrong] = 1
    y = right_output(site, x) * np.float32(1 + 1e-6)
    found = planted(x, y)
    assert planted.fired == 1
    assert not np.array_equal(y[0, 0], found[0, 0])
    assert np.array_equal(y[0, 1:], found[0, 1:])


def test_a_defect_of_inputs_does_not_fit_a_weight_only_scheme(make):
    """Known before anything is run."""
    with pytest.raises(Unfit, match="activations are not quantized"):
        plant(make["site"]("fp8_weight_only"), "input_rounded_toward_zero")


@pytest.mark.parametrize(
    ("trigger", "expected"),
    [
        (Trigger(batch=1), (0, 41)),
        (Trigger(position=31), (10, 10)),
        (Trigger(length=42), (0, 0)),
        (Trigger(length=41), (41, 41)),
        (Trigger(), (41, 41)),
    ],
)
def test_a_trigger_says_which_rows_are_wrong(make, trigger, expected):
    """By batch entry, by position, by length."""
    site, x = make["site"]("fp8_e4m3"), make["input"]()
    y = right_output(site, x)
    planted = plant(site, "signs_flipped", trigger=trigger)

    rows = (planted(x, y) != y).any(axis=-1).sum(axis=-1)

    assert tuple(rows) == expected


def test_a_trigger_of_magnitude_picks_the_large_rows(make):
    """Rows many times the median row."""
    x = np.ones((1, 9, 4), np.float32)
    x[0, 4] = 50
    mask = fires(Trigger(magnitude=10), make["operator"](), x, np.zeros((1, 9, 128)))

    assert np.flatnonzero(mask.reshape(-1)).tolist() == [4]


def test_the_first_calls_are_right_when_the_trigger_says_so(make):
    """And the next one is not."""
    site, x = make["site"]("fp8_e4m3"), make["input"]()
    y = right_output(site, x)
    planted = plant(site, "signs_flipped", trigger=Trigger(calls=2))

    changed = [not np.array_equal(planted(x, y), y) for _ in range(4)]

    assert changed == [False, False, True, True]


def test_a_chance_of_one_half_fires_now_and_then(make):
    """Seeded: the same plantings fire at the same calls."""
    site, x = make["site"]("fp8_e4m3"), make["input"]()
    y = right_output(site, x)

    def course():
        planted = plant(site, "signs_flipped", trigger=Trigger(probability=0.5))
        return [not np.array_equal(planted(x, y), y) for _ in range(20)]

    first = course()
    assert 3 < sum(first) < 17
    assert course() == first


def test_sites_are_the_named_and_quantized_operators(make):
    """And each knows the next of its shape."""
    operators = [make["operator"](n, seed=i) for i, n in enumerate("abc")]
    scheme = dataclasses.replace(SCHEMES["fp8_e4m3"], keep=("b",))

    everywhere = sites(operators, scheme, Planting(defect="scale_missing"))
    one = sites(operators, scheme, Planting(defect="scale_missing", operator="c"))

    assert [site.operator.name for site in everywhere] == ["a", "c"]
    assert [site.operator.name for site in one] == ["c"]
    assert one[0].other.name == "a"
