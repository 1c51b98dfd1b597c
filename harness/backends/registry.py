"""What is plugged in: backends, schemes, behaviours, metrics, defects.

Registered through entry points, or by a module or file given with `--plugin` whose
`register(registry)` is called.
"""

from __future__ import annotations

import difflib
import importlib
import importlib.util
import sys
from collections.abc import Mapping, Sequence
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from types import ModuleType
from typing import Any, Final

from harness.backends.protocol import Backend, Variant
from harness.environments import locks, variables
from harness.errors import PluginError, UsageError
from harness.schemes.types import Scheme

_GROUPS: Final = ("backends", "schemes", "metrics", "behaviours", "defects")
#: What ships, so that a source tree works without being installed.
_OWN: Final = {
    "aihwkit": "harness.backends.aihwkit_backend:AihwkitBackend",
    "analog": "harness.backends.analog_backend:AnalogBackend",
    "torch": "harness.backends.torch_backend:TorchBackend",
    "torch-compile": "harness.backends.torch_compile_backend:TorchCompileBackend",
    "onnx-reference": "harness.backends.onnx_reference_backend:OnnxReferenceBackend",
    "iree": "harness.backends.iree_backend:IreeBackend",
    "openvino": "harness.backends.openvino_backend:OpenVinoBackend",
    "quark": "harness.backends.quark_backend:QuarkBackend",
    "tensorrt": "harness.backends.tensorrt_backend:TensorRtBackend",
    "onnxruntime": "harness.backends.onnxruntime_backend:OnnxRuntimeBackend",
    "llama.cpp": "harness.backends.llama_cpp_backend:LlamaCppBackend",
}


class Registry:
    """Everything that can be named in a suite; entry points load when first asked."""

    def __init__(self) -> None:
        self._backends: dict[str, Backend] = {}
        self._waiting: dict[str, EntryPoint] = {}
        self.schemes: dict[str, Scheme] = {}
        self.behaviours: dict[str, Any] = {}
        self.metrics: dict[str, Any] = {}
        self.defects: dict[str, Any] = {}
        #: Plugin -> why it did not load; shown by `doctor`, breaks nothing else.
        self.failed: dict[str, str] = {}

    def add_backend(self, backend: Backend) -> None:
        """Register a backend; a name that is taken is replaced.

        What is asked for with `--plugin` may stand in for what ships. What is merely
        installed may not: see `find_entry_points`.

        Raises:
            PluginError: it has not what the protocol asks for.
        """
        for member in ("name", "probe", "supports", "load"):
            if not hasattr(backend, member):
                raise PluginError(
                    f"{type(backend).__name__} is no backend: it has no {member!r}"
                )
        own = getattr(backend, "own_environment", "")
        if own and own not in locks():
            raise PluginError(
                f"{type(backend).__name__}.own_environment={own!r}, but should be one "
                f"of {', '.join(locks())}"
            )
        self._backends[backend.name] = backend
        self._waiting.pop(backend.name, None)

    def add_scheme(self, scheme: Scheme) -> None:
        """Register a scheme under its name."""
        self.schemes[scheme.name] = scheme

    def add_behaviour(self, kind: Any) -> None:
        """Register a kind of behaviour under its name."""
        self.behaviours[kind.name] = kind

    def add_metric(self, metric: Any) -> None:
        """Register a metric under its name."""
        self.metrics[metric.name] = metric

    def add_defect(self, defect: Any) -> None:
        """Register a defect under its name."""
        self.defects[defect.name] = defect

    @property
    def backend_names(self) -> tuple[str, ...]:
        """Every backend that could be asked for, sorted."""
        return tuple(sorted({*self._backends, *self._waiting}))

    def backend(self, name: str) -> Backend:
        """The backend of that name; `NAME@VARIANT` is a variant of one.

        Raises:
            UsageError: there is none, or its plugin does not load.
        """
        base, at, _ = name.partition("@")
        if at and name not in self._backends:
            found = self.variant(name)
            assert found is not None  # sanity check
            # A wrapper makes its own; any other is its class with other options.
            own = self.backend(base)
            made: Any = getattr(own, "as_variant", type(own))
            self._backends[name] = made(name=name, **found.options)
        if name in self._waiting:
            self._load_backend(name)
        if name in self._backends:
            return self._backends[name]
        if name in self.failed:
            raise UsageError(f"backend {name!r} does not load: {self.failed[name]}")
        close = difflib.get_close_matches(name, self.backend_names, n=1)
        known = f"known: {', '.join(self.backend_names)}; --plugin adds others"
        hint = f"did you mean {close[0]!r}?" if close else known
        raise UsageError(f"unknown backend {name!r}; {hint}")

    def variant(self, name: str) -> Variant | None:
        """The variant that `NAME@VARIANT` asks for; None for a plain name.

        Raises:
            UsageError: the backend has no such variant; says which it has.
        """
        base, at, wanted = name.partition("@")
        if not at:
            return None
        known: Mapping[str, Variant] = getattr(self.backend(base), "variants", {})
        if wanted not in known:
            have = ", ".join(f"{base}@{variant}" for variant in known) or "none"
            raise UsageError(f"unknown variant {name!r} of {base}; known: {have}")
        return known[wanted]

    def environment(self, name: str) -> Mapping[str, str]:
        """Variables that the worker of this backend must be started with.

        Those of the backend's own virtual environment are among them, if it has one.

        Empty for a backend that does not load: loading it says why.
        """
        try:
            found = self.variant(name)
            own = getattr(self.backend(name), "own_environment", "")
        except UsageError:
            return {}
        variant = {} if found is None else found.environment
        return {**(variables(own) if own else {}), **variant}

    def _load_backend(self, name: str) -> None:
        entry = self._waiting.pop(name)
        try:
            backend = entry.load()()
            if backend.name == name:
                self.add_backend(backend)
            else:
                self.failed[name] = (
                    f"its plugin {entry.value} calls itself {backend.name!r}, but "
                    f"should be {name!r}, as its entry point says"
                )
        except Exception as error:  # noqa: BLE001 - a plugin may raise anything
            self.failed[name] = f"{type(error).__name__}: {error}"

    def find_entry_points(self) -> None:
        """Note what is installed; loads nothing but schemes and other plain values.

        Of two backends of one name the first stays, ours before all: nobody may get
        another engine than the one that was named because of what else is installed.
        """
        for name, value in _OWN.items():
            self._waiting[name] = EntryPoint(name, value, "quantharness.backends")
        for group in _GROUPS:
            for entry in entry_points(group=f"quantharness.{group}"):
                if group == "backends":
                    first = self._waiting.setdefault(entry.name, entry)
                    if first.value != entry.value:
                        self.failed[f"{entry.name} ({entry.value})"] = (
                            f"the name is taken by {first.value}: rename one"
                        )
                    continue
                try:
                    getattr(self, f"add_{group[:-1]}")(entry.load())
                except Exception as error:  # noqa: BLE001
                    self.failed[entry.name] = f"{type(error).__name__}: {error}"

    def load_plugin(self, spec: str) -> None:
        """Import a module or a file and let it register.

        Raises:
            PluginError: it does not import, has no `register`, or that fails.
        """
        module = _import(spec)
        register = getattr(module, "register", None)
        if not callable(register):
            raise PluginError(f"--plugin {spec}: it has no function register(registry)")
        try:
            register(self)
        except PluginError:
            raise
        except Exception as error:
            raise PluginError(
                f"--plugin {spec}: register failed: {type(error).__name__}: {error}"
            ) from error


def _import(spec: str) -> ModuleType:
    path = Path(spec)
    try:
        if path.suffix != ".py":
            return importlib.import_module(spec)
        if not path.is_file():
            raise PluginError(f"--plugin {spec}: no such file")
        name = f"quantharness_plugin_{path.stem}"
        found = importlib.util.spec_from_file_location(name, path)
        assert found is not None  # sanity check
        assert found.loader is not None  # sanity check
        module = importlib.util.module_from_spec(found)
        sys.modules[name] = module
        found.loader.exec_module(module)
    except PluginError:
        raise
    except Exception as error:
        raise PluginError(
            f"--plugin {spec} does not import: {type(error).__name__}: {error}"
        ) from error
    return module


def load_registry(plugins: Sequence[str] = ()) -> Registry:
    """What ships, what is installed, and the plugins given.

    Raises:
        PluginError: a plugin that was given does not load.
    """
    registry = Registry()
    registry.find_entry_points()
    for spec in plugins:
        registry.load_plugin(spec)
    return registry
