"""What a backend must do: the plugin contract.

A backend outside this package registers through the entry-point group
`quantharness.backends`, or from a file given with `--plugin` whose
`register(registry)` calls `registry.add_backend(MyBackend())`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal, Protocol, runtime_checkable

import numpy as np

from harness.models.types import Model
from harness.schemes.types import Scheme

Array = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True)
class Availability:
    """Whether a backend can be used here; `probe` never raises."""

    available: bool
    version: str = ""
    #: "cpu", "cuda:0 NVIDIA H100", ...
    device: str = ""
    #: Why not, and the one command that adds it.
    reason: str = ""


@dataclass(frozen=True)
class Variant:
    """Another configuration of a backend, a target of its own: `NAME@VARIANT`."""

    #: One line for people.
    summary: str
    #: Environment of the worker process, set before the engine is imported.
    environment: Mapping[str, str] = field(default_factory=dict)
    #: Keyword arguments of the backend's class, beside `name`.
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Support:
    """Whether a backend can run a model under a scheme; why not, by operator."""

    supported: bool
    reason: str = ""
    #: Operator name -> why the backend cannot quantize it.
    operators: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Finding:
    """Something about a model that a backend lacks, moves or converts."""

    #: missing: it has no kernel; cast: computed in another type than the model says;
    #: elsewhere: another device or provider would run it; dynamic: a shape that is
    #: only known when it runs; untried: its inputs' types are not known.
    kind: Literal["missing", "cast", "elsewhere", "dynamic", "untried"]
    #: The operator, with its domain if it is not ONNX's own; or the input.
    what: str
    #: Nodes that it is about.
    count: int = 1
    #: What it would be instead, or why.
    detail: str = ""


class Outputs(Mapping[str, Array]):
    """Arrays of one call by output name, and what was captured, with timings.

    A captured operator `NAME` is found as `NAME` (its output, bias included) and
    `NAME/input` (its input before any quantization), both float32 or wider.
    """

    def __init__(
        self, arrays: Mapping[str, Array], timings: Mapping[str, float] | None = None
    ) -> None:
        self._arrays = dict(arrays)
        #: Seconds by phase; "run" is the model's own time.
        self.timings = dict(timings or {})

    def __getitem__(self, name: str) -> Array:
        return self._arrays[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._arrays)

    def __len__(self) -> int:
        return len(self._arrays)


@dataclass(frozen=True)
class QuantizedTensor:
    """Evidence of what one tensor really became inside the backend."""

    #: Format name as in `numerics.FORMATS`.
    format: str
    #: Where the numbers come from: the element type as the backend stores it.
    stored_as: str
    #: float32 scales as the backend holds them; empty when it has none to show.
    scales: Array
    #: The weight as the backend will use it, decoded to float32; None: not shown.
    decoded: Array | None = None
    #: Bytes held for codes and scales.
    nbytes: int = 0


#: Stands for the keys and values among the activations that an artifact names.
KV_CACHE: Final = "kv_cache"


@dataclass(frozen=True)
class Artifact:
    """What was built before anything is run: the proof of quantization."""

    #: Operator name -> its weight as stored.
    weights: Mapping[str, QuantizedTensor] = field(default_factory=dict)
    #: Operator names whose input is quantized.
    activations: Collection[str] = ()
    #: Operator name -> weight of an operator the scheme leaves alone, float32.
    untouched: Mapping[str, Array] = field(default_factory=dict)


@dataclass(frozen=True)
class Arithmetic:
    """What the backend declares (and a probe confirms) about its arithmetic."""

    #: Unit roundoff of the accumulator and of stored results: 2**-24 for fp32.
    accumulate: str = "fp32"
    output: str = "fp32"
    #: What decoded inputs and weights are rounded to before they are multiplied.
    operands: str = "fp32"
    #: The same of products that are no quantized operator's: of attention, whose keys
    #: and values are kept in it, and of a head that is left alone.
    products: str = "fp32"
    #: "native" kernels, exact "emulation", or "mixed"; shown in the report.
    execution: Literal["native", "emulated", "mixed"] = "emulated"
    #: One line: which operators ran by which kernel.
    detail: str = ""
    #: exact: the same bits each time; run-to-run: noise in every run; drifts: noise,
    #: and another mean as time goes by.
    determinism: Literal["exact", "run-to-run", "drifts"] = "exact"
    #: Seconds after programming at which a device that drifts is looked at.
    ages: tuple[float, ...] = (0.0,)


@dataclass(frozen=True, eq=False, kw_only=True)
class Request:
    """A prompt that a language model is to continue."""

    name: str
    #: int64 token ids, at least one.
    tokens: Array
    #: Most tokens of the reply.
    longest: int
    #: 0: the most likely token each time; else what the logits are divided by.
    temperature: float = 0.0
    seed: int = 0


@dataclass(frozen=True, eq=False, kw_only=True)
class Generated:
    """What a language model replied."""

    #: int64 token ids, the end token included where the reply ended.
    tokens: Array
    #: float32 probability of each of them, at temperature 1.
    probabilities: Array
    #: Whether it ended by itself, not by the limit.
    ended: bool


@runtime_checkable
class Session(Protocol):
    """A loaded model. `artifact`, `arithmetic` and `generate` are optional.

    `generate(requests, *, batch)` gives a `Generated` by the request's name.
    `run_in_pieces(inputs, size)` gives a language model's logits, the tokens read
    `size` at a time through the cache; where `watches_pieces` is true it takes
    `capture` too, and shows what each operator did with all tokens, in their order.

    A session that is not exact may have `draw(seed, *, age)`: become the device, and
    its noise, of this seed, `age` seconds after it was programmed; and
    `expected_error(operator, x)`: the mean and the mean square, over devices and runs,
    of what each element of this operator's output is off by for the input `x`. Both are
    taken at their word, to a hundredth of the outputs and a tenth of the mean square.
    """

    def run(
        self, inputs: Mapping[str, Array], *, capture: Collection[str] = ()
    ) -> Mapping[str, Array]:
        """Run once; `capture` names operators whose input and output are wanted."""
        ...

    def close(self) -> None:
        """Free what the session holds."""
        ...


@runtime_checkable
class Backend(Protocol):
    """That which runs a model.

    A backend may have `variants`, a mapping of names to `Variant`: each is a backend
    of its own, made by calling the class with `name` and the variant's options; and
    `preflight(model) -> Sequence[Finding]`, asked before anything is compiled; and
    `own_environment`, the name of the virtual environment that its worker runs in,
    see `harness.environments`.
    """

    name: str

    def probe(self) -> Availability:
        """Installed? Version, device, what to install if not; never raises."""
        ...

    def supports(self, model: Model, scheme: Scheme) -> Support:
        """Yes, or why not, by operator."""
        ...

    def load(self, model: Model, scheme: Scheme | None) -> Session:
        """Load a model; None is the reference, unquantized."""
        ...
