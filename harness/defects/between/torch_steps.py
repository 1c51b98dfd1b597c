"""Planting between the layers of a module that torch runs eagerly."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any, Final

import torch
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes

from harness.defects.between.catalogue import Edit, Step, split_factor
from harness.defects.language.model import Fired

_aten = torch.ops.aten
#: What a step is in torch, once everything composite has been taken apart.
_STEPS: Final[dict[Any, Step]] = {
    _aten.native_layer_norm: "norm",
    _aten.sqrt: "norm",
    _aten.rsqrt: "norm",
    _aten._softmax: "softmax",  # noqa: SLF001 - how torch names its operators
    _aten._safe_softmax: "softmax",  # noqa: SLF001
    _aten._scaled_dot_product_flash_attention_for_cpu: "softmax",  # noqa: SLF001
    _aten.add: "sum",
    **dict.fromkeys(
        (
            _aten.relu,
            _aten.gelu,
            _aten.sigmoid,
            _aten.silu,
            _aten.tanh,
            _aten.erf,
            _aten.hardswish,
            _aten.hardsigmoid,
            _aten.leaky_relu,
        ),
        "activation",
    ),
}
_FUSED: Final = _aten._scaled_dot_product_flash_attention_for_cpu  # noqa: SLF001
#: Where native_layer_norm takes its epsilon.
_EPSILON: Final = 4


class Planted(TorchDispatchMode):  # type: ignore[misc]
    """While a module runs, its steps are edited; inside its operators nothing is.

    Args:
        edit: what is done.
    """

    def __init__(self, edit: Edit) -> None:
        super().__init__()
        self.fired = Fired()
        self._edit = edit
        #: Quantized operators that are running now: their own sums are not ours.
        self._inside = 0

    def put_in(self, module: Any, operators: Collection[str]) -> None:
        """Hook on to a module, around its operators."""
        for name in operators:
            layer = module.get_submodule(name)
            layer.register_forward_pre_hook(self._step_in(1))
            layer.register_forward_hook(self._step_in(-1), always_call=True)

        def start(*_: Any) -> None:
            self.__enter__()

        def end(*_: Any) -> None:
            self.__exit__(None, None, None)

        # A language model's own module has other entries than `forward`.
        entered = module.model if hasattr(module, "new_cache") else module
        entered.register_forward_pre_hook(start)
        entered.register_forward_hook(end, always_call=True)

    def _step_in(self, by: int) -> Callable[..., None]:
        def count(*_: Any) -> None:
            self._inside += by

        return count

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        """Call `func` with the edit before or behind it."""
        kwargs = kwargs or {}
        step = _STEPS.get(func.overloadpacket)
        if step is None and not self._inside:
            with self:
                found = func.decompose(*args, **kwargs)
            if found is not NotImplemented:
                return found
        if step not in self._edit.steps or self._inside:
            return func(*args, **kwargs)
        if step == "sum" and not _two_branches(args):
            return func(*args, **kwargs)
        if not args[0].is_floating_point():
            return func(*args, **kwargs)
        self.fired.fired += 1
        if self._edit.at == "output":
            found = func(*args, **kwargs)
            if isinstance(found, tuple):
                return (self._changed(found[0]), *found[1:])
            return self._changed(found)
        changed = list(args)
        if func.overloadpacket is _FUSED:
            # Fused with what it belongs to: scaling the queries scales the scores.
            changed[0] = self._changed(args[0])
        elif self._edit.at == "epsilon" and func is _aten.native_layer_norm.default:
            changed[_EPSILON] += self._edit.value
        else:
            index = 1 if self._edit.at == "second" else 0
            changed[index] = self._changed(args[index])
        return func(*changed, **kwargs)

    def _changed(self, x: torch.Tensor) -> torch.Tensor:
        with _disable_current_modes():
            if self._edit.how == "scale":
                return x * self._edit.value
            if self._edit.how == "add":
                return x + self._edit.value
            large = x * split_factor(int(self._edit.value))
            return large - (large - x)


def _two_branches(args: Any) -> bool:
    """Whether two tensors of one shape are added, neither of them a parameter."""
    first, second = args[:2]
    return (
        isinstance(second, torch.Tensor)
        and first.shape == second.shape
        and first.ndim > 1
        and not isinstance(first, torch.nn.Parameter)
        and not isinstance(second, torch.nn.Parameter)
    )
