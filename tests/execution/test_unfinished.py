"""What an interrupted run keeps, and when it counts for nothing."""

import json
from pathlib import Path

import pytest

from harness.backends.registry import load_registry
from harness.errors import UsageError
from harness.execution.run_folder import target_folder, write_target
from harness.execution.suite import load_suite
from harness.execution.unfinished import INPUTS, Unfinished, inputs_of
from harness.judge import judge
from harness.judge.evidence import Evidence, Failure

ROOT = Path(__file__).parents[2]
INPUT = {"harness": "a" * 64, "package.torch": "2.13.0", "suite vad": "b" * 64}


@pytest.fixture
def suite():
    """One that ships."""
    return load_suite(ROOT / "suites/vad/suite.toml", load_registry())


def ended(folder, suite, target, failure):
    """Write a target's verdict as a run does."""
    evidence = Evidence(
        suite=suite.name,
        backend=target.backend,
        scheme=target.scheme.name,
        seed=0,
        failure=failure,
    )
    write_target(judge(evidence), evidence, target_folder(folder, "vad", target.name))
    return evidence


NOT_COMPILED = Failure(kind="unsupported", message="it does not compile the model")


def test_the_same_run_goes_on(tmp_path, suite):
    """What has its verdict is read back as it was."""
    first, second, *_ = suite.targets
    Unfinished.open(tmp_path, INPUT)
    written = ended(tmp_path, suite, first, NOT_COMPILED)

    again = Unfinished.open(tmp_path, INPUT)

    assert written == again.target(suite, first).evidence
    assert again.target(suite, second) is None
    assert 1 == again.count((suite, target) for target in suite.targets)


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("package.torch", "2.14.0", "package.torch: 2.13.0 there, 2.14.0 here"),
        ("suite vad", "c" * 64, "suite vad: bbbbbbbbbbbb there, cccccccccccc here"),
        ("plugin mine.py", "d" * 64, "plugin mine.py: nothing there, dddddddddddd"),
    ],
)
def test_another_run_is_not_mixed_with_it(tmp_path, name, value, told):
    """A verdict of other inputs is no verdict of these: says which changed."""
    Unfinished.open(tmp_path, INPUT)

    with pytest.raises(UsageError, match=told):
        Unfinished.open(tmp_path, INPUT | {name: value})


def test_a_suite_more_or_less_is_no_change(tmp_path):
    """What its verdicts rest on is noted when it is first run, and counts from then."""
    Unfinished.open(tmp_path, INPUT)
    ocr = {"harness": "a" * 64, "package.torch": "2.13.0", "suite ocr": "e" * 64}

    Unfinished.open(tmp_path, ocr)

    with pytest.raises(UsageError, match="suite vad"):
        Unfinished.open(tmp_path, INPUT | {"suite vad": "c" * 64})
    with pytest.raises(UsageError, match="suite ocr"):
        Unfinished.open(tmp_path, ocr | {"suite ocr": "c" * 64})


@pytest.mark.parametrize("content", ["", "{}", "[]", '{"schema": 9, "inputs": {}}'])
def test_inputs_that_cannot_be_read_are_named(tmp_path, content):
    """Nothing is guessed."""
    (tmp_path / INPUTS).write_text(content)

    with pytest.raises(UsageError, match=INPUTS):
        Unfinished.open(tmp_path, INPUT)


@pytest.mark.parametrize(
    "failure",
    [
        Failure(kind="error", message="the backend's process was killed by SIGKILL"),
        Failure(kind="stale", message="recorded from another model"),
        Failure(kind="unsupported", message="not installed", missing=True),
    ],
)
def test_what_may_go_well_now_is_run_again(tmp_path, suite, failure):
    """A crash, a stale golden, a package that was missing."""
    target = suite.targets[0]
    unfinished = Unfinished.open(tmp_path, INPUT)
    ended(tmp_path, suite, target, failure)

    assert unfinished.target(suite, target) is None


@pytest.mark.parametrize("file", ["evidence.json", "verdict.json"])
@pytest.mark.parametrize("spoil", ["cut", "gone"])
def test_half_of_a_target_is_none(tmp_path, suite, file, spoil):
    """One file without the other, or a part of one."""
    target = suite.targets[0]
    unfinished = Unfinished.open(tmp_path, INPUT)
    ended(tmp_path, suite, target, NOT_COMPILED)
    path = target_folder(tmp_path, "vad", target.name) / file
    if spoil == "gone":
        path.unlink()
    else:
        path.write_text(path.read_text()[:100])

    assert unfinished.target(suite, target) is None


def test_everything_that_a_target_depends_on_is_an_input(tmp_path, suite):
    """Packages, the suite's files, plugins, the baseline, the nights."""
    plugin = tmp_path / "mine.py"
    plugin.write_text("def register(registry): ...\n")

    def found(**more):
        return inputs_of([suite], [str(plugin)], **more)

    before = found()
    assert {"harness", "package.torch", "suite vad", f"plugin {plugin}"} <= set(before)
    assert before == found()
    assert before["baseline"] != found(baseline="20261201-1")["baseline"]
    assert before["nights"] != found(nights={"night": 1})["nights"]
    plugin.write_text("def register(registry): pass\n")
    assert before[f"plugin {plugin}"] != found()[f"plugin {plugin}"]


@pytest.mark.parametrize("name", ["suite.toml", "budgets.toml", "golden/manifest.json"])
def test_every_file_of_a_suite_counts(tmp_path, monkeypatch, name):
    """Settings, budgets, golden."""
    import shutil

    folder = tmp_path / "suites" / "vad"
    shutil.copytree(ROOT / "suites/vad", folder)
    shutil.copytree(ROOT / "golden/vad", tmp_path / "golden/vad")
    registry = load_registry()
    suite = load_suite(folder / "suite.toml", registry)
    before = inputs_of([suite], [])["suite vad"]
    path = suite.golden / "manifest.json" if "golden" in name else folder / name
    path.write_bytes(path.read_bytes() + b"\n")

    assert before != inputs_of([suite], [])["suite vad"]


def test_a_module_counts_with_all_of_its_package(tmp_path, monkeypatch):
    """A plugin is more than the file that registers it."""
    package = tmp_path / "vendor_of_ours"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "kernels.py").write_text("BITS = 4\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    before = inputs_of([], ["vendor_of_ours"])["plugin vendor_of_ours"]
    (package / "kernels.py").write_text("BITS = 8\n")

    assert before != inputs_of([], ["vendor_of_ours"])["plugin vendor_of_ours"]


def test_the_inputs_are_kept_in_words(tmp_path):
    """So that a reader of the folder sees what the run was of."""
    Unfinished.open(tmp_path, INPUT)

    assert INPUT == json.loads((tmp_path / INPUTS).read_text())["inputs"]
