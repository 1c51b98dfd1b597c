"""A language model in an engine of ONNX: logits, pieces and replies from one graph.

The engine knows only arrays in and arrays out. What it has read before goes in as keys
and values, and comes out with those of what it has read now.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from harness.backends.protocol import Generated, Outputs, Request, Session
from harness.models.language_onnx import ENDS, PAST, PRESENT

if TYPE_CHECKING:
    import onnx
    import torch

Array = np.ndarray[Any, np.dtype[Any]]

_FIRST: Final = PAST.format(0, "key")
#: Numbers of one head's attention matrices in a call: engines hold several matrices of
#: every head, for all rows at once.
_SCORES: Final = 2048**2


def has_cache(proto: onnx.ModelProto) -> bool:
    """Whether a graph takes keys and values of what was read before."""
    return any(value.name == _FIRST for value in proto.graph.input)


def with_cache(session: Session, proto: onnx.ModelProto) -> Session:
    """The session itself; or as a language model's where the graph has a cache."""
    shapes = {value.name: value.type.tensor_type.shape for value in proto.graph.input}
    if not has_cache(proto):
        return session
    heads, width = (shapes[_FIRST].dim[axis].dim_value for axis in (1, 3))
    past = [name for name in shapes if name.startswith(PAST.partition("{")[0])]
    told = {entry.key: entry.value for entry in proto.metadata_props}
    ends = tuple(map(int, told.get(ENDS, "").split()))
    return OnnxLanguageSession(session, past, heads=heads, width=width, ends=ends)


class OnnxLanguageSession:
    """A session whose graph has keys and values among its inputs and outputs.

    Args:
        session: of the engine; closed with this one.
        past: inputs of keys and values, in the graph's order.
        heads: heads of keys and values.
        width: numbers a head.
        ends: tokens that end a reply; empty: none does.
    """

    def __init__(
        self,
        session: Session,
        past: Sequence[str],
        *,
        heads: int,
        width: int,
        ends: Sequence[int],
    ) -> None:
        self._session: Any = session
        self._past = tuple(past)
        self._present = tuple(
            PRESENT.partition("{")[0] + name.partition(".")[2] for name in past
        )
        self._shape = (heads, 0, width)
        self._ends = ends

    def __getattr__(self, name: str) -> Any:
        return getattr(self._session, name)

    def run(
        self, inputs: Mapping[str, Array], *, capture: Collection[str] = ()
    ) -> Outputs:
        """Logits at the `positions` of each row (batch, rows, vocabulary)."""
        found = self._call(inputs, capture=capture)
        shown = {name: a for name, a in found.items() if name not in self._present}
        return Outputs(shown, found.timings)

    def run_in_pieces(self, inputs: Mapping[str, Array], size: int) -> Outputs:
        """The same logits, the tokens read `size` at a time through the cache.

        Args:
            inputs: of a single row, without padding.
            size: tokens of a piece, at least one.
        """
        ids, mask = inputs["input_ids"], inputs["attention_mask"]
        wanted = inputs["positions"]
        held: dict[str, Array] = {}
        rows: dict[int, Array] = {}
        seconds = 0.0
        for start in range(0, ids.shape[1], size):
            now = ids[:, start : start + size]
            inside = [p for p in wanted[0].tolist() if 0 <= p - start < now.shape[1]]
            # A graph gives logits of one row at least.
            asked = np.array([[p - start for p in inside] or [0]], dtype=np.int64)
            found = self._call(
                {
                    "input_ids": now,
                    "attention_mask": mask[:, : start + now.shape[1]],
                    "positions": asked,
                },
                held,
            )
            seconds += found.timings.get("run", 0.0)
            held = self._held(found)
            rows |= {p: found["logits"][:, i] for i, p in enumerate(inside)}
        logits = np.stack([rows[p] for p in wanted[0].tolist()], axis=1)
        return Outputs({"logits": logits}, {"run": seconds})

    def generate(
        self, requests: Sequence[Request], *, batch: int
    ) -> dict[str, Generated]:
        """Continue prompts, at most `batch` at a time."""
        from harness.backends.torch_generate import generate

        return generate(self, requests, ends=self._ends, batch=batch)

    def new_cache(self) -> Any:
        """Keys and values of no token, as `torch_generate` and `kv_cache` use them."""
        from harness.models.kv_cache import HeldCache, HeldLayer

        return HeldCache([HeldLayer() for _ in range(len(self._past) // 2)])

    def step(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor, cache: Any
    ) -> torch.Tensor:
        """Logits after the last token (batch, vocabulary); the cache grows."""
        import torch

        last = np.full((len(input_ids), 1), input_ids.shape[1] - 1, dtype=np.int64)
        held = {}
        if cache.layers[0].keys is not None:
            both = [t for layer in cache.layers for t in (layer.keys, layer.values)]
            held = {n: t.numpy() for n, t in zip(self._past, both, strict=True)}
        found = self._call(
            {
                "input_ids": input_ids.numpy(),
                "attention_mask": attention_mask.numpy(),
                "positions": last,
            },
            held,
        )
        arrays = iter(self._held(found).values())
        for layer in cache.layers:
            layer.keys = torch.from_numpy(next(arrays))
            layer.values = torch.from_numpy(next(arrays))
        return torch.from_numpy(found["logits"][:, -1])

    def _call(
        self,
        inputs: Mapping[str, Array],
        held: Mapping[str, Array] | None = None,
        *,
        capture: Collection[str] = (),
    ) -> Outputs:
        """What the graph gives; long rows go in a few at a time, each is its own.

        Nothing was read before where nothing is held.
        """
        rows, tokens = inputs["input_ids"].shape
        nothing = np.zeros((rows, *self._shape), dtype=np.float32)
        fed = {**dict.fromkeys(self._past, nothing), **(held or {}), **inputs}
        seen = fed[self._past[0]].shape[2] + tokens
        most = max(1, _SCORES // max(1, tokens * seen))
        parts: list[Outputs] = [
            self._session.run(
                {name: array[start : start + most] for name, array in fed.items()},
                capture=capture,
            )
            for start in range(0, rows, most)
        ]
        if len(parts) == 1:
            return parts[0]
        seconds = sum(part.timings.get("run", 0.0) for part in parts)
        joined = {name: np.concatenate([p[name] for p in parts]) for name in parts[0]}
        return Outputs(joined, {"run": seconds})

    def _held(self, found: Mapping[str, Array]) -> dict[str, Array]:
        """What the next call is given of this one."""
        return {
            past: found[present]
            for past, present in zip(self._past, self._present, strict=True)
        }
