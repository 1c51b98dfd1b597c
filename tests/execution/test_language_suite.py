"""A suite of a language model, whole: recorded, run, selected, judged, shown."""

from __future__ import annotations

import json
import shutil
from types import MappingProxyType

import numpy as np
import pytest

from harness.cli.main import main
from harness.errors import CasesError, ConfigError, UnsupportedError
from harness.execution.api import record, run
from harness.execution.loaded import check_schemas
from harness.execution.replies import replies_of
from harness.execution.suite import load_suite
from harness.models.cases import load_cases
from harness.models.load import load_model
from harness.models.types import Case
from tests.models import tiny_gguf
from tests.models.tiny_gguf import write_gguf
from tests.models.tiny_language import cached_in, write_tiny_suite

#: What follows `HEAD` of `tiny_language`.
SUITE = """\
batch = 4
select = "gate"

[scheme.kv]
weights = false
kv_cache = { format = "fp8_e4m3", granularity = "head" }

[scheme.fp8_weight_only]
base = "fp8_weight_only"
keep = ["lm_head"]

[[target]]
backend = "torch"
scheme = "fp8_weight_only"

[[target]]
backend = "torch"
scheme = "kv"

[[behaviour]]
kind = "utf8"

[[behaviour]]
kind = "json"

[[behaviour]]
kind = "same_reply"
margin = 1.0
"""
WORDS = ("one", "two", "three 3", "four", "five", "six 6")


def records():
    for index, word in enumerate(WORDS):
        tags = ["gate"] * (index % 2 == 0)
        expected = {"generate": 6}
        if word == "two":
            # Random weights write no JSON: nothing can be lost.
            expected["json"] = {}
        if word == "three 3":
            expected["json"] = {}
        yield {
            "id": f"c{index}",
            "prompt": word,
            "reply": f"{word} {word}",
            "tags": tags,
            "expected": expected,
        }


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    """A recorded suite and the report of a run of it."""
    folder = tmp_path_factory.mktemp("suites") / "tiny"
    write_tiny_suite(folder, SUITE, records(), seed=5)
    with cached_in(folder):
        result = record([folder], reason="test", allow_ci=True, allow_dirty=True)
        assert ["recorded"] == [entry.status for entry in result.suites]
        yield folder, run([folder], out=folder / "run")


@pytest.mark.quant_slow
def test_only_the_selected_cases_run_and_the_golden_holds_all(ran):
    """And the golden is not stale for it."""
    folder, report = ran
    target = report.targets[0]

    assert 3 == target.measurements["drift"].cases
    manifest = json.loads(next(folder.glob("golden/*.json")).read_text())
    assert {f"c{i}" for i in range(6)} == set(manifest["behaviours"]["replies"])


@pytest.mark.quant_slow
def test_a_behaviour_that_nobody_can_lose_is_no_pass(ran):
    """The reference writes no JSON: the gate says so, it does not pass."""
    _, report = ran

    for target in report.targets:
        assert "vacuous" == str(target.verdict)
        assert "json: the reference has none of 1 cases right" in target.reason


@pytest.mark.quant_slow
def test_the_faithful_backend_passes_every_other_check(ran):
    """Weights and cache hold what they should, ways to ask the same agree.

    Three cases cannot resolve the drift: that alone may be said beside.
    """
    _, report = ran
    for target in report.targets:
        others = [c for c in target.checks if "json" not in c.reason]
        assert not [check for check in others if check.verdict.fails]
        ways = {"padding", "what follows", "cache", "batch of 1", "repeat"}
        assert ways <= {
            name.removeprefix("stability.")
            for name in target.measurements
            if name.startswith("stability.")
        }


@pytest.mark.quant_slow
def test_replies_are_kept_side_by_side(ran):
    """With the prompt as the model read it."""
    folder, _ = ran
    file = folder / "run/targets/tiny/torch/kv/replies.json"
    rows = json.loads(file.read_text())

    assert {"c0", "c2", "c4"} == {row["case"] for row in rows}
    assert any("<|im_start|>user\nfive<|im_end|>" in row["prompt"] for row in rows)


@pytest.mark.quant_slow
def test_another_tokenizer_than_the_golden_s_is_stale(ran, tmp_path, monkeypatch):
    """The weights are the same, and so are the texts: it is said what may differ."""
    folder, _ = ran
    monkeypatch.setenv("QUANTHARNESS_CACHE", str(tmp_path / "cache"))
    shutil.copytree(folder, tmp_path / "tiny")
    letters = tiny_gguf.byte_letters()
    h, i = letters.index("h"), letters.index("i")
    letters[h], letters[i] = letters[i], letters[h]
    monkeypatch.setattr(tiny_gguf, "byte_letters", lambda: letters)
    write_gguf(tmp_path / "tiny" / "tiny.gguf", seed=5)

    for target in run([tmp_path / "tiny"], out=tmp_path / "run").targets:
        assert "stale" == str(target.verdict)
        assert "recorded from other cases" in target.reason
        assert "other texts, or another tokenizer" in target.reason


class Writer:
    """A language model that replies with the prompt."""

    name = "writer"
    tokenizer = None
    metadata = MappingProxyType({})


def asked(**expected):
    inputs = {
        "input_ids": np.array([[65, 66, 67, 68]]),
        "positions": np.array([[1, 2]]),
    }
    return Case("c", inputs, expected)


@pytest.mark.parametrize(
    "asked_for", [0, "many", {"seed": 1}, {"tokens": 3, "beams": 2}, True]
)
def test_a_malformed_wish_for_a_reply_is_refused(asked_for):
    """With the case and what should stand there."""
    with pytest.raises(CasesError, match=r"case 'c'.*generate"):
        replies_of(object(), Writer, [asked(generate=asked_for)], batch=1)


def test_a_reply_that_does_not_fit_the_context_is_refused():
    """Before a token is written; with what would fit."""

    class Short(Writer):
        metadata = MappingProxyType({"context": 8})

    with pytest.raises(CasesError, match=r"'c'.*context is 8: ask for at most 6"):
        replies_of(object(), Short, [asked(generate=7)], batch=1)


@pytest.mark.parametrize(
    ("schema", "said"),
    [
        ({"type": "objekt"}, r"expected\.json\.type='objekt', but should be in"),
        ({"pattern": "x"}, "'pattern' is not checked; known: type"),
        ([], "should be an object"),
    ],
)
def test_an_invalid_schema_of_a_case_is_an_error_before_anything_runs(schema, said):
    """With the file, the case and the key; other models' cases may hold anything."""
    with pytest.raises(CasesError, match=rf"cases\.jsonl: case 'c': .*{said}"):
        check_schemas([asked(json=schema)], "cases.jsonl")
    check_schemas([Case("c", {}, {"json": schema})], "cases.jsonl")


def test_a_backend_that_does_not_generate_is_unsupported():
    """Cases that ask for replies cannot pass by being left out."""
    with pytest.raises(UnsupportedError, match="does not generate"):
        replies_of(object(), Writer, [asked(generate=3)], batch=1)


def test_cases_that_ask_for_nothing_need_no_generator():
    """As with every model that writes no text."""
    assert {} == replies_of(object(), Writer, [asked()], batch=1)


@pytest.mark.parametrize("text", ['{"type": "objekt"}', "{", "[]"])
def test_an_invalid_schema_file_is_an_error_with_its_line(tmp_path, text):
    """Before anything is run."""
    write_suite(tmp_path)
    (tmp_path / "order.schema.json").write_text(text)

    with pytest.raises(ConfigError, match=r"suite.toml:\d+: behaviour.schema"):
        load_suite(tmp_path)


def test_a_schema_file_is_read_with_the_suite(tmp_path):
    """And must lie beside it."""
    write_suite(tmp_path)
    (tmp_path / "order.schema.json").write_text('{"type": "object"}')

    assert {"schema": {"type": "object"}} == load_suite(tmp_path).behaviours[0].options
    (tmp_path / "order.schema.json").unlink()
    with pytest.raises(ConfigError, match=r"order\.schema\.json"):
        load_suite(tmp_path)


def write_suite(folder):
    (folder / "cases.jsonl").write_text("{}")
    (folder / "suite.toml").write_text(
        '[suite]\nname = "s"\nmodel = "a.b:c"\ncases = "cases.jsonl"\n'
        '[[target]]\nbackend = "torch"\nscheme = "int8"\n'
        '[[behaviour]]\nkind = "json_schema"\nschema = "order.schema.json"\n'
    )


@pytest.mark.quant_slow
def test_a_hunt_proposes_prompts_that_the_suite_can_take(ran, capsys):
    """Lines for its cases, worse than its own prompts on average."""
    folder, _ = ran
    arguments = ["hunt", str(folder), "--scheme", "fp8_weight_only", "--budget", "5s"]

    assert 0 == main([*arguments, "--count", "2", "--json"])
    found = json.loads(capsys.readouterr().out)["hunts"][0]
    model = load_model("tiny.gguf", folder)
    assert 1 <= len(found["cases"]) <= 2
    assert found["tried"] > 2
    for case in found["cases"]:
        assert float(case["tags"][1].removeprefix("kl=")) > found["seed_kl"] > 0
        assert model.prepare({"text": case["text"]}, "")["input_ids"].size >= 2
    # As a user would add them.
    file = folder / "more.jsonl"
    lines = [json.dumps(case, ensure_ascii=False) for case in found["cases"]]
    file.write_text("\n".join([(folder / "cases.jsonl").read_text(), *lines, ""]))
    assert 6 + len(lines) == len(load_cases("more.jsonl", folder, model))
