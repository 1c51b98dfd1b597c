"""Sessions of one ONNX model: with more outputs, and for the shapes of one call."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from harness.backends.onnx_build import with_outputs
from harness.backends.onnx_session import Settings, assignment, open_session
from harness.backends.onnx_shapes import Shapes, any_shapes, shapes_of, with_shapes
from harness.errors import BackendError

if TYPE_CHECKING:
    import onnxruntime

Array = np.ndarray[Any, np.dtype[Any]]

#: Sessions beside the first, at a time: each holds all weights.
_KEPT: Final = 2
#: The same where every shape needs a session of its own.
_KEPT_BY_SHAPE: Final = 6
#: Lengths that axes of unknown length are given to see who would run which node: a
#: convolution may need more than one element.
_TRIED: Final = (1, 32, 1024)


class Pool:
    """Sessions of a serialized model.

    The first is opened at once, so that what cannot run raises when it is loaded. A
    provider that takes no dynamic shapes gets a session for each combination of shapes.

    Args:
        data: the model's bytes.
        settings: of every session.

    Raises:
        UnsupportedError: there is no kernel for a node.
        BackendError: the model does not load, or the provider is given no node.
    """

    def __init__(self, data: bytes, settings: Settings) -> None:
        self._data = data
        self._settings = settings
        self._others: dict[
            tuple[Shapes, frozenset[str]], onnxruntime.InferenceSession
        ] = {}
        if settings.fixed_shapes:
            self.first = self._try()
        else:
            self.first = open_session(data, settings)
        #: Provider -> how many nodes it was given; empty when this build cannot say.
        self.assignment = assignment(self.first, settings.provider)

    def _try(self) -> onnxruntime.InferenceSession:
        """A session of shapes that the model takes.

        Raises:
            BackendError: it opens for none; says why for each, if they differ.
        """
        reasons: dict[str, int] = {}
        for length in _TRIED:
            try:
                return self._open(any_shapes(self._data, length), frozenset())
            except BackendError as error:
                reasons.setdefault(str(error), length)
        first, *others = reasons
        told = [first, *(f"with axes of {reasons[text]}: {text}" for text in others)]
        raise BackendError("; ".join(told))

    def get(
        self, feeds: Mapping[str, Array], tensors: Collection[str] = ()
    ) -> onnxruntime.InferenceSession:
        """A session for these inputs that also gives these tensors.

        Raises:
            BackendError: it does not open for these shapes, or a provider that was
                asked for is given no node.
        """
        fixed = self._settings.fixed_shapes
        if not fixed and not tensors:
            return self.first
        key = (shapes_of(feeds) if fixed else (), frozenset(tensors))
        if key in self._others:
            # The one used last is dropped last.
            self._others[key] = self._others.pop(key)
            return self._others[key]
        while len(self._others) >= (_KEPT_BY_SHAPE if fixed else _KEPT):
            self._others.pop(next(iter(self._others)))
        session = self._others[key] = self._open(*key)
        assignment(session, self._settings.provider)
        return session

    def _open(
        self, shapes: Shapes, tensors: frozenset[str]
    ) -> onnxruntime.InferenceSession:
        data = with_outputs(self._data, tensors)
        if shapes:
            data = with_shapes(data, shapes)
        return open_session(data, self._settings)

    def close(self) -> None:
        """Forget them all."""
        self._others.clear()
        del self.first
