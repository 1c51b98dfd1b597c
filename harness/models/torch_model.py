"""A `torch.nn.Module` as a model: from a factory, a folder or the zoo."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from harness.errors import CasesError, ModelError, UnsupportedError
from harness.models.digest import content_digest
from harness.models.types import Model, Operator, TensorSpec

if TYPE_CHECKING:
    import onnx
    import torch

Array = np.ndarray[Any, np.dtype[Any]]
Prepare = Callable[[Mapping[str, Any], str], Mapping[str, Array]]


class TorchModel(Model):
    """A module that a function builds; built when it is first needed.

    Args:
        name: short name.
        build: returns a fresh module in eval mode.
        inputs: names, dtypes and shapes; None: the parameters of `forward`.
        outputs: names and kinds; None: taken from a run on the example.
        example: example inputs by name, for the export to ONNX.
        fingerprint: known without building; None: digest of the state dict.
        prepare: reads a record of the cases; None: literal inputs only.
        metadata: what behaviours may need.
        sources: the files whose code the module runs; None: found from its classes.
    """

    source: Literal["torch", "onnx"] = "torch"

    def __init__(
        self,
        name: str,
        build: Callable[[], torch.nn.Module],
        *,
        inputs: tuple[TensorSpec, ...] | None = None,
        outputs: tuple[TensorSpec, ...] | None = None,
        example: Mapping[str, Array] | None = None,
        fingerprint: Callable[[], str] | None = None,
        prepare: Prepare | None = None,
        metadata: Mapping[str, Any] | None = None,
        sources: tuple[Path, ...] | None = None,
    ) -> None:
        self.name = name
        self.build = build
        self._given_inputs = inputs
        self._given_outputs = outputs
        self.example = example
        self._fingerprint = fingerprint
        self._prepare = prepare
        self._sources = sources
        self._proto: onnx.ModelProto | None = None
        self.state = {}
        self.step_inputs = ()
        self.batch_axes = {}
        self.metadata = dict(metadata or {})

    @cached_property
    def _module(self) -> torch.nn.Module:
        return self.build().eval().requires_grad_(requires_grad=False).float()

    @cached_property
    def inputs(self) -> tuple[TensorSpec, ...]:  # type: ignore[override]
        """As given, or the parameters of the module's `forward`."""
        if self._given_inputs is not None:
            return self._given_inputs
        if self.example is not None:
            return tuple(
                TensorSpec(name, a.dtype.name, (None,) * a.ndim)
                for name, a in self.example.items()
            )
        parameters = inspect.signature(self._module.forward).parameters.values()
        plain = (
            inspect.Parameter.POSITIONAL_OR_KEYWORD,
            inspect.Parameter.KEYWORD_ONLY,
        )
        return tuple(
            TensorSpec(entry.name, "", ())
            for entry in parameters
            if entry.kind in plain and entry.default is inspect.Parameter.empty
        )

    @cached_property
    def outputs(self) -> tuple[TensorSpec, ...]:  # type: ignore[override]
        """As given, or what a run on the example gives."""
        if self._given_outputs is not None:
            return self._given_outputs
        if self.example is None:
            return ()
        import torch

        with torch.inference_mode():
            found = self.module()(**self._example_tensors())
        return tuple(
            TensorSpec(name, str(t.dtype).removeprefix("torch."), (None,) * t.ndim)
            for name, t in found.items()
        )

    @cached_property
    def fingerprint(self) -> str:
        """Digest of the state dict and the module's structure."""
        if self._fingerprint is not None:
            return self._fingerprint()
        state = {
            name: tensor.detach().cpu().float().numpy()
            if tensor.is_floating_point()
            else tensor.detach().cpu().numpy()
            for name, tensor in self._module.state_dict().items()
        }
        return content_digest(state, extra=str(self._module))

    def sources(self) -> set[Path]:
        """Files whose change makes a kept export worthless: the user's own code.

        Those of the module's classes, and what lies beside them; not installed
        packages, whose versions count instead.
        """
        if self._sources is not None:
            return set(self._sources)
        names = {type(layer).__module__ for layer in self._module.modules()}
        files = {
            Path(file)
            for name in names | {getattr(self.build, "__module__", "")}
            if (file := getattr(sys.modules.get(name), "__file__", None))
        }
        own = {file.parent for file in files if "site-packages" not in file.parts}
        return {beside for folder in own for beside in folder.glob("*.py")}

    def operators(self) -> tuple[Operator, ...]:
        """Every `Linear`, `Conv1d` and `Conv2d` that a run enters, in that order."""
        if "_module" not in self.__dict__ and self.example is not None:
            from harness.models.export import cached_export, operators_of_export

            # Another backend's process need not import torch to know the layers.
            self._proto = self._proto or cached_export(self)
            known = self._proto and operators_of_export(self._proto)
            if known is not None:
                return known
        import torch

        found = []
        for name in self._executed:
            layer = self._module.get_submodule(name)
            if isinstance(layer, torch.nn.Linear):
                found.append(
                    Operator(
                        name=name,
                        kind="linear",
                        weight=layer.weight.detach().numpy(),
                        bias=None
                        if layer.bias is None
                        else layer.bias.detach().numpy(),
                    )
                )
            elif isinstance(layer, torch.nn.Conv1d | torch.nn.Conv2d):
                operator = _conv(name, layer)
                if operator is not None:
                    found.append(operator)
        return tuple(found)

    @cached_property
    def _executed(self) -> tuple[str, ...]:
        """Layers in the order in which a run on the example enters them.

        Without an example: all, in the order of the module.
        """
        import torch

        names = {layer: name for name, layer in self._module.named_modules() if name}
        if self.example is None:
            return tuple(names.values())
        entered: dict[str, None] = {}
        hooks = [
            layer.register_forward_pre_hook(
                lambda layer, _: entered.setdefault(names[layer])
            )
            for layer in names
        ]
        try:
            with torch.inference_mode():
                self._module(**self._example_tensors())
        finally:
            for hook in hooks:
                hook.remove()
        return tuple(entered)

    def _example_tensors(self) -> dict[str, torch.Tensor]:
        import torch

        assert self.example is not None  # sanity check
        arrays = {name: np.array(array) for name, array in self.example.items()}
        return {name: torch.from_numpy(array) for name, array in arrays.items()}

    def module(self) -> torch.nn.Module:
        """A fresh copy that returns its outputs by name."""
        import copy

        module = copy.deepcopy(self._module)
        names = tuple(spec.name for spec in self._given_outputs or ())

        class Named(type(module)):  # type: ignore[misc]  # its class is known only here
            """The user's module, with outputs by name."""

            def forward(self, **inputs: torch.Tensor) -> dict[str, Any]:
                """Outputs by name."""
                return name_outputs(super().forward(**inputs), names)

        # A wrapper would change the layers' paths, and a function put on the instance
        # would still run this module in a copy of it.
        module.__class__ = Named
        return module

    def onnx(self) -> onnx.ModelProto:
        """The module exported to ONNX, from the cache if it was before.

        Raises:
            UnsupportedError: no example inputs, or the exporter refuses the module.
        """
        from harness.models.export import export

        if self.example is None:
            raise UnsupportedError(
                f"{self.name} cannot be exported to ONNX without example inputs: let "
                "the factory return (module, {input name: numpy array})"
            )
        self._proto = self._proto or export(self)
        copy = type(self._proto)()
        copy.CopyFrom(self._proto)
        return copy

    def prepare(self, record: Mapping[str, Any], folder: str) -> Mapping[str, Array]:
        """Tensors of a record, by the function given.

        Raises:
            CasesError: there is none, so only literal inputs are read.
        """
        if self._prepare is None:
            raise CasesError(
                f'has keys {sorted(record)}, but should have "inputs": '
                "{name: numbers}"
            )
        return self._prepare(record, folder)


def _conv(name: str, layer: torch.nn.Conv1d | torch.nn.Conv2d) -> Operator | None:
    """The operator; None when it pads with something else than zeros."""
    if layer.padding_mode != "zeros" or isinstance(layer.padding, str):
        return None
    return Operator(
        name=name,
        kind="conv",
        weight=layer.weight.detach().numpy(),
        bias=None if layer.bias is None else layer.bias.detach().numpy(),
        stride=tuple(layer.stride),
        padding=tuple((entry, entry) for entry in layer.padding),
        dilation=tuple(layer.dilation),
        groups=layer.groups,
    )


def name_outputs(result: Any, names: tuple[str, ...]) -> dict[str, Any]:
    """Outputs by name: a mapping's own, or the given ones, or output_0, output_1.

    Raises:
        ModelError: another number of outputs than names.
    """
    if hasattr(result, "items"):
        found = {key: value for key, value in result.items() if value is not None}
        return {name: found[name] for name in names} if names else dict(found)
    values = tuple(result) if isinstance(result, tuple | list) else (result,)
    chosen = names or tuple(f"output_{index}" for index in range(len(values)))
    if len(chosen) != len(values):
        raise ModelError(
            f"the module returns {len(values)} outputs, but {len(chosen)} are named"
        )
    return dict(zip(chosen, values, strict=True))
