"""The whole length on a real model: record, run, judge, and every way to fail."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
import tomllib
from pathlib import Path

import psutil
import pytest

from harness.cli.main import main
from harness.errors import UsageError
from harness.execution import isolation, matrix
from harness.execution.api import explain, record, run
from harness.execution.calibration import calibrate
from harness.execution.observer import Silent
from harness.history import load

pytestmark = pytest.mark.quant_slow

ROOT = Path(__file__).parents[2]
SUITE = """\
[suite]
name = "small"
model = "harness.models.zoo:vad"
cases = "cases.jsonl"
reference = {{ backend = "torch", precision = "fp16" }}
batch = {batch}

[[target]]
backend = "{backend}"
scheme = "{scheme}"
required = true

[budget]
drift = 1.0

[[behaviour]]
kind = "threshold"
name = "speech"
output = "output"
label = "speech"
margin = 0.5
"""
PLUGIN = """\
import os, time
import numpy as np
from harness.backends.onnxruntime_backend import OnnxRuntimeBackend
from harness.backends.protocol import Artifact

class Session:
    def __init__(self, inner): self.inner = inner
    def __getattr__(self, name): return getattr(self.inner, name)
    def run(self, inputs, *, capture=()):
        outputs = self.inner.run(inputs, capture=capture)
        {act}
        return outputs

class Planted(OnnxRuntimeBackend):
    def __init__(self):
        super().__init__()
        self.name = "planted"
    def load(self, model, scheme):
        {load}

def register(registry):
    registry.add_backend(Planted())
"""


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    """A folder with twelve real clips and their golden."""
    folder = tmp_path_factory.mktemp("small")
    lines = (ROOT / "suites/vad/cases.jsonl").read_text().splitlines()
    (folder / "cases.jsonl").write_text("\n".join(lines[::9][:12]) + "\n")
    shutil.copy(ROOT / "suites/vad/clips.npz", folder)
    write(folder)
    result = record([folder], reason="test", allow_ci=True)
    assert ["recorded"] == [suite.status for suite in result.suites]
    return folder


def write(folder, *, backend="onnxruntime", scheme="mxfp4", batch=16):
    """The suite's toml."""
    text = SUITE.format(backend=backend, scheme=scheme, batch=batch)
    (folder / "suite.toml").write_text(text)


@pytest.fixture
def suite(recorded, tmp_path):
    """A copy that a test may spoil."""
    folder = tmp_path / "small"
    shutil.copytree(recorded, folder)
    return folder


def judge(folder, out, **more):
    """The judgement of the suite's only target."""
    return run([folder], out=out, **more).targets[0]


def test_a_clean_target_passes_with_its_evidence(suite, tmp_path):
    """Pass, operators explained, and a run folder that reads back."""
    found = judge(suite, tmp_path / "out")
    data = json.loads((tmp_path / "out/run.json").read_text())

    assert ("pass", 0) == (str(found.verdict), found.exit_code)
    assert 7 == len(found.operators)
    assert not any(entry.guilty for entry in found.operators)
    assert {"suite", "backend", "scheme", "verdict", "reason", "measurements"} <= set(
        data["targets"][0]
    )
    assert found.name == explain(tmp_path / "out", "mxfp4").targets[0].name


@pytest.mark.parametrize("backend", ["onnxruntime", "torch"])
def test_unchanged_runs_pass_at_every_thread_count_and_batch(
    suite, tmp_path, backend, monkeypatch
):
    """Ten runs a backend that differ in threads and batch only: ten passes."""
    verdicts = []
    for threads in ("1", "2"):
        monkeypatch.setenv("QUANTHARNESS_THREADS", threads)
        for batch in (1, 2, 3, 5, 16):
            write(suite, backend=backend, scheme="fp8_e4m3", batch=batch)
            out = tmp_path / f"{threads}-{batch}"
            verdicts.append(str(judge(suite, out).verdict))

    assert ["pass"] * 10 == verdicts


ROLL = """
        from harness.schemes.onnx_qdq import build
        from harness.backends.onnxruntime_backend import OnnxRuntimeSession
        from onnx import numpy_helper
        built = build(model.onnx(), scheme)
        for tensor in built.proto.graph.initializer:
            if tensor.name.startswith("node_linear/") and "weight_scale" in tensor.name:
                array = numpy_helper.to_array(tensor)
                rolled = np.roll(array, 1, axis=1)
                assert not np.array_equal(rolled, array)
                tensor.CopyFrom(numpy_helper.from_array(rolled, tensor.name))
        return OnnxRuntimeSession(built, "fp32", scheme)
"""
PLAIN = "return Session(super().load(model, scheme))"
#: The second call writes over what the first one returned.
REUSED = """
        first = self.__dict__.setdefault("first", outputs["output"])
        self.calls = getattr(self, "calls", 0) + 1
        if self.calls == 2:
            first += 0.25
"""


#: More and more of it, until it is killed.
GREEDY = """hoard = []
        while True:
            hoard.append(np.ones(10**7))
            time.sleep(0.01)
"""


@pytest.mark.parametrize(
    ("load", "act", "verdict", "message"),
    [
        (ROLL, "pass", "defect", "node_linear"),
        (PLAIN, "pass", "pass", ""),
        (PLAIN, "os.abort()", "error", "SIGABRT"),
        (PLAIN, "os._exit(3)", "error", "status 3"),
        (PLAIN, "time.sleep(600)", "error", "no answer within 40 s"),
        (PLAIN, "raise MemoryError('too much')", "error", "MemoryError: too much"),
        (PLAIN, GREEDY, "error", "should have at most 2 GB (--memory); killed"),
        (
            PLAIN,
            "outputs._arrays['output'] = outputs['output'] * np.nan",
            "defect",
            "nan",
        ),
        (PLAIN, REUSED, "unstable", "what was returned, after the next call"),
        (
            "s = Session(super().load(model, None)); s.artifact = Artifact; return s",
            "pass",
            "vacuous",
            "",
        ),
    ],
    ids=[
        "rolled",
        "clean",
        "abort",
        "exit",
        "hang",
        "memory",
        "too much memory",
        "nan",
        "reused",
        "unquantized",
    ],
)
def test_what_a_backend_does_wrong_is_the_targets_verdict(  # noqa: PLR0917
    suite, tmp_path, load, act, verdict, message
):
    """A defect is named by its operator; a crash ends the target, not the run."""
    plugin = tmp_path / "planted.py"
    plugin.write_text(PLUGIN.format(act=act, load=load))
    write(suite, backend="planted")

    found = judge(suite, tmp_path / "out", plugins=[str(plugin)], timeout=40, memory=2)

    assert verdict == str(found.verdict), found.reason
    assert message in found.reason


def spoil_truncate(golden):
    """Half of the tensors."""
    path = next(golden.glob("*.safetensors"))
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def spoil_flip(golden):
    """One bit of one byte."""
    path = next(golden.glob("*.safetensors"))
    data = bytearray(path.read_bytes())
    data[-5] ^= 1
    path.write_bytes(data)


def spoil_foreign(golden):
    """The golden of another suite."""
    shutil.rmtree(golden)
    shutil.copytree(ROOT / "golden/minilm", golden)


def spoil_pointer(golden):
    """What git-LFS leaves when the data was not pulled."""
    path = next(golden.glob("*.safetensors"))
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\n")


@pytest.mark.parametrize(
    "spoil", [spoil_truncate, spoil_flip, spoil_foreign, spoil_pointer, shutil.rmtree]
)
def test_a_spoilt_golden_is_stale(suite, tmp_path, spoil):
    """Truncated, altered, foreign, a pointer or missing: stale, and exit 1."""
    spoil(suite / "golden")
    found = judge(suite, tmp_path / "out")

    assert ("stale", 1) == (str(found.verdict), found.exit_code)
    assert found.reason


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "no cases"),
        ('{"id": "a", "audio": "clips.npz#nothing"}\n', "no array 'nothing'"),
        ('{"id": "a", "inputs": {"input": [[[1.0]]], "state": [[[0.0]]]}}\n', "shape"),
        ('{"id": "a"\n', "not JSON"),
    ],
)
def test_wrong_cases_end_the_run_with_one_message(suite, tmp_path, content, message):
    """Empty, malformed or misshapen cases are wrong usage: exit 2."""
    (suite / "cases.jsonl").write_text(content)

    with pytest.raises(UsageError, match=message):
        judge(suite, tmp_path / "out")


def test_other_cases_make_the_golden_stale(suite, tmp_path):
    """A golden recorded from other cases is not compared."""
    file = suite / "cases.jsonl"
    file.write_text("\n".join(file.read_text().splitlines()[:-1]) + "\n")
    found = judge(suite, tmp_path / "out")

    assert "stale" == str(found.verdict)
    assert "other cases" in found.reason


def test_a_run_against_itself_as_baseline_passes(suite, tmp_path):
    """Bit-identical outputs are no regression, and the baseline is named."""
    first = run([suite], out=tmp_path / "first")
    second = run([suite], out=tmp_path / "second", baseline=str(tmp_path / "first"))

    assert first.run == second.baseline
    assert 0 == second.exit_code


def test_a_sealed_golden_is_not_overwritten(suite):
    """Without --renew nothing is written; the same content is `unchanged`."""
    before = {p.name: p.read_bytes() for p in (suite / "golden").iterdir()}
    result = record([suite], allow_ci=True)

    assert result.suites[0].status in ("unchanged", "refused")
    assert before == {p.name: p.read_bytes() for p in (suite / "golden").iterdir()}


def test_recording_on_ci_needs_leave(suite, monkeypatch):
    """A CI machine does not bless its own output."""
    monkeypatch.setenv("CI", "true")
    shutil.rmtree(suite / "golden")

    with pytest.raises(UsageError, match="--allow-ci"):
        record([suite])
    assert "CI" in os.environ


def test_nightlies_keep_their_state_in_the_history(suite, tmp_path, capsys):
    """The second night reads the first's state, and both hold the level together."""
    history = tmp_path / "history"
    for night in ("1", "2"):
        arguments = ["nightly", str(suite), "--history", str(history)]
        assert 0 == main([*arguments, "--out", str(tmp_path / night)])
        assert f"night {night}: false discoveries" in capsys.readouterr().out
    last = load(history).reports[-1]
    (answers,) = last.nights["answers"].values()

    assert {"nights": 1, "lost": 0, "gained": 0} == answers["wealth"]
    assert last.nights["spent"] > last.nights["alpha"]
    assert "lost=0, gained=0 over 1 nights" in str(last.targets[0].as_dict())


def test_one_backend_at_a_time_holds_a_model(suite, tmp_path, monkeypatch):
    """Its worker ends before the next one's starts, but for the oracle's."""
    text = (suite / "suite.toml").read_text()
    more = "".join(
        f'[[target]]\nbackend = "{name}"\nscheme = "mxfp8"\n'
        for name in ("onnxruntime", "onnxruntime@unoptimized")
    )
    (suite / "suite.toml").write_text(f"{text}\n{more}")
    made, running = [], {}

    class Watched(isolation.Worker):
        """Tells which others run when it is made."""

        def __init__(self, **options):
            super().__init__(**options)
            name = options["log"].stem.removeprefix("small-")
            running[name] = [n for n, other in made if other._process is not None]
            made.append((name, self))

    monkeypatch.setattr(matrix, "Worker", Watched)

    result = run([suite], out=tmp_path / "run")

    verdicts = {str(target.verdict) for target in result.targets}
    assert len(result.targets) == 3
    assert verdicts <= {"pass", "inconclusive"}
    assert running == {"onnxruntime": [], "onnxruntime@unoptimized": []}
    assert all(worker._process is None for _, worker in made)


MORE = """
[[target]]
backend = "onnxruntime"
scheme = "int8"

[[target]]
backend = "onnxruntime@unoptimized"
scheme = "mxfp4"
"""


class Interrupting(Silent):
    """Ctrl-C after the first verdict."""

    def on_done(self, judgement):  # noqa: ARG002 - what observers are given
        """As if it were pressed."""
        raise KeyboardInterrupt


class Listening(Silent):
    """Keeps what is said, and which targets are begun."""

    def __init__(self):
        self.said = []

    def on_message(self, text):
        """Keep it."""
        self.said.append(text)


def without_times(report):
    """The verdicts, but for how long they took and where they lie."""
    targets = [target.as_dict() for target in report.targets]
    for target in targets:
        del target["timings"], target["command"]
    return targets


def test_an_interrupted_run_goes_on_as_if_it_had_not_been(suite, tmp_path):
    """What was done is not done again; the report is that of a run in one go."""
    with (suite / "suite.toml").open("a") as file:
        file.write(MORE)
    whole = run([suite], out=tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        run([suite], out=tmp_path / "two", observer=Interrupting())
    (first,) = (tmp_path / "two").glob("targets/*/*/*/evidence.json")
    written = first.stat().st_mtime_ns
    outputs = (first.parent / "outputs/manifest.json").stat().st_mtime_ns
    listening = Listening()

    again = run([suite], out=tmp_path / "two", observer=listening)

    assert without_times(whole) == without_times(again)
    assert 3 == len(again.targets)
    assert "1 of 3 targets have their verdict" in listening.said[0]
    assert first.stat().st_mtime_ns >= written
    assert outputs == (first.parent / "outputs/manifest.json").stat().st_mtime_ns


def test_a_run_does_not_go_on_under_another_budget(suite, tmp_path):
    """Its verdicts would be of two suites."""
    with (suite / "suite.toml").open("a") as file:
        file.write(MORE)
    with pytest.raises(KeyboardInterrupt):
        run([suite], out=tmp_path / "run", observer=Interrupting())
    text = (suite / "suite.toml").read_text().replace("drift = 1.0", "drift = 2.0")
    (suite / "suite.toml").write_text(text)

    with pytest.raises(UsageError, match=r"suite small: .* there"):
        run([suite], out=tmp_path / "run")


def test_ctrl_c_ends_a_run_at_once(suite, tmp_path):
    """The target that ran has no verdict, nobody is left, and it says how to go on."""
    plugin = tmp_path / "planted.py"
    plugin.write_text(PLUGIN.format(act="time.sleep(600)", load=PLAIN))
    write(suite, backend="planted")
    # Whoever runs the tests in the background ignores Ctrl-C, and so would they.
    code = (
        "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler); "
        "from harness.cli.main import main; sys.exit(main())"
    )
    command = [sys.executable, "-c", code, "run", str(suite), "--plugin", str(plugin)]
    with subprocess.Popen(
        [*command, "--out", str(tmp_path / "run")],
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        log = tmp_path / "run/logs/small-planted.log"
        try:
            while not log.exists():
                time.sleep(0.1)
            children = psutil.Process(process.pid).children(recursive=True)
            os.killpg(process.pid, signal.SIGINT)
            _, told = process.communicate(timeout=60)
        finally:
            process.kill()

    assert 130 == process.returncode
    assert f"--out {tmp_path / 'run'} goes on" in told
    assert children
    assert not psutil.wait_procs(children, timeout=20)[1]
    assert not list((tmp_path / "run").glob("targets/*/*/*/verdict.json"))


def test_calibrating_one_target_keeps_every_other_entry(suite):
    """A limit is written for what was asked for; the ledger's other tables stay."""
    with (suite / "suite.toml").open("a") as file:
        file.write('\n[[target]]\nbackend = "torch"\nscheme = "int8"\n')
    calibrate([suite], write=True, reason="first")
    first = tomllib.loads((suite / "budgets.toml").read_text())["budget"]
    before = {(entry["target"], entry["metric"]): entry for entry in first}
    calibrate([suite], schemes=["int8"], write=True, reason="again")
    again = tomllib.loads((suite / "budgets.toml").read_text())["budget"]
    after = {(entry["target"], entry["metric"]): entry for entry in again}

    assert {("onnxruntime/mxfp4", "drift"), ("torch/int8", "drift")} == set(before)
    assert before.keys() == after.keys()
    assert before["onnxruntime/mxfp4", "drift"] == after["onnxruntime/mxfp4", "drift"]
    with pytest.raises(UsageError, match="did you mean 'int8'"):
        calibrate([suite], schemes=["int"], write=True)
