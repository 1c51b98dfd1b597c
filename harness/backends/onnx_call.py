"""A call of a session that holds an ONNX graph: what goes in, what comes out."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np

from harness.errors import BackendError

Array = np.ndarray[Any, np.dtype[Any]]
#: Operator -> the tensors that are its input and its output.
Observed = Mapping[str, tuple[str, str]]


def feeds_of(
    engine: str, names: Sequence[str], inputs: Mapping[str, Array], *, closed: bool
) -> dict[str, Array]:
    """The graph's inputs, each in one piece of memory.

    Args:
        engine: its name, for what is raised.
        names: of the graph's inputs.
        inputs: what the session was called with; may hold more.
        closed: whether the session was closed.

    Raises:
        BackendError: closed, or an input is missing.
    """
    missing = sorted(set(names) - set(inputs))
    if closed or missing:
        raise BackendError(
            f"{engine}: the session is closed={closed}, inputs missing={missing}, but "
            f"should be open with inputs {list(names)}"
        )
    return {name: np.ascontiguousarray(inputs[name]) for name in names}


def shown(
    observed: Observed,
    capture: Collection[str],
    feeds: Mapping[str, Array],
    values: Mapping[str, Array],
) -> dict[str, Array]:
    """Captured operators as a session returns them: `NAME/input` and `NAME`.

    Args:
        observed: where each operator's tensors are in the graph.
        capture: operators that were asked for.
        feeds: the call's inputs, which an operator may read as they are.
        values: tensor -> what the engine computed.
    """
    arrays = {}
    for name in capture:
        x, y = observed[name]
        arrays[f"{name}/input"] = feeds[x] if x in feeds else values[x]
        arrays[name] = values[y]
    return arrays


def tensors_of(
    observed: Observed, capture: Collection[str], feeds: Mapping[str, Array]
) -> set[str]:
    """Tensors that a graph must give beside its outputs for these operators."""
    return {tensor for name in capture for tensor in observed[name]} - set(feeds)
