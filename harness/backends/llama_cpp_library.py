"""llama.cpp's C interface, out of the library that the package `xllamacpp` carries.

The functions are called through ctypes, so nothing is compiled and whole rows of logits
are read instead of a server's JSON. What would go wrong silently is the layout of the
parameter structures, which changes between versions: defaults that llama.cpp fills in
are therefore compared with what the known layout shows.
"""

from __future__ import annotations

import ctypes
import functools
import importlib.util
import os
from pathlib import Path
from typing import Any, Final

from harness.backends.llama_cpp_types import (
    CONTEXT_DEFAULTS,
    MODEL_DEFAULTS,
    Batch,
    ContextParameters,
    ModelParameters,
)
from harness.backends.threads import threads
from harness.errors import MissingExtraError, UnsupportedError

_POINTER: Final = ctypes.c_void_p
#: Told of a node of the graph before it runs (asked) and after; says whether to stop.
WATCH: Final = ctypes.CFUNCTYPE(
    ctypes.c_bool, ctypes.c_void_p, ctypes.c_bool, ctypes.c_void_p
)
_LOG: Final = ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p)
#: ggml's level of log lines that say what went wrong.
_ERROR: Final = 4
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
        (
            *(_POINTER, ctypes.c_char_p, ctypes.c_int32, _POINTER),
            *(ctypes.c_int32, ctypes.c_bool, ctypes.c_bool),
        ),
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
            (self.c.llama_context_default_params(), CONTEXT_DEFAULTS),
            (self.c.llama_model_default_params(), MODEL_DEFAULTS),
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


def pool_size() -> int:
    """QUANTHARNESS_THREADS, or the cores that this process may use.

    Raises:
        UsageError: it is not a whole number.
    """
    return threads() or len(os.sched_getaffinity(0))
