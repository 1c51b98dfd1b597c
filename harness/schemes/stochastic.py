"""Monte Carlo arithmetic: every result of torch is off by a random relative error.

Long sums are off by more than one step of them: numbers that are small beside what was
added before lose their last bits, and all in the same direction. How much that is hangs
on the numbers, so it is computed: each sum is also made in float32, one number after
another, which is the plainest order that a backend may choose and the worst usual one.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import torch
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes

#: Functions with values in [-1, 1] that engines approximate to an absolute error.
_BOUNDED: Final = frozenset(
    {
        torch.ops.aten.sigmoid.default,
        torch.ops.aten.tanh.default,
        torch.ops.aten.erf.default,
    }
)
#: Sums of products, and which argument the model's data is: its errors reach sums that
#: cancel, which an error of the sum itself does not.
_PRODUCTS: Final = {
    torch.ops.aten.mm.default: 0,
    torch.ops.aten.bmm.default: 0,
    torch.ops.aten.addmm.default: 1,
    torch.ops.aten.baddbmm.default: 1,
    torch.ops.aten.convolution.default: 0,
}
_SOFTMAX: Final = torch.ops.aten._softmax.default  # noqa: SLF001 - its name there
_LOG_SOFTMAX: Final = torch.ops.aten._log_softmax.default  # noqa: SLF001
_SUM: Final = torch.ops.aten.sum.dim_IntList
_MEAN: Final = torch.ops.aten.mean.dim
#: Random numbers that are drawn once; a result takes its share from anywhere in them.
_DRAWN: Final = 1 << 18


class Perturbed(TorchDispatchMode):  # type: ignore[misc]
    """While it is entered, floating results are multiplied by 1 + step * z.

    z is uniform in [-1, 1], another for every element of every result. To what erf,
    sigmoid and tanh give, step * z is added; the data in sums of products is perturbed
    as well as the sums. Views, and results that are written in place, are left as they
    are.

    Args:
        step: 0: nothing is changed.
        seed: of z.
        products: the same of the data in sums of products, where it is more.
    """

    def __init__(self, step: float, seed: int, *, products: float = 0.0) -> None:
        super().__init__()
        self._step = step
        self._more = max(1.0, products / step) if step else 1.0
        self._generator = torch.Generator().manual_seed(seed)
        z = torch.rand(_DRAWN, generator=self._generator, dtype=torch.float64)
        # Twice, so that a share that reaches the end goes on from the beginning.
        self._errors = (step * (2 * z - 1)).repeat(2)
        self._factors = 1 + self._errors

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        """Call `func`, then perturb what it gave."""
        if not self._step:
            return func(*args, **(kwargs or {}))
        data = _PRODUCTS.get(func)
        if data is not None:
            # One product is no sum of them: angles of a rotary embedding are such.
            more = self._more if args[data].shape[-1] > 1 else 1.0
            wrong = self.perturb(args[data], times=more)
            args = (*args[:data], wrong, *args[data + 1 :])
        found = _in_order(func, args, func(*args, **(kwargs or {})))
        schema = func._schema  # noqa: SLF001 - torch has no public way to ask
        if any(entry.alias_info for entry in schema.returns):
            return found
        if isinstance(found, tuple):
            return tuple(map(self.perturb, found))
        return self.perturb(found, absolute=func in _BOUNDED)

    def perturb(
        self, tensor: Any, *, absolute: bool = False, times: float = 1.0
    ) -> Any:
        """The tensor with its errors, `times` as large; anything else as it is."""
        if not self._step or not isinstance(tensor, torch.Tensor):
            return tensor
        if not tensor.is_floating_point():
            return tensor
        with _disable_current_modes():
            # Not x + x * e: infinity, as masks have it, would become NaN.
            if not absolute and times == 1.0:
                return tensor * self._share(self._factors, tensor)
            errors = self._share(self._errors, tensor) * times
            return tensor + errors if absolute else tensor * (1 + errors)

    def _share(self, drawn: torch.Tensor, tensor: torch.Tensor) -> torch.Tensor:
        """Of the tensor's shape, from a random place on; over and over if too few."""
        count = tensor.numel()
        start = int(torch.randint(_DRAWN, (1,), generator=self._generator))
        share = drawn[start : start + min(count, _DRAWN)]
        if count > _DRAWN:
            share = share.repeat(-(-count // _DRAWN))[:count]
        return share.reshape(tensor.shape).to(tensor.dtype)


def _in_order(func: Any, args: Any, found: Any) -> Any:
    """The result of a sum with the error of one in float32, number after number."""
    if func in {_SOFTMAX, _LOG_SOFTMAX}:
        with _disable_current_modes():
            x, axis = args[0], args[1]
            powers = (x - x.amax(axis, keepdim=True)).exp()
            off = _off(powers, (axis,)) / powers.sum(axis, keepdim=True)
            return found / (1 + off) if func is _SOFTMAX else found - off.log1p()
    if func in {_SUM, _MEAN} and args[0].is_floating_point() and args[1]:
        with _disable_current_modes():
            axes = tuple(args[1])
            off = _off(args[0], axes)
            if func is _MEAN:
                off = off * (off.numel() / max(1, args[0].numel()))
            return found + off.reshape(found.shape)
    return found


def _off(x: torch.Tensor, axes: tuple[int, ...]) -> torch.Tensor:
    """Sum in float32 minus the sum, along axes that are kept."""
    exact = x.sum(axes, keepdim=True)
    last = x.movedim(axes, tuple(range(-len(axes), 0))).flatten(-len(axes))
    if last.shape[-1] == 0:
        return torch.zeros_like(exact)
    running = np.add.accumulate(last.float().numpy(), axis=-1)
    ordered = torch.from_numpy(running[..., -1].astype(np.float64))
    off = ordered.reshape(exact.shape).to(exact.dtype) - exact
    # A sum that is no number stays what it is.
    return off.nan_to_num(0.0, 0.0, 0.0)
