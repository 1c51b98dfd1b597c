"""Models and backends that are not as one would like: a verdict or a clear message."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from types import MappingProxyType

import numpy as np
import pytest

from harness.backends.protocol import Outputs
from harness.cli.main import main
from harness.errors import UsageError
from harness.execution.api import explain, record, run
from harness.execution.cases_run import AT_A_TIME, run_cases
from harness.execution.selftest.api import selftest
from harness.models.types import Case

ROOT = Path(__file__).parents[2]
SUITE = """\
[suite]
name = "odd"
model = "model.onnx"
cases = "cases.jsonl"
reference = {{ backend = "{reference}", precision = "fp32" }}

[scheme.nothing]
base = "fp8_e4m3"
keep = ["*"]

[[target]]
backend = "{backend}"
scheme = "{scheme}"

[budget]
drift = 1.0
"""
BACKENDS = '''
"""Backends that refuse to be watched, or never give the same twice."""
import numpy as np
from harness.backends.onnxruntime_backend import OnnxRuntimeBackend
from harness.errors import BackendError

class Session:
    def __init__(self, inner): self.inner = inner
    def __getattr__(self, name): return getattr(self.inner, name)

class Refusing(Session):
    def run(self, inputs, *, capture=()):
        if capture:
            raise BackendError("this engine shows nothing of what is inside")
        return self.inner.run(inputs)

class Restless(Session):
    def __init__(self, inner):
        super().__init__(inner)
        self.rng = np.random.default_rng()
    def run(self, inputs, *, capture=()):
        found = self.inner.run(inputs, capture=capture)
        for array in found.values():
            array *= 1 + 0.01 * self.rng.standard_normal(array.shape)
        return found

class Planted(OnnxRuntimeBackend):
    def __init__(self, name, kind):
        super().__init__(name=name)
        self.kind = kind
    def load(self, model, scheme):
        inner = super().load(model, scheme)
        return inner if scheme is None else self.kind(inner)

def register(registry):
    registry.add_backend(Planted("refusing", Refusing))
    registry.add_backend(Planted("restless", Restless))
'''


def write(
    folder, nodes, weights, *, backend="onnxruntime", scheme="fp8_e4m3", **changes
):
    """A suite of one ONNX model with input and output (n, rows, width)."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    width = changes.get("width", 8)
    value = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", "rows", width])
        for name in ("x", "y")
    ]
    graph = helper.make_graph(
        nodes,
        "odd",
        value[:1],
        value[1:],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)])
    made.ir_version = 10
    onnx.save(made, folder / "model.onnx")
    text = SUITE.format(
        backend=backend, scheme=scheme, reference=changes.get("reference", "torch")
    )
    (folder / "suite.toml").write_text(text)
    rng = np.random.default_rng(1)
    rows = changes.get("rows", 16)
    lines = []
    for index in range(changes.get("cases", 4)):
        x = rng.standard_normal((1, rows, width)).astype(np.float16)
        lines.append(json.dumps({"id": f"c{index}", "inputs": {"x": x.tolist()}}))
    (folder / "cases.jsonl").write_text("\n".join(lines) + "\n")
    (folder / "odd.py").write_text(BACKENDS)
    return folder


def weight(seed=0, width=8, size=1.0):
    rng = np.random.default_rng(seed)
    return (size * rng.standard_normal((width, width)) / width**0.5).astype(np.float32)


def two_layers():
    """Nodes and weights of a plain model."""
    from onnx import helper

    nodes = [
        helper.make_node("MatMul", ["x", "w0"], ["h"], name="first"),
        helper.make_node("Relu", ["h"], ["a"]),
        helper.make_node("MatMul", ["a", "w1"], ["y"], name="second"),
    ]
    return nodes, {"w0": weight(0), "w1": weight(1)}


def recorded(folder):
    """Record the golden; the suite's folder."""
    record(
        [folder],
        reason="test",
        allow_ci=True,
        allow_dirty=True,
        plugins=[str(folder / "odd.py")],
    )
    return folder


def judged(folder, **options):
    """The judgement of the only target."""
    plugins = [str(folder / "odd.py")]
    return run([folder], out=folder / "run", plugins=plugins, **options).targets[0]


@pytest.mark.quant_slow
def test_a_model_without_a_quantized_operator_is_vacuous(tmp_path):
    """Nothing was quantized: that is no pass, and the self-test has nothing to do."""
    folder = recorded(write(tmp_path, *two_layers(), scheme="nothing"))

    found = judged(folder)

    assert str(found.verdict) == "vacuous"
    assert "operators shown to be quantized=0" in found.reason
    with pytest.raises(UsageError, match="no target quantizes an operator"):
        selftest([folder])


@pytest.mark.quant_slow
def test_a_model_without_any_operator_is_vacuous(tmp_path):
    """Not a weight in it."""
    from onnx import helper

    nodes = [helper.make_node("Relu", ["x"], ["y"])]
    folder = recorded(write(tmp_path, nodes, {}))

    assert str(judged(folder).verdict) == "vacuous"


@pytest.mark.quant_slow
def test_a_backend_that_refuses_captures_is_judged_by_its_outputs(tmp_path):
    """No crash, and the report says that operators were not seen."""
    folder = recorded(write(tmp_path, *two_layers(), backend="refusing"))

    found = judged(folder)

    assert str(found.verdict) == "pass"
    assert "refusing shows no operator outputs: this engine shows" in found.reason


@pytest.mark.quant_slow
def test_a_backend_that_never_gives_the_same_twice_is_unstable(tmp_path):
    """Its repeats differ, and by how much is said."""
    folder = recorded(write(tmp_path, *two_layers(), backend="restless"))

    found = judged(folder)

    assert str(found.verdict) == "unstable"
    assert "repeat: relative difference=" in found.reason


def branch(name, constant):
    """A branch that gives its own weight's product."""
    from onnx import TensorProto, helper

    out = helper.make_tensor_value_info(name, TensorProto.FLOAT, None)
    node = helper.make_node("MatMul", ["h", constant], [name], name=f"in_{name}")
    return helper.make_graph([node], name, [], [out])


def with_if():
    """A condition that depends on the input, with a product in each branch."""
    from onnx import helper

    nodes = [
        helper.make_node("MatMul", ["x", "w0"], ["h"], name="first"),
        helper.make_node("ReduceMax", ["h"], ["most"], keepdims=0),
        helper.make_node("Greater", ["most", "zero"], ["high"]),
        helper.make_node(
            "If",
            ["high"],
            ["y"],
            then_branch=branch("yes", "w1"),
            else_branch=branch("no", "w2"),
        ),
    ]
    weights = {"w0": weight(0), "w1": weight(1), "w2": weight(2)}
    return nodes, {**weights, "zero": np.array(0, np.float32)}


def with_loop():
    """Three turns of a product with the same weight."""
    from onnx import TensorProto, helper

    scalar = {"i": TensorProto.INT64, "go_in": TensorProto.BOOL}
    inputs = [helper.make_tensor_value_info(n, t, []) for n, t in scalar.items()]
    inputs.append(helper.make_tensor_value_info("s", TensorProto.FLOAT, None))
    outputs = [
        helper.make_tensor_value_info("go_out", TensorProto.BOOL, []),
        helper.make_tensor_value_info("t", TensorProto.FLOAT, None),
    ]
    body = helper.make_graph(
        [
            helper.make_node("Identity", ["go_in"], ["go_out"]),
            helper.make_node("MatMul", ["s", "w1"], ["t"], name="turn"),
        ],
        "body",
        inputs,
        outputs,
    )
    nodes = [
        helper.make_node("MatMul", ["x", "w0"], ["h"], name="first"),
        helper.make_node("Loop", ["three", "go", "h"], ["y"], body=body),
    ]
    constants = {"three": np.array(3), "go": np.ones((), bool)}
    return nodes, {"w0": weight(0), "w1": weight(1), **constants}


@pytest.mark.quant_slow
@pytest.mark.parametrize("make", [with_if, with_loop])
def test_control_flow_runs_where_the_engine_has_it(tmp_path, make):
    """What lies outside of branches and bodies is quantized and held to the oracle."""
    folder = recorded(write(tmp_path, *make(), reference="onnxruntime"))

    found = judged(folder)

    assert [operator.name for operator in found.operators] == ["first"]
    assert not any(operator.guilty for operator in found.operators)
    assert str(found.verdict) not in {"error", "crash", "defect", "vacuous"}


@pytest.mark.quant_slow
@pytest.mark.parametrize(("make", "name"), [(with_if, "If"), (with_loop, "Loop")])
def test_control_flow_that_torch_does_not_read_is_told(tmp_path, capsys, make, name):
    """The operator by name, and no traceback."""
    folder = write(tmp_path, *make())

    code = main(["record", str(folder), "--reason", "test", "--allow-ci"])

    assert code != 0
    said = "".join(capsys.readouterr())
    assert name in said
    assert "Traceback" not in said


class Counting:
    """A session that shows whatever is asked for, and counts how much that is."""

    def __init__(self, streams):
        self.streams = streams
        self.most = 0

    def run(self, inputs, *, capture=()):
        x = inputs["x"]
        if self.streams and hasattr(capture, "observer"):
            for name in capture:
                capture.observer(name, x, x)
            return Outputs({"y": x})
        self.most = max(self.most, len(list(capture)))
        shown = {n: x for c in capture for n in (c, f"{c}/input")}
        return Outputs({"y": x, **shown})


class Plain:
    """As much of a model as running cases looks at."""

    step_inputs = ()
    state = MappingProxyType({})
    batch_axes = MappingProxyType({})


@pytest.mark.parametrize("streams", [True, False])
def test_thousands_of_operators_are_watched_a_few_at_a_time(streams):
    """Each once; never more tensors at a time than there is room for."""
    names = [f"op{n}" for n in range(5000)]
    # 1 MiB an operator, input and output: 5 GiB in all.
    case = Case(id="a", inputs={"x": np.ones((1, 1 << 17), np.float32)})
    session, seen = Counting(streams), []

    found = run_cases(
        session,
        Plain(),
        [case],
        batch=1,
        capture=names,
        on_capture=lambda name, _x, _y: seen.append(name),
    )

    assert sorted(seen) == sorted(names)
    assert session.most <= AT_A_TIME
    assert set(found.outputs["a"]) == {"y"}


def test_few_operators_are_watched_in_one_run():
    """Nothing is run twice for them."""
    case = Case(id="a", inputs={"x": np.ones((1, 2), np.float32)})
    names = [f"op{n}" for n in range(AT_A_TIME)]

    found = run_cases(
        Counting(streams=False),
        Plain(),
        [case],
        batch=1,
        capture=names,
        on_capture=lambda *_: None,
    )

    assert found.calls == 1


def deep(count, width=32):
    """Residual layers: each adds a small product."""
    from onnx import helper

    nodes, weights, last = [], {}, "x"
    for index in range(count):
        name = "y" if index == count - 1 else f"x{index}"
        weights[f"w{index}"] = weight(index, width, size=0.02)
        nodes += [
            helper.make_node(
                "MatMul", [last, f"w{index}"], [f"m{index}"], name=f"op{index}"
            ),
            helper.make_node("Add", [last, f"m{index}"], [name]),
        ]
        last = name
    return nodes, weights


@pytest.mark.quant_slow
@pytest.mark.parametrize(
    ("backend", "count", "rows"), [("torch", 5000, 2048), ("onnxruntime", 1000, 10240)]
)
def test_thousands_of_operators_are_checked_in_bounded_memory(
    tmp_path, backend, count, rows
):
    """All of them; below what all of their tensors at once would take, 2.4 GiB.

    ONNX Runtime takes minutes to load a graph of 5,000: 1,000 do as well.
    """
    width = 32
    folder = write(
        tmp_path, *deep(count), backend=backend, width=width, rows=rows, cases=1
    )
    recorded(folder)
    script = (
        "import resource, sys; from harness.execution.api import run; "
        "t = run([sys.argv[1]], out=sys.argv[1] + '/run').targets[0]; "
        "print(len(t.operators), t.verdict, t.reason); "
        "kinds = resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN; "
        "print(max(resource.getrusage(kind).ru_maxrss for kind in kinds))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(folder)],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
    )
    # Its own and its workers', not what other tests' processes took.
    peak = int(done.stdout.split()[-1]) * 1024
    everything = count * 2 * rows * width * 4

    assert done.stdout.startswith(f"{count} "), done.stdout
    assert peak < everything


@pytest.mark.parametrize("schema", [0, None, 99])
def test_a_run_folder_of_another_schema_is_told(tmp_path, capsys, schema):
    """Which it has, which is read, and what to do; exit 2."""
    (tmp_path / "run.json").write_text(json.dumps({"schema": schema, "targets": []}))

    with pytest.raises(UsageError, match="but this version reads"):
        explain(tmp_path, None)
    assert main(["explain", str(tmp_path)]) == 2
    assert "run the suites again" in capsys.readouterr().err
