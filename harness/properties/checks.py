"""The properties, each a function that fails with an AssertionError.

Bounds come from the format and from the scale that the quantizer drew, never from a
fixed tolerance: a faithful quantizer, whatever its scale rule, passes all.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np

from harness.properties.quantizer import Array, Quantizer
from harness.properties.view import View, view

#: Relative error of a quotient or product of float32, twice over.
_TWO_ROUNDINGS: Final = 2.0**-22


@dataclass(frozen=True)
class Property:
    """One property.

    Attributes:
        name: shown in test ids.
        check: raises AssertionError where the quantizer does not have it.
        needs: "finite" values, "moderate" ones (scales far from the ends of their
            format), or "grid" (at least two groups a row).
    """

    name: str
    check: Callable[[Quantizer, Array], None]
    needs: str = "finite"


def _equal(found: Array, wanted: Array, what: str, x: Array) -> None:
    same = (found == wanted) | (np.isnan(found) & np.isnan(wanted))
    if not same.all():
        at = tuple(int(i) for i in np.argwhere(~same)[0])
        raise AssertionError(
            f"{what}: at {at} found {found[at]!r}, but should be {wanted[at]!r}; "
            f"x={x.tolist()}"
        )


def codes_mean_values(quantizer: Quantizer, x: Array) -> None:
    """dequantize() is the code's value times its scale, within two roundings."""
    v = view(quantizer, x)
    with np.errstate(all="ignore"):
        wanted = v.decoded * v.total.astype(np.float64)
        slack = _TWO_ROUNDINGS * np.abs(wanted) + 2.0**-149
        good = np.abs(v.values - wanted) <= slack
        good |= ~np.isfinite(wanted.astype(np.float32)) & ~np.isfinite(v.values)
    if not good.all():
        at = tuple(int(i) for i in np.argwhere(~good)[0])
        raise AssertionError(
            f"{quantizer.name}: at {at} code {int(v.codes[at])} with scale "
            f"{v.total[at]:.9g} decodes to {v.values[at]:.9g}, but should be "
            f"{wanted[at]:.9g}; x={x.tolist()}"
        )


def nearest(quantizer: Quantizer, x: Array) -> None:
    """Each code is the value nearest to x / scale; beyond the largest, the largest."""
    v = view(quantizer, x)
    ratio = x.astype(np.float64) / v.total
    found = np.abs(ratio - v.decoded)
    best = _distance(v, ratio)
    good = found <= best + _TWO_ROUNDINGS * np.abs(ratio)
    if not good.all():
        at = tuple(int(i) for i in np.argwhere(~good)[0])
        raise AssertionError(
            f"{quantizer.name}: at {at} x={x[at]:.9g} with scale {v.total[at]:.9g} is "
            f"{ratio[at]:.9g}; the code {int(v.codes[at])} means {v.decoded[at]:.9g}, "
            f"{found[at]:.3g} away, but the nearest is {best[at]:.3g} away; "
            f"x={x.tolist()}"
        )


def _distance(v: View, ratio: Array) -> Array:
    """Distance to the nearest value of the format (with its zero point)."""
    table = v.element.decoded.astype(np.float64)
    table = np.unique(table[np.isfinite(table)])
    offset = np.zeros(ratio.shape)
    points = getattr(v.raw, "zero_points", None)
    if points is not None:
        offset += np.repeat(points, v.size, axis=1)[:, : ratio.shape[1]]
    at = np.clip(np.searchsorted(table, ratio + offset), 1, table.size - 1)
    below, above = table[at - 1] - offset, table[at] - offset
    distance: Array = np.minimum(np.abs(ratio - below), np.abs(ratio - above))
    return distance


def scale_fits(quantizer: Quantizer, x: Array) -> None:
    """A group's largest magnitude lands in the two largest binades of the element."""
    v = view(quantizer, x)
    floor = 2.0 ** (v.element.emax - 1)
    if v.element.kind == "int":
        floor = 2.0 ** (v.element.bits - 3)
    for r in range(x.shape[0]):
        for g in v.groups:
            amax = float(np.abs(x[r, g]).max(initial=0.0))
            ratio = amax / float(v.total[r, g.start])
            if amax > 0:
                assert floor <= ratio < 16 * floor, (
                    f"{quantizer.name}: row {r}, columns {g.start} to {g.stop}: amax "
                    f"{amax:.9g} / scale {v.total[r, g.start]:.9g} = {ratio:.6g}, but "
                    f"should be at least {floor:g} and not waste or clip a factor of "
                    f"two; x={x.tolist()}"
                )


def idempotent(quantizer: Quantizer, x: Array) -> None:
    """Quantizing what was dequantized changes nothing but the last places."""
    once = view(quantizer, x).values
    twice = view(quantizer, once).values
    good = np.abs(twice - once) <= 4 * _TWO_ROUNDINGS * np.abs(once)
    _equal(np.where(good, once, twice), once, f"{quantizer.name} twice", x)


def monotone(quantizer: Quantizer, x: Array) -> None:
    """Within a group a larger value never becomes a smaller one."""
    v = view(quantizer, x)
    for r in range(x.shape[0]):
        for g in v.groups:
            order = np.argsort(x[r, g], kind="stable")
            steps = np.diff(v.values[r, g][order])
            assert (steps >= 0).all(), (
                f"{quantizer.name}: row {r}, columns {g.start} to {g.stop}: values "
                f"fall where x rises; x={x.tolist()}"
            )


def sign_symmetric(quantizer: Quantizer, x: Array) -> None:
    """-x becomes minus what x becomes (NF4 is not symmetric, and is left out)."""
    if quantizer.element.kind == "table":
        return
    found = view(quantizer, -x).values
    _equal(found, -view(quantizer, x).values, f"{quantizer.name} of -x", x)


def scales_with_powers_of_two(quantizer: Quantizer, x: Array) -> None:
    """16 * x becomes 16 times what x becomes."""
    found = view(quantizer, x * np.float32(16)).values
    wanted = view(quantizer, x).values * np.float32(16)
    _equal(found, wanted, f"{quantizer.name} of 16 * x", x)


def saturates(quantizer: Quantizer, x: Array) -> None:
    """No value is beyond the element's largest times the scale; signs are kept."""
    v = view(quantizer, x)
    table = v.element.decoded
    largest = float(np.abs(table[np.isfinite(table)]).max())
    assert np.isfinite(v.values).all(), (
        f"{quantizer.name}: a finite value became "
        f"{v.values[~np.isfinite(v.values)][0]}; x={x.tolist()}"
    )
    # Below the normal float32s a rounding is half of the smallest one, not relative.
    bound = largest * v.total.astype(np.float64) * (1 + _TWO_ROUNDINGS) + 2.0**-149
    if getattr(v.raw, "zero_points", None) is None:
        assert (np.abs(v.values) <= bound).all(), (
            f"{quantizer.name}: a value is beyond {largest} times its scale; "
            f"x={x.tolist()}"
        )
    flipped = (v.values * x.astype(np.float64)) < 0
    assert not flipped.any(), f"{quantizer.name}: a sign changed; x={x.tolist()}"


def groups_permute(quantizer: Quantizer, x: Array) -> None:
    """Reversing the order of whole groups reverses the results."""
    size = quantizer.size or x.shape[1]
    whole = x[:, : x.shape[1] // size * size]
    blocks = whole.reshape(x.shape[0], -1, size)
    swapped = np.ascontiguousarray(blocks[:, ::-1]).reshape(whole.shape)
    found = view(quantizer, swapped).values.reshape(blocks.shape)[:, ::-1]
    wanted = view(quantizer, whole).values.reshape(blocks.shape)
    _equal(found, wanted, f"{quantizer.name} of permuted groups", whole)


def groups_are_independent(quantizer: Quantizer, x: Array) -> None:
    """Changing one group, its largest magnitude kept, leaves the others as they are."""
    size = quantizer.size or x.shape[1]
    last = (x.shape[1] - 1) // size * size
    changed = x.copy()
    changed[-1, last:] = -changed[-1, last:][::-1]
    before, after = view(quantizer, x).values, view(quantizer, changed).values
    kept = np.ones(x.shape, bool)
    kept[-1, last:] = False
    found = np.where(kept, after, before)
    _equal(found, before, f"{quantizer.name} beside a changed group", x)


def rows_are_consistent(quantizer: Quantizer, x: Array) -> None:
    """A tensor with each row twice gives each result twice."""
    found = view(quantizer, np.repeat(x, 2, axis=0)).values
    wanted = np.repeat(view(quantizer, x).values, 2, axis=0)
    _equal(found, wanted, f"{quantizer.name} of doubled rows", x)


def packs(quantizer: Quantizer, x: Array) -> None:
    """The bytes hold the codes, the first of two in the low nibble."""
    from harness.numerics import pack

    v = view(quantizer, x)
    made = getattr(v.raw, "pack", None)
    if made is None:
        return
    wanted = pack(v.codes, quantizer.element.name)
    found = np.frombuffer(bytes(made()), np.uint8)
    assert found.size == wanted.size, (
        f"{quantizer.name}: {found.size} bytes, but should be {wanted.size}"
    )
    _equal(found, wanted.reshape(-1), f"{quantizer.name} packed", x)


def zeros_stay_zeros(quantizer: Quantizer, x: Array) -> None:
    """A group of zeros decodes to zeros, beside whatever else there is."""
    size = quantizer.size or x.shape[1]
    zeroed = x.copy()
    zeroed[:, :size] = 0
    values = view(quantizer, zeroed).values
    _equal(values[:, :size], zeroed[:, :size], f"{quantizer.name} of zeros", zeroed)
    assert np.isfinite(values).all(), f"{quantizer.name}: not finite beside zeros"


def nonfinite_is_contained(quantizer: Quantizer, x: Array) -> None:
    """NaN and Inf change no other group, and NaN does not become a number."""
    size = quantizer.size or x.shape[1]
    # The changed place holds no largest magnitude, on which a tensor's scale hangs.
    held = x.copy()
    held[0, 0] = 0
    before = view(quantizer, held).values
    for bad in (np.nan, np.inf):
        changed = held.copy()
        changed[0, 0] = bad
        after = view(quantizer, changed).values
        kept = np.ones(x.shape, bool)
        kept[0, :size] = False
        what = f"{quantizer.name} beside {bad}"
        _equal(np.where(kept, after, before), before, what, changed)
        if np.isnan(bad):
            assert np.isnan(after[0, 0]), (
                f"{quantizer.name}: NaN became {after[0, 0]!r}; x={changed.tolist()}"
            )


PROPERTIES: Final[dict[str, Property]] = {
    entry.name: entry
    for entry in (
        Property("codes_mean_values", codes_mean_values),
        Property("nearest", nearest),
        Property("scale_fits", scale_fits, "moderate"),
        Property("idempotent", idempotent, "moderate"),
        Property("monotone", monotone),
        Property("sign_symmetric", sign_symmetric),
        Property("scales_with_powers_of_two", scales_with_powers_of_two, "moderate"),
        Property("saturates", saturates),
        Property("groups_permute", groups_permute, "grid"),
        Property("groups_are_independent", groups_are_independent, "grid"),
        Property("rows_are_consistent", rows_are_consistent),
        Property("packs", packs),
        Property("zeros_stay_zeros", zeros_stay_zeros),
        Property("nonfinite_is_contained", nonfinite_is_contained),
    )
}
