"""The command line: exit codes, one clear line, help with examples."""

import json
import os
import subprocess
import sys

import pytest

from harness.cli.main import COMMANDS, main


@pytest.fixture
def suite(tmp_path):
    """A suite whose model file is not ONNX."""
    folder = tmp_path / "broken"
    folder.mkdir()
    (folder / "model.onnx").write_bytes(b"not onnx at all")
    (folder / "cases.jsonl").write_text("")
    (folder / "suite.toml").write_text(
        '[suite]\nname = "broken"\nmodel = "model.onnx"\ncases = "cases.jsonl"\n'
        '[[target]]\nbackend = "onnxruntime"\nscheme = "fp8_e4m3"\n'
    )
    return folder


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_with_an_example(command, capsys):
    """`--help` ends with a line that can be copied."""
    with pytest.raises(SystemExit) as caught:
        main([command, "--help"])

    assert 0 == caught.value.code
    assert f"example:\n  quantharness {command}" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "nowhere"], "nowhere: no such file or folder"),
        (["explain", "nowhere"], "not a run folder"),
        (["report"], "give a RUN folder"),
        (["gate", "--baseline", "nowhere", "suites"], "nowhere"),
        (
            ["gate", "--baseline", "history:latest", "--history", "nights", "suites"],
            "nights",
        ),
        (["run", "suites", "--plugin", "nowhere.py"], "no such file"),
    ],
)
def test_wrong_usage_is_exit_2_and_one_line(arguments, message, capsys):
    """No traceback: what is wrong, on standard error."""
    assert 2 == main(arguments)
    found = capsys.readouterr()

    assert message in found.err
    assert 1 == len(found.err.strip().splitlines())
    assert "" == found.out


def test_a_typo_in_suite_toml_is_exit_2(suite, capsys):
    """File, line and what was meant."""
    file = suite / "suite.toml"
    file.write_text(file.read_text().replace("scheme", "shceme"))

    assert 2 == main(["run", str(suite)])
    assert (
        "suite.toml:7: unknown key 'target.shceme'; did you" in capsys.readouterr().err
    )


def test_a_missing_golden_is_stale_and_exit_1(suite, tmp_path, capsys):
    """Nothing to compare with is a failing verdict, with the remedy."""
    assert 1 == main(["run", str(suite), "--out", str(tmp_path / "out"), "--json"])
    data = json.loads(capsys.readouterr().out)

    assert "stale" == data["targets"][0]["verdict"]
    assert "quantharness record" in data["targets"][0]["reason"]


def test_help_imports_nothing_heavy():
    """`quantharness --help` and `import harness` load no NumPy, torch or rich."""
    code = (
        "import sys, harness, harness.cli.main as m\n"
        "try: m.main(['--help'])\n"
        "except SystemExit: pass\n"
        "heavy = {'numpy', 'torch', 'onnx', 'onnxruntime', 'rich', 'jinja2', 'scipy'}\n"
        "sys.exit(str(heavy & set(sys.modules)) if heavy & set(sys.modules) else 0)"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    found = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment
    )

    assert 0 == found.returncode, found.stderr
