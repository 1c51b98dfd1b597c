"""A torch module as a model, and its export to ONNX."""

from __future__ import annotations

import copy
import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch

from harness.errors import CasesError, ModelError, UnsupportedError
from harness.models.export import cache_folder
from harness.models.onnx_operators import find_operators
from harness.models.torch_model import TorchModel, name_outputs

from .graphs import random, run_ort


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("QUANTHARNESS_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


class Net(torch.nn.Module):
    """Layers declared in another order than they run, one never run."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.last = torch.nn.Linear(6, 3)
        self.unused = torch.nn.Linear(2, 2)
        self.first = torch.nn.Sequential(torch.nn.Conv1d(2, 3, 3, stride=2, padding=1))
        self.drop = torch.nn.Dropout(0.5)

    def forward(self, x):
        return self.last(self.drop(self.first(x)).relu().flatten(1))


def net(**options):
    return TorchModel("net", Net, example={"x": random(2, 2, 4)}, **options)


def test_operators_are_the_layers_that_run_in_their_order():
    """A layer that no run enters is none."""
    assert [o.name for o in net().operators()] == ["first.0", "last"]


def test_operators_compute_what_the_layers_do():
    """Weight, bias and attributes are those of the layer."""
    conv, linear = net().operators()
    module = Net()

    np.testing.assert_array_equal(conv.weight, module.first[0].weight.detach())
    assert (conv.stride, conv.padding, conv.groups) == ((2,), ((1, 1),), 1)
    np.testing.assert_array_equal(linear.bias, module.last.bias.detach())


def test_without_an_example_operators_are_all_layers():
    """In the order of the module: nothing can be run."""
    names = [o.name for o in TorchModel("net", Net).operators()]

    assert names == ["last", "unused", "first.0"]


def test_a_module_is_fresh_in_eval_mode_and_names_its_outputs():
    """Its layers keep their paths; changing it changes no other."""
    model = net()
    module = model.module()
    with torch.inference_mode():
        wanted = Net().eval()(torch.from_numpy(random(2, 2, 4)))
        found = module(x=torch.from_numpy(random(2, 2, 4)))
    module.last.weight.data.zero_()

    assert list(found) == ["output_0"]
    assert torch.equal(found["output_0"], wanted)
    assert not module.training
    assert module.get_submodule("first.0").kernel_size == (3,)
    assert model.module().last.weight.abs().sum() > 0


def test_a_copy_runs_its_own_layers():
    """A layer replaced in a deep copy is the one that is run there."""
    duplicate = copy.deepcopy(net().module())
    duplicate.last = torch.nn.Linear(6, 9)

    found = duplicate(x=torch.from_numpy(random(2, 2, 4)))
    assert found["output_0"].shape == (2, 9)


@pytest.mark.parametrize(
    ("result", "names", "wanted"),
    [
        (1, (), {"output_0": 1}),
        (1, ("y",), {"y": 1}),
        ((1, 2), (), {"output_0": 1, "output_1": 2}),
        ({"a": 1, "b": None}, (), {"a": 1}),
        ({"a": 1, "b": 2}, ("b",), {"b": 2}),
    ],
)
def test_outputs_have_names(result, names, wanted):
    """A mapping's own, the given ones, or numbers."""
    assert name_outputs(result, names) == wanted


def test_another_number_of_outputs_than_names_is_an_error():
    """Nothing is left out in silence."""
    with pytest.raises(ModelError, match="returns 2 outputs, but 1 are named"):
        name_outputs((1, 2), ("y",))


def test_the_fingerprint_is_of_weights_and_structure():
    """The same module twice is the same; one weight more or another layer is not."""

    def other():
        module = Net()
        module.last.bias.data[0] += 1
        return module

    def wider():
        module = Net()
        module.drop = torch.nn.Dropout(0.25)
        return module

    kept = net().fingerprint
    assert net().fingerprint == kept
    assert TorchModel("net", other).fingerprint != kept
    assert TorchModel("net", wider).fingerprint != kept


def test_an_export_computes_the_same_under_the_same_names():
    """At another batch size as well."""
    model = net()
    proto = model.onnx()
    x = random(5, 2, 4)

    assert [e.name for e in find_operators(proto)] == ["first.0", "last"]
    with torch.inference_mode():
        wanted = model.module()(x=torch.from_numpy(x))["output_0"].numpy()
    np.testing.assert_allclose(
        run_ort(proto, x=x)["output_0"], wanted, rtol=1e-5, atol=1e-6
    )


def test_layers_of_equal_weights_are_named_in_order():
    """Two layers that hold the same numbers still get their own names."""

    def twins():
        module = torch.nn.Sequential(*[torch.nn.Linear(2, 2) for _ in range(3)])
        module.load_state_dict(
            {k: torch.ones_like(v) for k, v in module.state_dict().items()}
        )
        return module

    model = TorchModel("twins", twins, example={"input": random(2, 2)})
    assert [e.name for e in find_operators(model.onnx())] == ["0", "1", "2"]


def test_an_export_is_kept(cache):
    """The second time the file is read; a damaged one is written anew."""
    net().onnx()
    (file,) = cache.rglob("*.onnx")
    before = file.stat()
    net().onnx()
    assert file.stat().st_mtime_ns == before.st_mtime_ns

    file.write_bytes(file.read_bytes()[:100])
    assert len(net().onnx().graph.node) > 3
    assert file.stat().st_size == before.st_size
    assert list(cache.rglob("*.part")) == []


def test_other_code_is_another_export(cache, tmp_path):
    """The same weights run by edited code are exported again."""
    source = tmp_path / "own.py"
    source.write_text("first")
    net(sources=(source,)).onnx()
    source.write_text("second")
    net(sources=(source,)).onnx()

    assert len(list(cache.rglob("*.onnx"))) == 2


def test_sources_are_the_users_own_files():
    """The file of the module's class and what lies beside it, no installed package."""
    found = {file.name for file in net().sources()}

    assert {"test_torch_model.py", "graphs.py"} <= found
    assert "linear.py" not in found


@pytest.mark.parametrize(
    ("variable", "value", "wanted"),
    [
        ("QUANTHARNESS_CACHE", "/own", "/own"),
        ("XDG_CACHE_HOME", "/xdg", "/xdg/quantharness"),
    ],
)
def test_the_cache_lies_where_the_user_says(monkeypatch, variable, value, wanted):
    """Own variable first, then the desktop standard's."""
    monkeypatch.delenv("QUANTHARNESS_CACHE")
    monkeypatch.setenv(variable, value)

    assert str(cache_folder()) == wanted


def frozen_branch():
    class Frozen(torch.nn.Module):
        """Does something else for more than two rows, which tracing cannot see."""

        def forward(self, x):
            return x * 2 if x.shape[0] <= 2 else x * 3

    return Frozen()


def frozen_size():
    class Frozen(torch.nn.Module):
        """Makes the batch of the example a constant."""

        def forward(self, x):
            return x.reshape(int(x.shape[0]), 2, -1) + torch.zeros(
                len(x.tolist()), 1, 1
            )

    return Frozen()


@pytest.mark.parametrize("build", [frozen_branch, frozen_size])
def test_an_export_that_froze_something_is_refused(build, cache):
    """It is noticed by running it at other sizes, and nothing is kept."""
    model = TorchModel("frozen", build, example={"x": random(2, 4)})

    with pytest.raises(UnsupportedError, match=r"frozen: .*(froze|does not run)"):
        model.onnx()
    assert list(cache.rglob("*.onnx")) == []


def test_without_an_example_there_is_no_export():
    """The message says what the factory should return."""
    with pytest.raises(UnsupportedError, match=r"return \(module, \{input name"):
        TorchModel("net", Net).onnx()


def test_what_the_exporter_refuses_is_unsupported():
    """Its own words are kept."""

    class Sorted(torch.nn.Module):
        def forward(self, x):
            return torch.linalg.svdvals(x)

    model = TorchModel("svd", Sorted, example={"x": random(2, 4)})
    with pytest.raises(UnsupportedError, match="svd cannot be exported to ONNX"):
        model.onnx()


def test_a_record_without_a_reader_needs_literal_inputs():
    """Nobody guesses what a text should become."""
    with pytest.raises(CasesError, match=r"should have \"inputs\""):
        net().prepare({"text": "hello"}, "")


@pytest.mark.quant_slow
def test_a_kept_export_needs_no_torch(cache):
    """Another process reads graph, operators and fingerprint without importing it."""
    from harness.models.zoo import minilm

    wanted = [o.name for o in minilm().operators()]
    minilm().onnx()
    program = (
        "import json, sys\n"
        "from harness.models.zoo import minilm\n"
        "model = minilm()\n"
        "nodes = len(model.onnx().graph.node)\n"
        "names = [o.name for o in model.operators()]\n"
        "loaded = [m for m in ('torch', 'transformers') if m in sys.modules]\n"
        "print(json.dumps([names, nodes > 100, loaded]))\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", program],
        env=os.environ | {"QUANTHARNESS_CACHE": str(cache)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert json.loads(result.stdout) == [wanted, True, []]
