"""What is under test: a model, its operators and its cases.

An *operator* is a layer whose weights a scheme may quantize. Its name is the same
on every backend: the module path of a `torch.nn.Module`, the node name of an ONNX
graph. That is what lets one backend's operator be judged by the oracle and compared
with another backend's.
"""

from __future__ import annotations

import abc
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

if TYPE_CHECKING:
    import onnx
    import torch

Array = np.ndarray[Any, np.dtype[Any]]
OutputKind = Literal["tensor", "embedding", "distribution", "logits"]


@dataclass(frozen=True, eq=False)
class Operator:
    """One layer with weights, in the layout that torch gives it.

    A linear layer computes `x @ weight.T + bias` over the last axis of `x`; a
    convolution is a cross-correlation over the trailing axes of `x` (N, C, ...).
    """

    #: Module path or node name; unique within the model.
    name: str
    kind: Literal["linear", "conv"]
    #: float32 (or the model's own dtype), (out, in) or (out, in / groups, *kernel).
    weight: Array
    #: (out,), or None.
    bias: Array | None = None
    stride: tuple[int, ...] = ()
    #: Begin and end padding of each spatial axis.
    padding: tuple[tuple[int, int], ...] = ()
    dilation: tuple[int, ...] = ()
    groups: int = 1

    @property
    def reduction(self) -> int:
        """K: how many products are summed for one output element."""
        return int(np.prod(self.weight.shape[1:]))


@dataclass(frozen=True)
class TensorSpec:
    """An input or output: name, NumPy dtype name, shape (None: any length)."""

    name: str
    dtype: str
    shape: tuple[int | None, ...]
    #: What an output means, which decides how it is compared and stored.
    kind: OutputKind = "tensor"


@dataclass(frozen=True, eq=False)
class Case:
    """One input to the model, without a batch axis entry of its own left out.

    Arrays keep their batch axis of length 1, so that a case is what a user would
    feed. For a recurrent model the named step inputs have one more leading axis:
    (steps, 1, ...).
    """

    id: str
    inputs: Mapping[str, Array]
    #: What a user would check: e.g. {"text": "Total 12.50"}; read by behaviours.
    expected: Mapping[str, Any] = field(default_factory=dict)
    tags: tuple[str, ...] = ()
    #: Id of the case that this one asks in other words or with noise; "": of none.
    variant_of: str = ""


class Model(abc.ABC):
    """What is under test, however it was given. Nothing heavy happens on creation."""

    #: Short name, for messages.
    name: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    #: Output name -> input name carried from step to step; empty: not recurrent.
    state: Mapping[str, str]
    #: Inputs that have a leading step axis in a case of a recurrent model.
    step_inputs: tuple[str, ...]
    #: Input -> its batch axis, where it is not 0.
    batch_axes: Mapping[str, int]
    #: What behaviours may need: labels, the characters of a recogniser, ...
    metadata: Mapping[str, Any]
    #: "torch" when the user's own code is a module, "onnx" when it is a graph.
    source: Literal["torch", "onnx"]

    @property
    @abc.abstractmethod
    def fingerprint(self) -> str:
        """Canonical digest of weights and structure: `content-v1:<hex>`."""

    @abc.abstractmethod
    def operators(self) -> tuple[Operator, ...]:
        """Every layer with weights, in order of execution, float32."""

    @abc.abstractmethod
    def module(self) -> torch.nn.Module:
        """A fresh float32 module in eval mode.

        Its quantizable layers are `torch.nn.Linear`, `Conv1d`, `Conv2d` whose
        module paths are the operators' names. It is called with one keyword
        argument per input and returns a dict of tensors by output name.
        """

    @abc.abstractmethod
    def onnx(self) -> onnx.ModelProto:
        """A fresh ONNX model whose quantizable nodes carry the operators' names.

        Raises:
            UnsupportedError: the module cannot be exported.
        """

    @abc.abstractmethod
    def prepare(self, record: Mapping[str, Any], folder: str) -> Mapping[str, Array]:
        """Tensors of one line of `cases.jsonl`, e.g. by the model's tokenizer.

        Args:
            record: the line, without id, tags and expected.
            folder: where files named by the record lie.

        Raises:
            CasesError: the record has not what the model needs.
        """


#: A model's cases, in the order of the file.
Cases = Sequence[Case]
