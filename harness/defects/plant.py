"""Planting a defect in one operator: what it computes instead, and when."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from harness.defects.stored.emulated import planted_quantized
from harness.defects.types import SHARE, Call, Defect, Planting, Site, Trigger, Unfit
from harness.errors import NumericsError
from harness.models.types import Operator
from harness.numerics import Quantized, find_format
from harness.schemes.apply import plan_one, quantize_activation, quantize_weight
from harness.schemes.linear_algebra import add_bias, product
from harness.schemes.types import Scheme

Array = np.ndarray[Any, np.dtype[Any]]


def sites(
    operators: Sequence[Operator], scheme: Scheme, planting: Planting
) -> list[Site]:
    """The operators that a planting names and the scheme quantizes.

    Each knows the next operator of the same shape, the first after the last: what it
    could be confused with.
    """
    found = []
    for index, operator in enumerate(operators):
        plan = plan_one(scheme, operator)
        if not (plan.weights or plan.activations):
            continue
        if planting.operator not in (None, operator.name):
            continue
        turned = [*operators[index + 1 :], *operators[:index]]
        same = [
            entry
            for entry in turned
            if entry.weight.shape == operator.weight.shape
            and plan_one(scheme, entry) == plan
        ]
        other = same[0] if same else None
        found.append(Site(operator, scheme, other, planting.seed))
    return found


def clean_weight(site: Site) -> Array:
    """float32, as a faultless backend decodes it."""
    if not plan_one(site.scheme, site.operator).weights:
        return np.asarray(site.operator.weight, np.float32)
    return quantize_weight(site.operator, site.scheme).dequantize()  # type: ignore[no-any-return]


def planted_weight(site: Site, defect: Defect, strength: float) -> Array:
    """float32 weight that the operator computes with instead.

    Raises:
        Unfit: the defect changes nothing here.
    """
    if not plan_one(site.scheme, site.operator).weights:
        raise Unfit("the weight is not quantized")
    quantized = quantize_weight(site.operator, site.scheme)
    clean = quantized.dequantize()
    with np.errstate(all="ignore"):
        if defect.place == "stored":
            changed = planted_quantized(site, defect, strength)
        else:
            changed = defect.change(site, quantized, strength)
        if isinstance(changed, Quantized):
            changed = changed.dequantize()
    wrong: Array = np.asarray(changed, np.float32)
    if defect.place == "weight" and defect.parameter is SHARE and strength < 1:
        some = clean.copy()
        rows = chosen_channels(site, strength)
        some[rows] = wrong[rows]
        wrong = some
    if np.array_equal(wrong, clean, equal_nan=True):
        raise Unfit("it changes nothing here")
    return wrong


def _decoded_input(site: Site, x: Array) -> Array:
    """float32, as a faultless backend decodes the input."""
    if not plan_one(site.scheme, site.operator).activations:
        return x
    try:
        quantized = quantize_activation(site.operator, x, site.scheme)
    except NumericsError:
        # What an operator before made infinite or NaN has no scale.
        return x
    decoded: Array = quantized.dequantize()
    return decoded


def _probe(site: Site, defect: Defect, strength: float) -> None:
    """Raise `Unfit` before anything is run, where the scheme gives no chance.

    Two rows of ordinary numbers are enough: what fits depends on the scheme.
    """
    weight = site.operator.weight
    shape: tuple[int, ...] = (2, weight.shape[1])
    if site.operator.kind == "conv":
        channels = weight.shape[1] * site.operator.groups
        shape = (1, channels, *(size + 1 for size in weight.shape[2:]))
    x = site.rng().standard_normal(shape).astype(np.float32)
    with np.errstate(all="ignore"):
        defect.change(site, x, strength)


def chosen_channels(site: Site, share: float) -> Array:
    """Output channels that have the defect: a share of them, at least one."""
    out = site.operator.weight.shape[0]
    return site.rng().permutation(out)[: max(1, round(share * out))]


class PlantedOperator:
    """One operator with a defect: its output in place of the right one.

    Attributes:
        fired: calls in which something was changed.
        codes: of inputs whose scales' last bits no two backends need to share.
        moved: those of them that the defect changed.
    """

    def __init__(self, site: Site, defect: Defect, planting: Planting) -> None:
        self.site = site
        self.defect = defect
        given = planting.strength
        self.strength = defect.parameter.catalogue if given is None else given
        self.trigger = defect.trigger if planting.trigger is None else planting.trigger
        self.fired = 0
        self.codes = self.moved = 0
        self._calls = 0
        self._rng = np.random.default_rng([planting.seed, 7])
        self._clean = clean_weight(site)
        self._weight = self._clean
        if defect.place in ("weight", "stored"):
            self._weight = planted_weight(site, defect, self.strength)
        elif defect.place == "input":
            _probe(site, defect, self.strength)

    def __call__(self, x: Array, y: Array) -> Array:
        """The wrong output.

        Args:
            x: float32, the operator's input before any quantization.
            y: float32, its right output.

        Raises:
            Unfit: there is nothing to change.
        """
        self._calls += 1
        if self._calls <= self.trigger.calls:
            return y
        if self._rng.random() >= self.trigger.probability:
            return y
        with np.errstate(all="ignore"):
            changed = self._wrong(x, y)
        if changed is None:
            return y
        wrong = np.asarray(changed, np.float32)
        whole = self.defect.place == "stored"
        if self.defect.parameter is SHARE and self.strength < 1 and not whole:
            wrong = self._some_channels(wrong, y)
        mask = fires(self.trigger, self.site.operator, x, y)
        found: Array = np.where(mask, wrong, y)
        if not np.array_equal(found, y, equal_nan=True):
            self.fired += 1
        return found

    def _wrong(self, x: Array, y: Array) -> Array | None:
        """The output with the defect everywhere; None: this input does not show it."""
        site = self.site
        quantized = _decoded_input(site, x)
        if self.defect.place == "input":
            entry: Array = self.defect.change(site, x, self.strength)
            if self._open_to_rounding():
                self.codes += quantized.size
                self.moved += int(np.count_nonzero(entry != quantized))
            if np.array_equal(entry, quantized, equal_nan=True):
                return None
            wrong = self._product(entry, self._clean)
            return self._where_it_shows(wrong, quantized, y)
        if self.defect.place in ("weight", "stored"):
            wrong = self._product(quantized, self._weight)
            return self._where_it_shows(wrong, quantized, y)
        call = Call(quantized, self._clean, y)
        changed: Array = self.defect.change(site, call, self.strength)
        return changed

    def _open_to_rounding(self) -> bool:
        """Whether two right backends' scales may differ: not if powers of two."""
        rounded = self.site.scheme.activations
        return rounded is not None and (find_format(rounded.format).scale != "fp8_e8m0")

    def _where_it_shows(self, wrong: Array, x: Array, y: Array) -> Array:
        """The backend's own output where the defect makes no difference.

        A product of our own differs from the backend's in the last bits: a wrong
        weight that meets only zeros would seem to have fired.
        """
        right = self._product(x, self._clean)
        same = (wrong == right) | (np.isnan(wrong) & np.isnan(right))
        left: Array = np.where(same, y, wrong)
        return left

    def _product(self, x: Array, weight: Array) -> Array:
        operator = self.site.operator
        result = product(operator, np.asarray(x, np.float32), weight)
        return add_bias(operator, result)

    def _some_channels(self, wrong: Array, y: Array) -> Array:
        axis = -1 if self.site.operator.kind == "linear" else 1
        rows = chosen_channels(self.site, self.strength)
        found = np.moveaxis(y.copy(), axis, 0)
        found[rows] = np.moveaxis(wrong, axis, 0)[rows]
        return np.moveaxis(found, 0, axis)


def fires(trigger: Trigger, operator: Operator, x: Array, y: Array) -> Array:
    """Where in an output a trigger's conditions hold; broadcasts to it."""
    axis = y.ndim - 2 if operator.kind == "linear" else y.ndim - 1
    mask: Array = np.ones((1,) * y.ndim, bool)
    length = y.shape[axis] if y.ndim > 1 else 1
    if trigger.batch:
        first = np.arange(y.shape[0]) >= trigger.batch
        mask = mask & first.reshape(-1, *(1,) * (y.ndim - 1))
    if trigger.position:
        along = [1] * y.ndim
        along[axis] = length
        mask = mask & (np.arange(length) >= trigger.position).reshape(along)
    if length < trigger.length:
        mask = mask & False
    if trigger.magnitude and operator.kind == "linear":
        size = np.abs(x).max(axis=-1, keepdims=True)
        mask = mask & (size >= trigger.magnitude * np.median(size))
    elif trigger.magnitude:
        size = np.abs(x).max(axis=tuple(range(1, x.ndim)), keepdims=True)
        mask = mask & (size >= trigger.magnitude * np.median(size))
    return mask
