"""From what was observed to a cause, with the proof: or "unknown"."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from harness.diagnose import (
    FLUSHED,
    UNKNOWN,
    Call,
    Observation,
    confirm,
    diagnose,
    inputs,
)
from harness.errors import NumericsError
from harness.models.types import Operator
from harness.schemes.apply import quantize_activation, quantize_weight
from harness.schemes.catalogue import SCHEMES
from harness.schemes.linear_algebra import add_bias, product
from harness.schemes.oracle import subnormals


def rolled(axis, step=1):
    """Right codes, scales of the neighbour."""

    def weight(stored):
        scales = np.roll(stored.scales, step, axis=axis)
        return dataclasses.replace(stored, scales=scales).dequantize()

    return weight


def one_block(stored):
    """One scale of one block is four times too large."""
    scales = stored.scales.copy()
    scales[7, 1] *= 4
    return dataclasses.replace(stored, scales=scales).dequantize()


def half_the_codes_up(stored):
    """Codes of the first eight inputs one step up."""
    codes = stored.codes.copy()
    codes[:, :8] ^= 1
    return dataclasses.replace(stored, codes=codes).dequantize()


@pytest.mark.parametrize(
    ("scheme", "change", "cause"),
    [
        ("mxfp8", {"weight": rolled(1)}, "scales shifted along K"),
        ("nvfp4", {"weight": rolled(0)}, "scales shifted along N"),
        ("int8", {"weight": lambda q: q.dequantize() * 1.02}, "constant ratio"),
        ("mxfp8", {"weight": one_block}, "some scales wrong"),
        ("mxfp4", {"weight": lambda q: q.dequantize()[:, ::-1]}, "columns permuted"),
        ("int4", {"weight": half_the_codes_up}, "codes"),
        ("fp8_e4m3", {"weight": lambda q: -q.dequantize()}, "signs flipped"),
        ("mxfp8", {"entry": lambda q: q.dequantize() * 0.97}, "constant ratio"),
        ("int8", {"output": lambda y, _: np.clip(y, -3, 3)}, "output saturates"),
        ("int8", {"output": lambda y, _: np.zeros_like(y)}, "output zero"),
        ("fp8_e4m3", {"output": lambda y, _: np.roll(y, 1, axis=-2)}, "rows shifted"),
    ],
)
def test_a_mistake_is_named_and_proven(make, scheme, change, cause):
    """With it planted in the oracle, nothing is left to explain."""
    seen = make["seen"](scheme, **change)

    found = diagnose(seen)

    assert found.cause.startswith(cause) or f"; or {cause}" in found.detail, found
    assert found.before > 100 * found.limit
    assert found.after <= 0.02 * found.before
    assert found.confidence > 0.3
    assert "with this planted" in found.sentence


def test_the_proof_says_what_is_left(make):
    """Block scales shifted by one along K, and the drift falls to noise."""
    found = diagnose(make["seen"]("mxfp8", weight=rolled(1)))

    assert found.detail == "block scales shifted by 1 block along K"
    assert found.after <= found.limit
    assert found.confidence == pytest.approx(0.99)


@pytest.mark.parametrize("scheme", ["fp8_e4m3", "mxfp8", "nvfp4", "int8"])
def test_nonsense_has_no_name(make, scheme):
    """Random outputs: it says unknown rather than guess."""
    rng = np.random.default_rng(11)

    def output(y, _):
        return y + rng.standard_normal(y.shape) * np.abs(y).mean()

    found = diagnose(make["seen"](scheme, output=output))

    assert found.cause == UNKNOWN
    assert found.confidence == 0
    assert "cause unknown" in found.sentence


def one_channel(seen, change):
    """The same of the first output channel alone, an element a row."""
    operator = dataclasses.replace(
        seen.operator, weight=seen.operator.weight[:1], bias=seen.operator.bias[:1]
    )
    calls = [
        dataclasses.replace(call, y=change(call.y[..., :1]).astype(np.float32))
        for call in seen.calls
    ]
    return dataclasses.replace(seen, operator=operator, calls=tuple(calls))


def test_a_number_for_every_element_explains_nothing(make):
    """An operator of one channel: random outputs are no ratio of its rows."""
    rng = np.random.default_rng(5)
    seen = one_channel(make["seen"]("int8"), lambda y: y * rng.uniform(0, 2, y.shape))

    assert diagnose(seen).cause == UNKNOWN


def test_of_one_channel_a_ratio_is_a_constant(make):
    """It is not named twice, which would halve what it is sure of."""
    right = make["seen"]("int8")
    bias = right.operator.bias[0]
    seen = one_channel(right, lambda y: (y - bias) * 1.3 + bias)

    found = diagnose(seen)

    assert found.cause == "constant ratio"
    assert "ratio by channel" not in found.detail


def test_a_candidate_that_cannot_be_computed_is_none(make, monkeypatch):
    """The search goes on: another format may have no zero points."""

    def impossible(x):
        raise NumericsError("fp8_e4m3 has no zero points; only integers have")

    candidates = inputs.candidates
    monkeypatch.setattr(
        inputs,
        "candidates",
        lambda seen: [("impossible", "", impossible), *candidates(seen)],
    )

    found = diagnose(make["seen"]("int8", entry=lambda q: q.dequantize() * 1.1))

    assert found.cause == "constant ratio"


def test_a_faithful_backend_leaves_nothing_to_find(make):
    """Noise of float32 sums lies below the limit."""
    found = diagnose(make["seen"]("mxfp8"))

    assert found.before < found.limit


@pytest.mark.parametrize("scheme", ["fp8_e4m3", "int8", "nvfp4"])
def test_any_order_of_the_channels_is_told_by_few_rows(make, scheme):
    """Fewer than inputs: no weight can be fitted to them."""
    order = np.random.default_rng(4).permutation(48)

    found = diagnose(
        make["seen"](scheme, weight=lambda q: q.dequantize()[order], calls=1)
    )

    assert found.cause == "output channels permuted"
    assert f"{(order != np.arange(48)).sum()} of 48" in found.detail
    assert found.confidence > 0.9


def test_channels_that_are_all_the_same_are_in_no_other_order(make):
    """The first one's product everywhere: each is another's, but none is a place."""
    found = diagnose(
        make["seen"]("int8", weight=lambda q: q.dequantize()[np.zeros(48, int)])
    )

    assert found.cause != "output channels permuted"


def test_what_does_not_repeat_is_said_first(make):
    """Two outputs of one input: no weight explains that."""
    seen = make["seen"]("int8")
    again = make["seen"]("int8", output=lambda y, _: y * 1.5)

    found = diagnose(seen, again.calls)

    assert found.cause == "not repeatable"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda y, _: np.where(np.arange(24)[:, None] >= 16, y * 1.2, y), "position"),
        (lambda y, i: y * 1.2 if i == 2 else y, "call 3"),
        (lambda y, _: y * np.array([1, 1.2])[:, None, None], "batch entries from 1"),
        (
            lambda y, _: y * np.where(np.arange(48) < 5, 1.2, 1),
            "output channels 0 to 4",
        ),
    ],
)
def test_where_it_is_wrong_is_part_of_the_answer(make, change, words):
    """The same ratio, only from a position, a call, a batch entry, in some channels."""
    found = diagnose(make["seen"]("fp8_e4m3", output=change))

    assert words in f"{found.when} {found.detail} {' '.join(found.facts)}", found
    assert found.after <= 0.02 * found.before


def test_not_finite_outputs_are_counted(make):
    """A NaN in one element is a fact that is told."""

    def output(y, _):
        wrong = y.copy()
        wrong[0, 0, 0] = np.nan
        return wrong

    found = diagnose(make["seen"]("int8", output=output))

    assert any("not finite" in fact for fact in found.facts)
    assert found.confidence == 0 or "not finite" in found.cause


def test_nan_twice_is_repeatable(make):
    """A NaN in the input, as a state carries it on, is in both."""
    seen = make["seen"]("int8")

    def with_nan(call, factor):
        x, y = call.x.copy(), call.y * np.float32(factor)
        x[0, 0], y[0, 0] = np.nan, np.nan
        return dataclasses.replace(call, x=x, y=y)

    broken = dataclasses.replace(seen, calls=tuple(with_nan(c, 1) for c in seen.calls))

    assert diagnose(broken, broken.calls).cause != "not repeatable"
    other = [with_nan(call, 2) for call in seen.calls]
    assert diagnose(broken, other).cause == "not repeatable"


def test_the_same_observation_gives_the_same_diagnosis(make):
    """Nothing in it is drawn."""
    first, second = (
        diagnose(make["seen"]("nvfp4", weight=rolled(1))).as_dict() for _ in range(2)
    )

    assert first == second


def test_the_json_holds_the_contract(make):
    """`defect`, `operator`, `confidence`."""
    found = diagnose(make["seen"]("mxfp8", weight=rolled(1))).as_dict()

    assert found["defect"] == "scales shifted along K"
    assert found["operator"] == "fc"
    assert found["confidence"] == pytest.approx(0.99)


def off_by_one(stored):
    """A few codes one step nearer to zero."""
    found = stored.dequantize()
    step = np.sign(found) * stored.expanded_scales()
    found[::7, ::5] -= step[::7, ::5]
    return found


def test_a_weight_that_is_shown_needs_no_rows_to_be_determined(make):
    """48 rows do not determine 96 columns; what the backend holds says what it is."""
    seen = make["seen"]("int8", weight=off_by_one, calls=1)
    held = off_by_one(seen.stored)

    alone = diagnose(seen)
    found = diagnose(dataclasses.replace(seen, shown=held))

    assert alone.cause == "unknown"
    assert found.cause == "codes off by one"
    assert found.confidence > 0.9


def next_codes(stored):
    """A few E4M3 codes one step on or back, but for the largest: NaN is beside it."""
    codes = stored.codes.copy()
    codes[::3] ^= (codes[::3] & 0x7F < 0x7E).astype(codes.dtype)
    return dataclasses.replace(stored, codes=codes).dequantize()


@pytest.mark.parametrize(
    ("scheme", "change"), [("fp8_e4m3", next_codes), ("int8", off_by_one)]
)
def test_of_a_grouped_convolution_the_shown_weight_tells_too(scheme, change):
    """No weight is fitted there, but one that is shown need not be."""
    rng = np.random.default_rng(6)
    operator = Operator(
        name="conv",
        kind="conv",
        weight=rng.standard_normal((16, 2, 3)).astype(np.float32),
        bias=rng.standard_normal(16).astype(np.float32),
        stride=(1,),
        dilation=(1,),
        padding=((1, 1),),
        groups=8,
    )
    found = SCHEMES[scheme]
    held = change(quantize_weight(operator, found))
    calls = []
    for index in range(3):
        x = rng.standard_normal((2, 16, 20)).astype(np.float32)
        entry = quantize_activation(operator, x, found).dequantize()
        y = add_bias(operator, product(operator, entry, held)).astype(np.float32)
        calls.append(Call(x, y, index))
    seen = Observation(operator, found, tuple(calls), shown=held)

    told = diagnose(seen)

    assert told.cause == "codes off by one"
    assert told.confidence > 0.9


def test_a_weight_that_is_shown_and_not_used_names_nothing(make):
    """The product is wrong in another way: what is held is no excuse."""
    seen = make["seen"]("int8", output=lambda y, _: np.roll(y, 1, axis=-1))
    wrong = dataclasses.replace(seen, shown=off_by_one(seen.stored))

    assert diagnose(seen).cause == diagnose(wrong).cause
    assert diagnose(wrong).cause.startswith("output channels")


@pytest.mark.parametrize("what", ["weights", "inputs"])
def test_what_a_check_has_told_is_proven(what):
    """Numbers so small that every candidate leaves as little."""
    rng = np.random.default_rng(5)
    # One element in eight is subnormal, and nothing beside the others.
    tiny = np.where(np.arange(96) % 8 == 0, np.float32(3e-5), np.float32(1))
    weight, x = (rng.standard_normal((48, 96)).astype(np.float32) for _ in range(2))
    if what == "weights":
        weight *= tiny
    else:
        x *= tiny
    operator = Operator(name="fc", kind="linear", weight=weight)
    scheme = SCHEMES["fp8_e4m3"]
    stored = quantize_weight(operator, scheme)
    entry = quantize_activation(operator, x, scheme)
    values, decoded = stored.dequantize(), entry.dequantize()
    if what == "weights":
        y = decoded @ (values - subnormals(stored, values)).T
    else:
        y = (decoded - subnormals(entry, decoded)) @ values.T
    seen = Observation(operator, scheme, (Call(x, y, 0),))

    found = confirm(seen, FLUSHED)

    assert found.cause == FLUSHED
    assert ("input" in found.detail) == (what == "inputs")
    assert found.after < found.before / 2
    assert found.after <= found.limit


def test_what_no_candidate_proves_leaves_all_of_it(make):
    """The caller looks for another cause then."""
    seen = make["seen"]("fp8_e4m3", weight=lambda q: -q.dequantize())

    found = confirm(seen, FLUSHED)

    assert found.after > found.limit
