"""Planting in a language model: inside in torch, before and after it anywhere."""

from __future__ import annotations

from typing import Any

from harness.defects.language.cache import Line
from harness.defects.language.model import Fired
from harness.defects.language.prompts import PlantedPrompts
from harness.defects.language.server import PlantedAnswers
from harness.defects.types import Defect, Trigger, Unfit
from harness.errors import UnsupportedError


def plant_outside(
    session: Any, model: Any, defect: Defect, strength: float, seed: int
) -> tuple[Any, Fired]:
    """The session with the defect before or after it, and what counts its firing.

    Args:
        session: any language model's.
        model: what is under test.
        defect: of prompts or of answers.
        strength: how much of it.
        seed: of its draws.

    Raises:
        UnsupportedError: the model has nothing of the kind.
    """
    if defect.place == "answer":
        server = defect.change(model, strength, seed)
        return PlantedAnswers(session, server), server.counted
    planted = PlantedPrompts(session, lambda ids: defect.change(model, ids, strength))
    try:
        planted.try_on(model.tokenizer.encode("What is 2 + 3?"))
    except Unfit as error:
        raise UnsupportedError(f"{defect.name} fits nowhere: {error}") from None
    return planted, planted.counted


def plant_language(
    session: Any, model: Any, defect: Defect, strength: float, trigger: Trigger
) -> tuple[Any, Fired]:
    """The session with the defect, and what counts how often it fired.

    Args:
        session: a language model's, with its module open.
        model: what is under test.
        defect: of the cache or the model.
        strength: how much of it.
        trigger: of the cache: from which position, from which entry of a batch.

    Raises:
        UnsupportedError: the session is no language model's in torch, or the model has
            nothing of the kind.
    """
    module = getattr(session, "module", None)
    if module is None or not hasattr(module, "new_cache"):
        raise UnsupportedError(f"{defect.name} is a defect of language models in torch")
    fired = Fired()
    if defect.place == "cache":
        _wrap(module, defect, strength, trigger, fired)
        return session, fired
    try:
        defect.change(module, model, strength, fired)
    except Unfit as error:
        raise UnsupportedError(f"{defect.name} fits nowhere: {error}") from None
    return session, fired


def _wrap(
    module: Any, defect: Defect, strength: float, trigger: Trigger, fired: Fired
) -> None:
    """Every cache of the module writes lines with the defect."""
    make = module.new_cache
    if module.rounding is None:
        # A whole prompt is read without a cache otherwise: engines write it to one.
        module.rounding = _unrounded

    def new_cache() -> Any:
        cache = make()
        for layer in cache.layers:
            layer.update = _Update(layer, defect, strength, trigger, fired)
        return cache

    module.new_cache = new_cache


def _unrounded(x: Any) -> Any:
    return x


class _Update:
    """A layer's `update` that writes something else."""

    def __init__(
        self,
        layer: Any,
        defect: Defect,
        strength: float,
        trigger: Trigger,
        fired: Fired,
    ) -> None:
        self._layer = layer
        self._update = layer.update
        self._defect = defect
        self._strength = strength
        self._trigger = trigger
        self._fired = fired

    def __call__(self, keys: Any, values: Any, *args: Any, **kwargs: Any) -> Any:
        stored = self._layer.keys if self._layer.is_initialized else None
        start = 0 if stored is None else stored.shape[2]
        before = None
        if stored is not None and start:
            before = stored[:, :, -1:], self._layer.values[:, :, -1:]
        wrong = self._defect.change(Line(keys, values, start, before), self._strength)
        pair = (self._kept(keys, wrong[0], start), self._kept(values, wrong[1], start))
        return self._update(*pair, *args, **kwargs)

    def _kept(self, right: Any, wrong: Any, start: int) -> Any:
        """What the trigger leaves alone stays right."""
        found = right.clone()
        first = max(0, self._trigger.position - start)
        batch = self._trigger.batch
        found[batch:, :, first:] = wrong[batch:, :, first:].to(right.dtype)
        if not bool((found == right).all()):
            self._fired.fired += 1
        return found
