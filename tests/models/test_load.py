"""`model =` of a suite names a model, or the message says what is wrong with it."""

from __future__ import annotations

import numpy as np
import pytest

from harness.errors import ModelError
from harness.models.load import load_model
from harness.models.types import Model

PLAIN = "import numpy as np\nimport torch\n"


@pytest.fixture
def factory(tmp_path, request):
    """Write a module beside the suite; returns the spec of its `make`."""

    def write(body):
        name = f"factory_{abs(hash((request.node.name, body)))}"
        text = PLAIN + "def make():\n    " + body + "\n"
        (tmp_path / f"{name}.py").write_text(text)
        return f"{name}:make"

    return write


@pytest.mark.parametrize(
    "body",
    [
        "return torch.nn.Linear(4, 2), {'input': np.ones((1, 4), 'f')}",
        "return torch.nn.Linear(4, 2), {'input': torch.ones(1, 4)}",
        "return torch.nn.Linear(4, 2), (torch.ones(1, 4),)",
        "return torch.nn.Linear(4, 2), torch.ones(1, 4)",
    ],
)
def test_a_factory_returns_a_module_and_an_example(factory, tmp_path, body):
    """Example inputs by name, by position, or one alone."""
    model = load_model(factory(body), tmp_path)

    assert isinstance(model, Model)
    assert [(s.name, s.dtype, s.shape) for s in model.inputs] == [
        ("input", "float32", (None, None))
    ]
    assert [s.name for s in model.outputs] == ["output_0"]


def test_a_factory_may_return_a_module_alone(factory, tmp_path):
    """Its inputs are the parameters of `forward`, of any shape."""
    model = load_model(factory("return torch.nn.Linear(4, 2)"), tmp_path)

    assert [s.name for s in model.inputs] == ["input"]


def test_a_factory_may_return_a_model(factory, tmp_path):
    """Which is taken as it is."""
    body = "from harness.models.zoo import vad; return vad()"

    assert load_model(factory(body), tmp_path).name == "vad"


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("return 1", "returns int, but should return"),
        ("return (1, 2, 3)", "returns tuple, but should return"),
        ("raise KeyError('weights')", "the factory failed: KeyError: 'weights'"),
        ("return torch.nn.Linear(4, 2), {'input': 'text'}", "'input' is str"),
        ("return torch.nn.Linear(4, 2), (1.0, 2.0, 3.0)", "returns 3 example inputs"),
    ],
)
def test_a_factory_that_returns_something_else_is_named(factory, tmp_path, body, words):
    """With what it returned, or how it failed."""
    spec = factory(body)

    with pytest.raises(ModelError, match=words) as caught:
        load_model(spec, tmp_path)
    assert spec in str(caught.value)


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("no_such_module:make", "no_such_module does not import"),
        ("json:make", "json has no function 'make'"),
        ("model.pt", "neither a .onnx file, nor a folder"),
        ("missing.onnx", "no such file"),
    ],
)
def test_what_is_not_there_is_named(tmp_path, spec, words):
    """One message, with the spec or the path."""
    with pytest.raises(ModelError, match=words):
        load_model(spec, tmp_path)


def test_a_module_that_fails_to_import_is_named(tmp_path):
    """With its own error."""
    (tmp_path / "broken_import.py").write_text("raise RuntimeError('no licence')\n")

    with pytest.raises(ModelError, match="does not import: RuntimeError: no licence"):
        load_model("broken_import:make", tmp_path)


def test_a_folder_without_a_config_is_no_model(tmp_path):
    """The missing file is named."""
    (tmp_path / "weights").mkdir()

    with pytest.raises(ModelError, match=r"weights: no config\.json"):
        load_model("weights", tmp_path)


def test_examples_keep_their_values(factory, tmp_path):
    """Arrays of a factory come out as they went in."""
    body = "return torch.nn.Embedding(4, 2), {'input': np.array([[1, 2]])}"
    model = load_model(factory(body), tmp_path)

    np.testing.assert_array_equal(model.example["input"], [[1, 2]])
    assert model.inputs[0].dtype == "int64"
