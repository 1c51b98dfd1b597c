"""Plugins: found, loaded late, and never able to break anything else."""

from __future__ import annotations

import sys
from importlib.metadata import EntryPoint

import pytest

from harness.backends import registry as registry_module
from harness.backends.onnx_reference_backend import OnnxReferenceBackend
from harness.backends.protocol import Availability, Support
from harness.backends.registry import Registry, load_registry
from harness.backends.torch_backend import TorchBackend
from harness.errors import PluginError, UsageError
from harness.schemes.catalogue import SCHEMES

#: In the order that messages list them.
SHIPPED = (
    *("aihwkit", "analog", "iree", "llama.cpp", "onnx-reference", "onnxruntime"),
    *("openvino", "quark", "tensorrt", "torch", "torch-compile"),
)


class Echo:
    """The smallest backend."""

    name = "echo"

    def probe(self):
        return Availability(available=True)

    def supports(self, model, scheme):  # noqa: ARG002
        return Support(supported=True)

    def load(self, model, scheme):  # noqa: ARG002
        raise AssertionError


@pytest.fixture
def installed(monkeypatch):
    """Entry points as if packages had been installed."""
    points = []

    def find(group):
        return [point for point in points if point.group == group]

    monkeypatch.setattr(registry_module, "entry_points", find)

    def add(name, value, kind="backends"):
        points.append(EntryPoint(name, value, f"quantharness.{kind}"))

    return add


def test_what_ships_is_there_without_being_loaded(installed):
    """Every backend is known, and none is imported before it is asked for."""
    registry = load_registry()

    assert registry.backend_names == SHIPPED
    assert not registry._backends
    assert registry.backend("onnxruntime").name == "onnxruntime"


def test_an_unknown_backend_gets_the_nearest_name(installed):
    """A typo is answered with what was meant; anything else with what there is."""
    with pytest.raises(UsageError, match="did you mean 'onnxruntime'"):
        load_registry().backend("onnxruntim")
    with pytest.raises(UsageError, match=f"known: {', '.join(SHIPPED)}; --plugin"):
        load_registry().backend("zzz")


def test_an_installed_backend_loads_when_asked_for(installed):
    """An entry point is a class that is called without arguments."""
    installed("echo", f"{__name__}:Echo")
    module = type(registry_module)(__name__)
    module.Echo = Echo
    sys.modules[__name__] = module
    try:
        assert isinstance(load_registry().backend("echo"), Echo)
    finally:
        del sys.modules[__name__]


def test_a_plugin_that_does_not_import_breaks_nothing_else(installed):
    """It is remembered with its reason; the others still load."""
    installed("broken", "no_such_module:Backend")
    installed("worse", "no_such_module:SCHEME", "schemes")

    registry = load_registry()

    assert "ModuleNotFoundError" in registry.failed["worse"]
    assert registry.backend("onnxruntime")
    with pytest.raises(UsageError, match="'broken' does not load: ModuleNotFound"):
        registry.backend("broken")
    assert "no_such_module" in registry.failed["broken"]


def test_a_plugin_under_another_name_is_told(installed):
    """An entry point that registers another name than its own."""
    installed("other", "harness.backends.onnxruntime_backend:OnnxRuntimeBackend")

    registry = load_registry()

    with pytest.raises(UsageError, match="calls itself 'onnxruntime', but should be"):
        registry.backend("other")


def test_a_plugin_cannot_pass_for_what_ships(installed):
    """Neither by lying about its name nor by taking ours."""
    liar = f"{__name__}:Liar"
    installed("honest", liar)
    installed("onnx-reference", liar)
    module = type(registry_module)(__name__)
    module.Liar = type("Liar", (Echo,), {"name": "torch"})
    sys.modules[__name__] = module
    try:
        registry = load_registry()
        with pytest.raises(UsageError, match="calls itself 'torch', but should be"):
            registry.backend("honest")

        assert isinstance(registry.backend("torch"), TorchBackend)
        assert isinstance(registry.backend("onnx-reference"), OnnxReferenceBackend)
        reason = registry.failed[f"onnx-reference ({liar})"]
        assert reason.startswith("the name is taken by harness.backends.onnx_reference")
    finally:
        del sys.modules[__name__]


def test_values_are_added_by_kind(installed):
    """A scheme of an installed package is found by its name."""
    installed("mine", "harness.schemes.catalogue:SCHEMES", "schemes")
    registry = Registry()
    registry.add_scheme(SCHEMES["int4"])

    registry.find_entry_points()

    assert registry.schemes["int4"] is SCHEMES["int4"]
    # A dict is no scheme: remembered, not raised.
    assert "AttributeError" in registry.failed["mine"]


def test_what_is_no_backend_is_refused():
    """The first member that is missing is named."""
    with pytest.raises(PluginError, match="int is no backend: it has no 'name'"):
        Registry().add_backend(3)


PLUGIN = """
from harness.schemes.types import Scheme


class Named:
    def __init__(self, name):
        self.name = name


def register(registry):
    registry.add_scheme(Scheme(name="mine", weights=None))
    registry.add_behaviour(Named("polite"))
    registry.add_metric(Named("wer"))
    registry.add_defect(Named("swap"))
"""


def test_a_file_registers_everything(tmp_path):
    """`--plugin FILE` adds schemes, behaviours, metrics and defects."""
    (tmp_path / "mine.py").write_text(PLUGIN)

    registry = load_registry([str(tmp_path / "mine.py")])

    assert list(registry.schemes) == ["mine"]
    kinds = (registry.behaviours, registry.metrics, registry.defects)
    assert [list(kind) for kind in kinds] == [["polite"], ["wer"], ["swap"]]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "no such file"),
        ("x = 1", "no function register"),
        ("def register(", "does not import: SyntaxError"),
        ("def register(registry):\n    1 / 0", "register failed: ZeroDivisionError"),
    ],
)
def test_a_file_that_is_no_plugin_says_why(text, message, tmp_path):
    """What was given by name must load: wrong usage otherwise."""
    path = tmp_path / "bad.py"
    if text is not None:
        path.write_text(text)

    with pytest.raises(PluginError, match=message):
        load_registry([str(path)])


def test_a_module_that_is_not_there_says_so():
    """A module's name is imported."""
    with pytest.raises(PluginError, match="no_such_module does not import"):
        load_registry(["no_such_module"])
