"""llama.cpp's C interface, out of the library that the package `xllamacpp` carries.

The functions are called through ctypes, so nothing is compiled and whole rows of logits
are read instead of a server's JSON. What would go wrong silently is the layout of the
parameter structures, which changes between versions: `Library` therefore compares every
default that llama.cpp fills in with what this layout should show, and `Context` reads
back each value that it set. Structures are passed in buffers larger than they are, which
by-value calls allow.
"""

from __future__ import annotations

import ctypes
import functools
import importlib.util
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import numpy as np

from harness.errors import BackendError, MissingExtraError, UnsupportedError, UsageError

Array = np.ndarray[Any, np.dtype[Any]]

#: Told of a node of the graph before it runs (asked) and after; says whether to stop.
Watch = Callable[[int, bool], bool]

_POINTER: Final = ctypes.c_void_p
_WATCH: Final = ctypes.CFUNCTYPE(
    ctypes.c_bool, ctypes.c_void_p, ctypes.c_bool, ctypes.c_void_p
)
_LOG: Final = ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p)
#: ggml's level of log lines that say what went wrong.
_ERROR: Final = 4


class ModelParameters(ctypes.Structure):
    """`llama_model_params` of llama.cpp 0.6, with room for more."""

    _fields_ = (
        ("devices", _POINTER),
        ("tensor_buft_overrides", _POINTER),
        ("n_gpu_layers", ctypes.c_int32),
        ("split_mode", ctypes.c_int32),
        ("load_mode", ctypes.c_int32),
        ("lazy_mode", ctypes.c_int32),
        ("main_gpu", ctypes.c_int32),
        ("tensor_split", _POINTER),
        ("progress_callback", _POINTER),
        ("progress_callback_user_data", _POINTER),
        ("kv_overrides", _POINTER),
        ("vocab_only", ctypes.c_bool),
        ("check_tensors", ctypes.c_bool),
        ("use_extra_bufts", ctypes.c_bool),
        ("no_host", ctypes.c_bool),
        ("no_alloc", ctypes.c_bool),
        ("load_mtp", ctypes.c_bool),
        ("_room", ctypes.c_byte * 512),
    )


class ContextParameters(ctypes.Structure):
    """`llama_context_params` of llama.cpp 0.6 as far as it is used, and room."""

    _fields_ = (
        *((name, ctypes.c_uint32) for name in ("n_ctx", "n_batch", "n_ubatch")),
        *((name, ctypes.c_uint32) for name in ("n_seq_max", "n_rs_seq")),
        ("n_outputs_max", ctypes.c_uint32),
        ("n_outputs_max_per_seq", ctypes.c_uint32),
        ("n_threads", ctypes.c_int32),
        ("n_threads_batch", ctypes.c_int32),
        ("ctx_type", ctypes.c_int32),
        ("rope_scaling_type", ctypes.c_int32),
        ("pooling_type", ctypes.c_int32),
        ("attention_type", ctypes.c_int32),
        ("flash_attn_type", ctypes.c_int32),
        *((f"rope_{name}", ctypes.c_float) for name in ("freq_base", "freq_scale")),
        ("yarn_ext_factor", ctypes.c_float),
        ("yarn_attn_factor", ctypes.c_float),
        ("yarn_beta_fast", ctypes.c_float),
        ("yarn_beta_slow", ctypes.c_float),
        ("yarn_orig_ctx", ctypes.c_uint32),
        ("defrag_thold", ctypes.c_float),
        ("cb_eval", _POINTER),
        ("cb_eval_user_data", _POINTER),
        ("type_k", ctypes.c_int32),
        ("type_v", ctypes.c_int32),
        ("_room", ctypes.c_byte * 512),
    )


class Batch(ctypes.Structure):
    """`llama_batch`."""

    _fields_ = (
        ("n_tokens", ctypes.c_int32),
        ("token", _POINTER),
        ("embd", _POINTER),
        ("pos", _POINTER),
        ("n_seq_id", _POINTER),
        ("seq_id", _POINTER),
        ("logits", _POINTER),
    )


class Tensor(ctypes.Structure):
    """`ggml_tensor`, as far as its name."""

    _fields_ = (
        ("type", ctypes.c_int32),
        ("buffer", _POINTER),
        ("ne", ctypes.c_int64 * 4),
        ("nb", ctypes.c_size_t * 4),
        ("op", ctypes.c_int32),
        ("op_params", ctypes.c_int32 * 16),
        ("flags", ctypes.c_int32),
        ("src", _POINTER * 10),
        ("view_src", _POINTER),
        ("view_offs", ctypes.c_size_t),
        ("data", _POINTER),
        ("name", ctypes.c_char * 64),
    )


#: What llama.cpp's defaults are where this layout is right.
_CONTEXT_DEFAULTS: Final = {
    "n_ctx": 512,
    "n_batch": 2048,
    "n_ubatch": 512,
    "n_seq_max": 1,
    "n_rs_seq": 0,
    "n_threads": 4,
    "n_threads_batch": 4,
    "ctx_type": 0,
    "rope_scaling_type": -1,
    "pooling_type": -1,
    "attention_type": -1,
    "flash_attn_type": -1,
    "rope_freq_base": 0.0,
    "yarn_ext_factor": -1.0,
    "yarn_beta_slow": -1.0,
    "type_k": 1,
    "type_v": 1,
}
_MODEL_DEFAULTS: Final = {
    "n_gpu_layers": -1,
    "split_mode": 1,
    "main_gpu": 0,
    "vocab_only": False,
    "check_tensors": False,
    "use_extra_bufts": True,
    "no_alloc": False,
}
#: Function -> type of what it returns, types of what it takes.
_FUNCTIONS: Final[dict[str, tuple[Any, tuple[Any, ...]]]] = {
    "llama_version": (ctypes.c_char_p, ()),
    "llama_backend_init": (None, ()),
    "llama_log_set": (None, (_LOG, _POINTER)),
    "llama_print_system_info": (ctypes.c_char_p, ()),
    "llama_model_default_params": (ModelParameters, ()),
    "llama_context_default_params": (ContextParameters, ()),
    "llama_model_load_from_file": (_POINTER, (ctypes.c_char_p, ModelParameters)),
    "llama_model_free": (None, (_POINTER,)),
    "llama_model_get_vocab": (_POINTER, (_POINTER,)),
    "llama_model_n_params": (ctypes.c_uint64, (_POINTER,)),
    "llama_model_size": (ctypes.c_uint64, (_POINTER,)),
    "llama_model_n_ctx_train": (ctypes.c_int32, (_POINTER,)),
    "llama_model_meta_val_str": (
        ctypes.c_int32,
        (_POINTER, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_size_t),
    ),
    "llama_vocab_n_tokens": (ctypes.c_int32, (_POINTER,)),
    "llama_vocab_eos": (ctypes.c_int32, (_POINTER,)),
    "llama_tokenize": (
        ctypes.c_int32,
        (_POINTER, ctypes.c_char_p, ctypes.c_int32, _POINTER, ctypes.c_int32)
        + (ctypes.c_bool, ctypes.c_bool),
    ),
    "llama_init_from_model": (_POINTER, (_POINTER, ContextParameters)),
    "llama_free": (None, (_POINTER,)),
    "llama_n_ctx": (ctypes.c_uint32, (_POINTER,)),
    "llama_n_batch": (ctypes.c_uint32, (_POINTER,)),
    "llama_n_ubatch": (ctypes.c_uint32, (_POINTER,)),
    "llama_n_seq_max": (ctypes.c_uint32, (_POINTER,)),
    "llama_n_threads": (ctypes.c_int32, (_POINTER,)),
    "llama_n_threads_batch": (ctypes.c_int32, (_POINTER,)),
    "llama_get_memory": (_POINTER, (_POINTER,)),
    "llama_memory_clear": (None, (_POINTER, ctypes.c_bool)),
    "llama_memory_seq_rm": (
        ctypes.c_bool,
        (_POINTER, ctypes.c_int32, ctypes.c_int32, ctypes.c_int32),
    ),
    "llama_decode": (ctypes.c_int32, (_POINTER, Batch)),
    "llama_get_logits_ith": (_POINTER, (_POINTER, ctypes.c_int32)),
    "ggml_get_name": (ctypes.c_char_p, (_POINTER,)),
    "ggml_op_desc": (ctypes.c_char_p, (_POINTER,)),
    "ggml_type_name": (ctypes.c_char_p, (ctypes.c_int32,)),
    "ggml_nbytes": (ctypes.c_size_t, (_POINTER,)),
}


class Library:
    """The functions that are used, with the layouts proven.

    Args:
        path: the shared library.

    Raises:
        UnsupportedError: it shows no such functions, or lays structures out otherwise.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self.c: Any = ctypes.CDLL(str(path))
            for name, (returns, takes) in _FUNCTIONS.items():
                function = getattr(self.c, name)
                function.restype, function.argtypes = returns, list(takes)
        except (OSError, AttributeError) as error:
            raise UnsupportedError(
                f"{path}: does not show llama.cpp's C interface: {error}"
            ) from None
        for made, expected in (
            (self.c.llama_context_default_params(), _CONTEXT_DEFAULTS),
            (self.c.llama_model_default_params(), _MODEL_DEFAULTS),
        ):
            self._check(made, expected)
        #: What llama.cpp wrote of errors since it was last asked.
        self._said: list[str] = []
        self._log = _LOG(self._listen)
        self.c.llama_log_set(self._log, None)
        self.c.llama_backend_init()

    def _check(self, made: Any, expected: dict[str, Any]) -> None:
        for name, value in expected.items():
            found = getattr(made, name)
            if found != value:
                raise UnsupportedError(
                    f"{self.path}: {type(made).__name__}.{name}={found!r} by default, "
                    f"but should be {value!r}: llama.cpp {self.version} lays its "
                    "parameters out otherwise than this adapter knows; install the "
                    "version that requirements/constraints.txt pins"
                )

    @property
    def version(self) -> str:
        """llama.cpp's own version."""
        found: bytes = self.c.llama_version()
        return found.decode()

    def _listen(self, level: int, text: bytes | None, _: Any) -> None:
        if level == _ERROR and text:
            self._said.append(text.decode(errors="replace").strip())

    def said(self) -> str:
        """The errors that llama.cpp logged since the last call, in one line."""
        found, self._said = " ".join(self._said)[-400:], []
        return found


def library_file() -> Path:
    """The shared library in the installed package, found without importing it.

    Raises:
        MissingExtraError: xllamacpp is not installed.
    """
    spec = importlib.util.find_spec("xllamacpp")
    if spec is None or spec.origin is None:
        raise MissingExtraError("xllamacpp", "llamacpp")
    found = sorted(Path(spec.origin).parent.glob("xllamacpp*.so"))
    if not found:
        raise UnsupportedError(f"{spec.origin}: the package has no shared library")
    return found[0]


@functools.cache
def library() -> Library:
    """The library, loaded and proven once a process."""
    return Library(library_file())


def threads() -> int:
    """QUANTHARNESS_THREADS, or the cores that this process may use.

    Raises:
        UsageError: it is not a whole number.
    """
    given = os.environ.get("QUANTHARNESS_THREADS", "")
    if given and not given.isdecimal():
        raise UsageError(
            f"QUANTHARNESS_THREADS={given!r}, but should be a whole number; 0: all"
        )
    return int(given or 0) or len(os.sched_getaffinity(0))


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
        # Tensors with NaN or Inf, or of another size than the file says, are refused.
        parameters.check_tensors = True
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
            False,
            True,
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
        parameters.n_outputs_max = parameters.n_batch
        parameters.n_outputs_max_per_seq = parameters.n_batch
        parameters.n_threads = parameters.n_threads_batch = threads()
        self._watch: Any = None
        if watch is not None:
            self._watch = _WATCH(lambda tensor, ask, _: watch(tensor, ask))
            parameters.cb_eval = ctypes.cast(self._watch, _POINTER)
        self.handle = c.llama_init_from_model(model.handle, parameters)
        if not self.handle:
            raise BackendError(
                f"llama.cpp makes no context of {sequences} x {length} tokens: "
                f"{self._library.said()}"
            )
        self.batch: int = parameters.n_batch
        self._check(parameters)

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

    def clear(self) -> None:
        """Forget every sequence."""
        c = self._library.c
        c.llama_memory_clear(c.llama_get_memory(self.handle), True)

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
        parts = [
            self._decode(*(np.asarray(a)[start : start + self.batch] for a in arrays))
            for arrays in [(tokens, places, sequences, wanted)]
            for start in range(0, len(tokens), self.batch)
        ]
        return np.concatenate(parts) if len(parts) > 1 else parts[0]

    def _decode(
        self, tokens: Array, places: Array, sequences: Array, wanted: Array
    ) -> Array:
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
        if status:
            raise BackendError(
                f"llama.cpp does not decode {count} tokens: status {status} "
                f"{self._library.said()}"
            )
        width = self._model.vocabulary
        rows = np.flatnonzero(flags)
        found = np.empty((len(rows), width), np.float32)
        for index, row in enumerate(rows.tolist()):
            pointer = self._library.c.llama_get_logits_ith(self.handle, row)
            if not pointer:
                raise BackendError(f"llama.cpp gives no logits of token {row}")
            source = (ctypes.c_float * width).from_address(pointer)
            found[index] = np.ctypeslib.as_array(source)
        return found


@contextmanager
def closing(*things: Any) -> Iterator[None]:
    """Close them in this order, whatever happens."""
    try:
        yield
    finally:
        for thing in things:
            thing.close()
