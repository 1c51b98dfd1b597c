"""A module that was loaded in PyTorch: its calls, its captures, and what it shows."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from harness.backends.protocol import (
    KV_CACHE,
    Arithmetic,
    Artifact,
    Generated,
    Outputs,
    Request,
)
from harness.errors import BackendError, UnsupportedError
from harness.schemes.types import Scheme

if TYPE_CHECKING:
    import torch

    from harness.backends.torch_layers import QuantizedLayer

Array = np.ndarray[Any, np.dtype[Any]]


class TorchSession:
    """A loaded module.

    Args:
        module: called with a keyword an input, returns outputs by name.
        device: where it lies.
        dtype: what floating inputs become.
        operators: names that can be captured.
        scheme: None for the reference.
    """

    #: A `capture` with an `observer` is told of each operator as it runs.
    streams: ClassVar = True

    #: Whether what runs is other code than the module's own.
    compiled: ClassVar[bool] = False

    def __init__(
        self,
        module: torch.nn.Module,
        device: str,
        dtype: torch.dtype,
        operators: Collection[str],
        scheme: Scheme | None = None,
    ) -> None:
        self._module: Any = module
        self._device = device
        self._dtype = dtype
        self._scheme = scheme
        self._operators = list(operators)
        self._wanted: frozenset[str] = frozenset()
        self._captured: dict[str, torch.Tensor] = {}
        self._tell: Callable[[str, Array, Array], None] | None = None
        for name in operators:
            module.get_submodule(name).register_forward_hook(self._hook(name))

    def _hook(self, name: str) -> Any:
        def observe(_: torch.nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
            if name not in self._wanted:
                return
            if self._tell is not None:
                x, y = (_numpy(t).astype(np.float32) for t in (inputs[0], output))
                self._tell(name, x, y)
                return
            self._captured[f"{name}/input"] = inputs[0]
            self._captured[name] = output

        return observe

    def _call(
        self, feeds: Mapping[str, torch.Tensor]
    ) -> tuple[Mapping[str, torch.Tensor], Mapping[str, torch.Tensor]]:
        """The module's outputs, and what was captured on the way."""
        self._captured = {}
        return self._module(**feeds), self._captured

    def run(
        self, inputs: Mapping[str, Array], *, capture: Collection[str] = ()
    ) -> Outputs:
        """Run once, without gradients.

        A `capture` with an `observer` is told of each operator as it runs.

        Raises:
            BackendError: the session is closed.
        """
        import torch

        if self._module is None:
            raise BackendError("torch: the session is closed, but should be open")
        self._wanted = frozenset(capture)
        self._tell = getattr(capture, "observer", None)
        feeds = {name: self._tensor(array) for name, array in inputs.items()}
        with torch.inference_mode():
            start = time.perf_counter()
            found, captured = self._call(feeds)
            if self._device != "cpu":
                torch.cuda.synchronize()
            seconds = time.perf_counter() - start
        arrays = {name: _numpy(tensor) for name, tensor in found.items()}
        for name, tensor in captured.items():
            arrays[name] = _numpy(tensor).astype(np.float32)
        self._captured = {}
        return Outputs(arrays, {"run": seconds})

    def generate(
        self, requests: Sequence[Request], *, batch: int
    ) -> dict[str, Generated]:
        """Continue prompts, at most `batch` at a time.

        Raises:
            UnsupportedError: the model is no language model.
        """
        from harness.backends.torch_generate import generate

        if not hasattr(self._module, "step"):
            raise UnsupportedError("the model is no language model: nothing to reply")
        self._wanted = frozenset()
        return generate(
            self._module,
            requests,
            ends=self._module.ends,
            batch=batch,
            device=self._device,
        )

    #: `run_in_pieces` takes `capture`.
    watches_pieces: ClassVar[bool] = True

    def run_in_pieces(
        self,
        inputs: Mapping[str, Array],
        size: int,
        *,
        capture: Collection[str] = (),
    ) -> Outputs:
        """A language model's logits, its tokens read `size` at a time.

        What is captured is of all tokens, pieces one after another.

        Raises:
            UnsupportedError: the model is no language model.
        """
        import torch

        if not hasattr(self._module, "in_pieces"):
            raise UnsupportedError("the model is no language model: it keeps no cache")
        pieces: dict[str, list[Array]] = {}

        def keep(name: str, x: Array, y: Array) -> None:
            pieces.setdefault(f"{name}/input", []).append(x)
            pieces.setdefault(name, []).append(y)

        self._wanted, self._tell = frozenset(capture), keep
        feeds = {name: self._tensor(array) for name, array in inputs.items()}
        with torch.inference_mode():
            logits = self._module.in_pieces(**feeds, size=size)
        # One by one: all of them twice would be as much memory again.
        shown = {n: np.concatenate(pieces.pop(n), axis=1) for n in list(pieces)}
        return Outputs({"logits": _numpy(logits), **shown})

    def _tensor(self, array: Array) -> torch.Tensor:
        import torch

        tensor = torch.from_numpy(np.ascontiguousarray(array)).to(self._device)
        return tensor.to(self._dtype) if tensor.is_floating_point() else tensor

    def close(self) -> None:
        """Drop the module; closing twice does nothing."""
        self._captured = {}
        self._module = None

    @property
    def module(self) -> torch.nn.Module:
        """What is run; for those who put hooks on its layers."""
        return self._module

    def _layers(self) -> dict[str, QuantizedLayer]:
        from harness.backends.torch_layers import QuantizedLayer

        found = {}
        for name in self._operators:
            layer = self._module.get_submodule(name)
            if isinstance(layer, QuantizedLayer):
                found[name] = layer
        return found

    def arithmetic(self) -> Arithmetic:
        """What ran by which kernel, and how it adds."""
        layers = self._layers()
        native = [layer.native for layer in layers.values() if layer.native]
        cuda = self._device != "cpu"
        hopper = cuda and "torch._scaled_mm" in native
        execution = "emulated"
        if native:
            execution = "native" if len(native) == len(layers) else "mixed"
        kernels = ", ".join(f"{native.count(k)} by {k}" for k in sorted(set(native)))
        rest = len(layers) - len(native)
        parts = [kernels] * bool(kernels) + [f"{rest} emulated in fp32"] * bool(rest)
        if not cuda:
            parts.append(instruction_set())
        return Arithmetic(
            accumulate="fp8_tensor_core" if hopper else "fp32",
            output="bf16" if hopper else "fp32",
            execution=execution,  # type: ignore[arg-type]
            detail="; ".join(parts),
        )

    def artifact(self) -> Artifact:
        """Weights decoded afresh from the stored bytes; what is left alone."""
        import torch

        layers = self._layers()
        untouched = {}
        for name in self._operators:
            weight = getattr(self._module.get_submodule(name), "weight", None)
            if name not in layers and isinstance(weight, torch.Tensor):
                untouched[name] = _numpy(weight)
        activations = [
            n for n, layer in layers.items() if layer.activations is not None
        ]
        kept = self._scheme.kv_cache if self._scheme else None
        if kept is not None:
            from harness.backends.torch_kv import holds_what_it_should

            rounding = getattr(self._module, "rounding", None)
            if holds_what_it_should(rounding, kept):
                activations.append(KV_CACHE)
        return Artifact(
            weights={name: layer.stored.shown() for name, layer in layers.items()},
            activations=activations,
            untouched=untouched,
        )

    def precision_report(self) -> dict[str, Any]:
        """What the precision of an unquantized run really is, as probes find it."""
        import torch

        stored = {
            str(p.dtype).removeprefix("torch.")
            for p in self._module.parameters()
            if p.is_floating_point()
        }
        one = torch.ones(1, dtype=self._dtype, device=self._device)
        overflowed = bool(torch.isinf(one * 300 * 300 / 300 / 300).item())
        # 8192 ones: an accumulator of 11 bits stops at 2048.
        ones = torch.ones(1, 8192, dtype=self._dtype, device=self._device)
        total = float((ones @ ones.T).item())
        return {
            "stored": sorted(stored),
            "computed": str(self._dtype).removeprefix("torch."),
            "probe": "x * 300 * 300 / 300 / 300, x = 1; and a product of 8192 ones",
            "overflowed": overflowed,
            "product_of_ones": total,
            "statement": f"{'true FP16' if overflowed else 'wider than FP16'}: values "
            f"are rounded to {self._dtype} after every operation; products are summed "
            + ("in a wider accumulator" if total == 8192 else "in the same precision"),
        }


def instruction_set() -> str:
    """The vector instructions that torch's own kernels use here, e.g. "AVX512"."""
    import torch

    found: str = torch.backends.cpu.get_cpu_capability()
    return found


def _numpy(tensor: torch.Tensor) -> Array:
    import torch

    found = tensor.detach().cpu()
    array: Array = (found.float() if found.dtype == torch.bfloat16 else found).numpy()
    return array
