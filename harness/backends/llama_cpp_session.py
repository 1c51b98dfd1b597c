"""A GGUF file that llama.cpp has loaded: logits, replies, captures, and what it is."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, ClassVar, Final

import numpy as np

from harness.backends.llama_cpp_engine import Context, LoadedModel
from harness.backends.llama_cpp_file import (
    Written,
    gguf_kind,
    halves,
    inputs_of,
    read_weights,
)
from harness.backends.llama_cpp_generate import generate
from harness.backends.llama_cpp_handshake import Handshake
from harness.backends.llama_cpp_library import library
from harness.backends.llama_cpp_observe import product
from harness.backends.protocol import (
    Arithmetic,
    Artifact,
    Generated,
    Outputs,
    QuantizedTensor,
    Request,
)
from harness.errors import BackendError
from harness.numerics.layouts.gguf import GGUF_TYPES
from harness.schemes.ggml import ggml_kind
from harness.schemes.types import Scheme

Array = np.ndarray[Any, np.dtype[Any]]

#: A context's length is a multiple of this, so that few are made.
_STEP: Final = 256
#: And its rows of logits of this.
_ROWS: Final = 32


class LlamaCppSession:
    """A loaded GGUF file.

    Args:
        model: loaded.
        written: the file.
        handshake: what was found of it on loading.
        scheme: None for the reference.
        precision: of what is not quantized.
        fused: whether attention is one fused operator; None: llama.cpp decides.
    """

    def __init__(
        self,
        model: LoadedModel,
        written: Written,
        handshake: Handshake,
        *,
        scheme: Scheme | None,
        precision: str,
        fused: bool | None,
    ) -> None:
        self._model = model
        self._written = written
        self._handshake = handshake
        self._scheme = scheme
        self._precision = precision
        self._fused = fused
        self._ours = {theirs: ours for ours, theirs in written.names.items()}
        self._context: Context | None = None
        self._watching: Context | None = None
        self._wanted: frozenset[str] = frozenset()
        self._told: Callable[[str, Array, Array], None] = lambda *_: None

    def run(
        self, inputs: Mapping[str, Array], *, capture: Collection[str] = ()
    ) -> Outputs:
        """Logits at the `positions` of each row; padding is left out.

        A `capture` with an `observer` is told of each operator as it runs.
        """
        return self._run(inputs, capture, size=None)

    #: `run_in_pieces` takes `capture`.
    watches_pieces: ClassVar[bool] = True

    def run_in_pieces(
        self,
        inputs: Mapping[str, Array],
        size: int,
        *,
        capture: Collection[str] = (),
    ) -> Outputs:
        """The same logits, the tokens read `size` at a time through the cache."""
        return self._run(inputs, capture, size=size)

    def _run(
        self, inputs: Mapping[str, Array], capture: Collection[str], size: int | None
    ) -> Outputs:
        rows = [_row(*each) for each in zip(*_arrays(inputs), strict=True)]
        captured: dict[str, list[tuple[Array, Array]]] = {}
        longest = max(len(ids) for ids, _ in rows)
        outputs = sum(len(set(wanted.tolist())) for _, wanted in rows)
        context = self._room(len(rows), longest, outputs, capture)
        self._wanted = frozenset(capture)
        observer = getattr(capture, "observer", None)
        self._told = observer or (
            lambda name, x, y: captured.setdefault(name, []).append((x, y))
        )
        start = time.perf_counter()
        context.clear()
        logits = _decode(context, rows, size)
        seconds = time.perf_counter() - start
        arrays = {"logits": np.stack(logits)}
        for name in list(captured):
            calls = captured.pop(name)
            arrays[f"{name}/input"] = np.concatenate([x for x, _ in calls])
            arrays[name] = np.concatenate([y for _, y in calls])
        return Outputs(arrays, {"run": seconds})

    def generate(
        self, requests: Sequence[Request], *, batch: int
    ) -> dict[str, Generated]:
        """Continue prompts, at most `batch` at a time."""
        return generate(self._room, requests, end=self._model.end, batch=batch)

    def _room(
        self,
        sequences: int,
        length: int,
        outputs: int,
        capture: Collection[str] = (),
    ) -> Context:
        """A context with that much room, the last one where it is enough.

        Raises:
            BackendError: closed, or longer than the model's context.
        """
        if self._model.handle is None:
            raise BackendError("llama.cpp: the session is closed, but should be open")
        if length > self._model.context:
            raise BackendError(
                f"llama.cpp: a prompt and its reply have {length} tokens, but the "
                f"model's context is {self._model.context}"
            )
        have = self._watching if capture else self._context
        if have and have.fits(sequences, length, outputs):
            return have
        if have:
            have.close()
            if capture:
                self._watching = None
            else:
                self._context = None
        rounded = min(-(-length // _STEP) * _STEP, max(self._model.context, length))
        made = Context(
            self._model,
            sequences=sequences,
            length=rounded,
            outputs=-(-outputs // _ROWS) * _ROWS,
            fused=self._fused,
            watch=self._watch if capture else None,
        )
        if capture:
            self._watching = made
        else:
            self._context = made
        return made

    def _watch(self, address: int, asked: bool) -> bool:
        """Called by llama.cpp for every node: which are wanted, then their arrays."""
        found = product(address)
        if found is None:
            return not asked
        name = self._ours.get(found.weight)
        if name is None or name not in self._wanted:
            return not asked
        if asked:
            return True
        x, y = found.arrays()
        heads = self._written.heads.get(name)
        if heads:
            y = np.ascontiguousarray(halves(y.T, heads).T)
        self._told(name, x, y)
        return True

    def close(self) -> None:
        """Free contexts and weights; closing twice does nothing."""
        for context in (self._context, self._watching):
            if context is not None:
                context.close()
        self._context = self._watching = None
        self._model.close()

    @property
    def handshake(self) -> Handshake:
        """What was found of the file on loading it."""
        return self._handshake

    def arithmetic(self) -> Arithmetic:
        """INT8 products are summed exactly in a block, blocks in float32.

        What is not quantized is multiplied as F16 by inputs rounded to it: the head,
        and whatever else the scheme keeps.
        """
        weights = self._scheme.weights if self._scheme else None
        kind = gguf_kind(weights) if weights else ""
        low = kind in GGUF_TYPES
        plain = kind or {"fp16": "F16", "fp32": "F32"}[self._precision]
        inputs = ggml_kind(inputs_of(kind)) if low else plain
        asked = self._scheme is not None and self._scheme.activations is not None
        found = library()
        return Arithmetic(
            accumulate="fp32",
            output="fp32",
            operands="fp16" if plain == "F16" and not asked else "fp32",
            # Keys and values in F16, and a head in F16 whose input is rounded to it.
            products="fp16",
            execution="native",
            determinism="exact" if self._handshake.exact else "run-to-run",
            detail=f"llama.cpp {found.version}: {plain} weights by inputs in {inputs}, "
            f"keys and values in F16; {self._handshake}",
        )

    def precision_report(self) -> dict[str, Any]:
        """What an unquantized run really computes in."""
        found = self.arithmetic()
        return {
            "stored": self._precision,
            "computed": found.output,
            "probe": "the types of the file's tensors; llama.cpp's own kernels",
            "statement": f"{self._precision.upper()} weights, their inputs rounded to "
            f"{found.operands.upper()}, sums in FP32",
        }

    def artifact(self) -> Artifact:
        """Weights read back from the file; inputs are quantized where weights are."""
        found = read_weights(self._written)
        weights = {n: w for n, w in found.items() if isinstance(w, QuantizedTensor)}
        plain = {n: w for n, w in found.items() if not isinstance(w, QuantizedTensor)}
        inputs = sorted(weights)
        scheme = self._scheme
        if scheme and scheme.weights and scheme.weights.format == "fp16":
            weights, plain = {n: _as_fp16(w) for n, w in plain.items()}, {}
            inputs = sorted(weights) if scheme.activations else []
        return Artifact(weights=weights, activations=inputs, untouched=plain)


def _as_fp16(values: Array) -> QuantizedTensor:
    ones = np.ones(1, np.float32)
    return QuantizedTensor(
        format="fp16",
        stored_as="GGUF F16",
        scales=ones,
        decoded=values,
        nbytes=2 * values.size,
    )


def _arrays(inputs: Mapping[str, Array]) -> tuple[Array, Array, Array]:
    names = ("input_ids", "attention_mask", "positions")
    missing = [name for name in names if name not in inputs]
    if missing:
        raise BackendError(f"llama.cpp: inputs missing={missing}")
    ids, mask, positions = (np.asarray(inputs[name]) for name in names)
    return ids, mask, positions


def _row(ids: Array, mask: Array, positions: Array) -> tuple[Array, Array]:
    """A row's tokens without padding, and where its logits are wanted."""
    there = np.flatnonzero(mask)
    return ids[there], np.searchsorted(there, positions)


def _decode(
    context: Context, rows: Sequence[tuple[Array, Array]], size: int | None
) -> list[Array]:
    """Logits of each row where they are wanted, in the order asked for."""
    longest = max(len(ids) for ids, _ in rows)
    found: list[dict[int, Array]] = [{} for _ in rows]
    for start in range(0, longest, size or longest):
        stop = start + (size or longest)
        parts = []
        for index, (ids, wanted) in enumerate(rows):
            places = np.arange(start, min(stop, len(ids)))
            owner = np.full(len(places), index)
            parts.append((ids[places], places, owner, np.isin(places, wanted)))
        tokens, places, owner, flags = (
            np.concatenate(p) for p in zip(*parts, strict=True)
        )
        logits = context.decode(tokens, places, owner, flags)
        for index, place, values in zip(
            owner[flags].tolist(), places[flags].tolist(), logits, strict=True
        ):
            found[index][place] = values
    return [
        np.stack([found[index][place] for place in wanted.tolist()])
        for index, (_, wanted) in enumerate(rows)
    ]
