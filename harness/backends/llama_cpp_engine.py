"""A GGUF file loaded by llama.cpp, and contexts in which its tokens are run."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from harness.backends.llama_cpp_library import WATCH, library, pool_size
from harness.backends.llama_cpp_types import Batch, ContextParameters
from harness.errors import BackendError

Array = np.ndarray[Any, np.dtype[Any]]
#: Told of a node's address before it runs (asked) and after. Asked: whether it is to
#: be told after; told: whether to go on.
Watch = Callable[[int, bool], bool]

#: What C calls true and false.
_YES, _NO = ctypes.c_bool(True), ctypes.c_bool(False)  # noqa: FBT003


class LoadedModel:
    """A GGUF file, loaded.

    Args:
        file: the file.
        extra_buffers: repack weights for this processor's kernels, as llama.cpp does
            by default.

    Raises:
        BackendError: llama.cpp refuses it; says why.
    """

    def __init__(self, file: Path, *, extra_buffers: bool = True) -> None:
        self._library = library()
        c = self._library.c
        parameters = c.llama_model_default_params()
        parameters.use_extra_bufts = extra_buffers
        # As by default, NaN is not refused: what the file holds is the judge's to name,
        # and an engine that does not load it computes nothing.
        parameters.check_tensors = False
        self.handle = c.llama_model_load_from_file(os.fsencode(file), parameters)
        if not self.handle:
            raise BackendError(
                f"llama.cpp does not load {file.name}: {self._library.said()}"
            )
        self._vocabulary = c.llama_model_get_vocab(self.handle)
        self.vocabulary: int = c.llama_vocab_n_tokens(self._vocabulary)
        self.context: int = c.llama_model_n_ctx_train(self.handle)
        self.end: int = c.llama_vocab_eos(self._vocabulary)
        self.nbytes: int = c.llama_model_size(self.handle)

    def close(self) -> None:
        """Free it; closing twice does nothing."""
        if self.handle:
            self._library.c.llama_model_free(self.handle)
            self.handle = None

    def tokenize(self, text: str) -> list[int]:
        """Token ids, special tokens recognised, none added."""
        data = text.encode()
        found = np.zeros(len(data) + 8, np.int32)
        count = self._library.c.llama_tokenize(
            self._vocabulary,
            data,
            len(data),
            found.ctypes.data,
            len(found),
            _NO,
            _YES,
        )
        if count < 0:
            raise BackendError(f"llama.cpp does not tokenize {text!r}")
        ids: list[int] = found[:count].tolist()
        return ids

    def about(self, key: str) -> str:
        """A metadata value of the file as text; "" where there is none."""
        buffer = ctypes.create_string_buffer(1 << 16)
        size = self._library.c.llama_model_meta_val_str(
            self.handle, key.encode(), buffer, len(buffer)
        )
        return buffer.value.decode(errors="replace") if size >= 0 else ""


class Context:
    """A place for some sequences' keys and values, and where their tokens are run.

    Args:
        model: loaded.
        sequences: that run at the same time.
        length: most tokens of each.
        outputs: most rows of logits that a batch gives; None: one for each token.
        fused: whether attention is one fused operator; None: llama.cpp decides.
        watch: told of every node of the graph; None: nobody.

    Raises:
        BackendError: llama.cpp makes no such context, or makes another.
    """

    def __init__(
        self,
        model: LoadedModel,
        *,
        sequences: int,
        length: int,
        outputs: int | None = None,
        fused: bool | None = None,
        watch: Watch | None = None,
    ) -> None:
        self._library = library()
        self._model = model
        self.sequences, self.length = sequences, length
        c = self._library.c
        parameters = c.llama_context_default_params()
        parameters.n_ctx = sequences * length
        # llama.cpp's own sizes, where the context has as many tokens.
        parameters.n_batch = min(parameters.n_batch, parameters.n_ctx)
        parameters.n_ubatch = min(parameters.n_ubatch, parameters.n_batch)
        parameters.n_seq_max = sequences
        # llama.cpp keeps room for so many rows, each as wide as the vocabulary.
        most = min(outputs or parameters.n_batch, parameters.n_batch)
        parameters.n_outputs_max = parameters.n_outputs_max_per_seq = most
        self.outputs = most
        parameters.n_threads = parameters.n_threads_batch = pool_size()
        if fused is not None:
            parameters.flash_attn_type = int(fused)
        self._watch: Any = None
        #: What a watcher raised while the graph ran.
        self._raised: Exception | None = None
        if watch is not None:
            self._watch = WATCH(self._guarded(watch))
            parameters.cb_eval = ctypes.cast(self._watch, ctypes.c_void_p)
        self.handle = c.llama_init_from_model(model.handle, parameters)
        if not self.handle:
            raise BackendError(
                f"llama.cpp makes no context of {sequences} x {length} tokens: "
                f"{self._library.said()}"
            )
        self.batch: int = parameters.n_batch
        self._check(parameters)

    def _guarded(self, watch: Watch) -> Callable[[int, bool, Any], bool]:
        """Keeps what it raises: an exception does not pass through C."""

        def guarded(address: int, asked: bool, _: Any) -> bool:
            if self._raised is not None:
                return False
            try:
                return watch(address, asked)
            except Exception as error:  # noqa: BLE001 - raised again after the run
                self._raised = error
                return False

        return guarded

    def _check(self, wanted: ContextParameters) -> None:
        """What was set is what is there: the structure was read as it was written."""
        for name in ("n_batch", "n_ubatch", "n_seq_max", "n_threads"):
            found = getattr(self._library.c, f"llama_{name}")(self.handle)
            if found != getattr(wanted, name):
                self.close()
                raise BackendError(
                    f"llama.cpp's context has {name}={found}, but should have "
                    f"{getattr(wanted, name)}: its parameters are laid out otherwise"
                )

    def close(self) -> None:
        """Free it; closing twice does nothing."""
        if self.handle:
            self._library.c.llama_free(self.handle)
            self.handle = None

    def fits(self, sequences: int, length: int, outputs: int) -> bool:
        """Whether as many sequences, and enough tokens and rows of logits, fit."""
        enough = self.length >= length and self.outputs >= min(outputs, self.batch)
        return self.sequences == sequences and enough

    def clear(self) -> None:
        """Forget every sequence."""
        c = self._library.c
        c.llama_memory_clear(c.llama_get_memory(self.handle), _YES)

    def drop(self, sequence: int) -> None:
        """Forget one sequence."""
        c = self._library.c
        c.llama_memory_seq_rm(c.llama_get_memory(self.handle), sequence, -1, -1)

    def decode(
        self,
        tokens: Sequence[int] | Array,
        places: Sequence[int] | Array,
        sequences: Sequence[int] | Array,
        wanted: Sequence[bool] | Array,
    ) -> Array:
        """Run tokens that follow what the context holds.

        Args:
            tokens: their ids.
            places: position of each in its sequence.
            sequences: which sequence each belongs to.
            wanted: whether its logits are.

        Returns:
            float32 (wanted, vocabulary), in the order of the tokens.

        Raises:
            BackendError: llama.cpp fails.
        """
        parts = list(self.stream(tokens, places, sequences, wanted, rows=self.batch))
        if not parts:
            return np.empty((0, self._model.vocabulary), np.float32)
        return np.concatenate(parts) if len(parts) > 1 else parts[0]

    def stream(
        self,
        tokens: Sequence[int] | Array,
        places: Sequence[int] | Array,
        sequences: Sequence[int] | Array,
        wanted: Sequence[bool] | Array,
        *,
        rows: int,
    ) -> Iterator[Array]:
        """The same, at most `rows` rows at a time, in the order of the tokens.

        Raises:
            BackendError: llama.cpp fails.
        """
        arrays = [np.asarray(a) for a in (tokens, places, sequences, wanted)]
        for start in range(0, len(arrays[0]), self.batch):
            part = [array[start : start + self.batch] for array in arrays]
            self._submit(*part)
            indices = np.flatnonzero(part[-1])
            for first in range(0, len(indices), rows):
                yield self._read(indices[first : first + rows])

    def _submit(
        self, tokens: Array, places: Array, sequences: Array, wanted: Array
    ) -> None:
        count = len(tokens)
        ids, where, owner = (
            np.ascontiguousarray(a, dtype=np.int32) for a in (tokens, places, sequences)
        )
        flags = np.ascontiguousarray(wanted, dtype=np.int8)
        ones = np.ones(count, np.int32)
        pointers = owner.ctypes.data + 4 * np.arange(count, dtype=np.uint64)
        batch = Batch(
            n_tokens=count,
            token=ids.ctypes.data,
            pos=where.ctypes.data,
            n_seq_id=ones.ctypes.data,
            seq_id=pointers.ctypes.data,
            logits=flags.ctypes.data,
        )
        status = self._library.c.llama_decode(self.handle, batch)
        raised, self._raised = self._raised, None
        if raised is not None:
            raise raised
        if status:
            raise BackendError(
                f"llama.cpp does not decode {count} tokens: status {status} "
                f"{self._library.said()}"
            )

    def _read(self, rows: Array) -> Array:
        """Copies of the logits after some tokens of the last batch."""
        width = self._model.vocabulary
        found = np.empty((len(rows), width), np.float32)
        for index, row in enumerate(rows.tolist()):
            pointer = self._library.c.llama_get_logits_ith(self.handle, row)
            if not pointer:
                raise BackendError(f"llama.cpp gives no logits of token {row}")
            source = (ctypes.c_float * width).from_address(pointer)
            found[index] = np.ctypeslib.as_array(source)
        return found
