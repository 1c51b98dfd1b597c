r"""The oracle of what lies between operators: norms, attention, sums, activations.

A quantized operator is judged on its own observed input. What leads from one
operator's output to the next one's input is judged here: the model is run with every
quantized operator's output *given*, as the target showed it, and what then arrives at
each operator is held against what the target showed there. No quantization error is
amplified on the way, because every operator starts anew from what was observed.

**What a faithful backend may differ by** is found by Monte Carlo arithmetic (Parker
1997): the same run with every intermediate result multiplied by 1 + e z, z uniform in
[-1, 1]. So the cancellation in a norm, and the sensitivity of a softmax, are in it. For
e stands what a backend may do in one step and still be right: 16 units in the last
place of float32, the largest error that the OpenCL C specification (section 7.4, full
profile) allows of the single-precision functions that models are made of (exp, log,
tanh, rsqrt, erf), and the unit roundoff of the narrower type that a backend declares.
Queries and probabilities, and the input of a head that is left alone, may be rounded
once more, to the type that a backend declares of such products; keys and values, which
are kept in it, are.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from harness.models.types import Model
from harness.schemes.oracle import UNIT_ROUNDOFF

if TYPE_CHECKING:
    import torch

Array = np.ndarray[Any, np.dtype[Any]]

#: Units in the last place of float32 that a step may be off by.
STEP_ULPS: Final = 16


def step_error(operands: str, output: str) -> float:
    """Largest relative error of one step of a backend that declares these types."""
    declared = max(UNIT_ROUNDOFF[operands], UNIT_ROUNDOFF[output])
    return STEP_ULPS * UNIT_ROUNDOFF["fp32"] + declared


def product_error(products: str) -> float:
    """Largest relative error of what is multiplied in a product between operators.

    The unit roundoff: types are converted to the nearest. A narrow range adds nothing
    worth counting, although attention's small probabilities are subnormal in FP16: what
    they weigh is as small.
    """
    return UNIT_ROUNDOFF[products]


class CalledTwiceError(Exception):
    """An operator is called more than once: which output was observed is unknown."""


class GivenOutputs:
    """A model in float64 whose operators' outputs are given instead of computed.

    Args:
        model: what is under test.
        names: operators whose outputs will be given.
        rounding: what keys and values become in a language model's cache; None: they
            are left alone.
    """

    def __init__(
        self,
        model: Model,
        names: Collection[str],
        rounding: Callable[[torch.Tensor], torch.Tensor] | None = None,
    ) -> None:
        import torch

        module = model.module().eval()
        for name in names:
            layer = module.get_submodule(name)
            # Never multiplied with: float64 would be twice the memory for nothing.
            layer.weight = torch.nn.Parameter(torch.empty(0), requires_grad=False)
            layer.forward = self._given(name)
        self._module: Any = module.double()
        if rounding is not None:
            self._module.rounding = rounding
        self._outputs: Mapping[str, Array] = {}
        self._perturb: Callable[[torch.Tensor], torch.Tensor] = _tensor_itself
        self._inputs: dict[str, torch.Tensor] = {}

    def _given(self, name: str) -> Callable[[torch.Tensor], torch.Tensor]:
        def forward(x: torch.Tensor) -> torch.Tensor:
            if name in self._inputs:
                raise CalledTwiceError(name)
            self._inputs[name] = x
            # Not sooner: all of them in float64 would be as much again.
            return self._perturb(_tensor(self._outputs[name]))

        return forward

    def run(
        self,
        inputs: Mapping[str, Array],
        outputs: Mapping[str, Array],
        *,
        step: float = 0.0,
        products: float = 0.0,
        seed: int = 0,
    ) -> tuple[dict[str, Array], dict[str, Array]]:
        """What arrives at every operator, in order of execution, and at the outputs.

        Args:
            inputs: the model's.
            outputs: of every operator, as observed.
            step: largest relative error of each step; 0: none.
            products: of what is multiplied in a sum of products, where that is more.
            seed: of the errors.

        Raises:
            CalledTwiceError: an operator runs more than once.
        """
        import torch
        from torch.nn.attention import SDPBackend, sdpa_kernel

        from harness.schemes.stochastic import Perturbed

        self._inputs = {}
        errors = Perturbed(step, seed, products=products)
        with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), errors as e:
            self._outputs, self._perturb = outputs, e.perturb
            found = self._module(**{n: _tensor(a) for n, a in inputs.items()})
        arrived = {name: x.numpy() for name, x in self._inputs.items()}
        self._inputs, self._outputs = {}, {}
        return arrived, {name: tensor.numpy() for name, tensor in found.items()}


def _tensor_itself(tensor: torch.Tensor) -> torch.Tensor:
    return tensor


def _tensor(array: Array) -> torch.Tensor:
    import torch

    tensor = torch.from_numpy(np.ascontiguousarray(array))
    return tensor.double() if tensor.is_floating_point() else tensor
