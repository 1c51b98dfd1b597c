"""The self-test of a language model: files that llama.cpp loads, prompts, answers."""

from __future__ import annotations

import pytest

from harness.execution.api import record
from harness.execution.selftest.api import selftest
from tests.models.tiny_language import cached_in, write_tiny_suite

pytestmark = pytest.mark.quant_slow

#: What follows `HEAD` of `tiny_language`.
SUITE = """\
batch = 4

[scheme.gguf_q8_0]
weights = { format = "int8", granularity = "block", block = 32, rule = "ggml" }
activations = { format = "int8", granularity = "block", block = 32, rule = "ggml" }
keep = ["lm_head"]

[scheme.fp8_weight_only]
base = "fp8_weight_only"
keep = ["lm_head"]

[[target]]
backend = "llama.cpp"
scheme = "gguf_q8_0"

[[target]]
backend = "torch"
scheme = "fp8_weight_only"

[[behaviour]]
kind = "utf8"
margin = 1.0
"""
WORDS = ("one", "two", "three 3", "four", "five", "six 6", "seven", "eight 8")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A recorded suite of prompts of several lengths, one of them sampled."""
    records = [
        {
            "id": f"c{number}",
            "prompt": f"{word} {word}",
            "reply": word,
            "expected": {"generate": {"tokens": 6, "temperature": 0.7 * (number == 2)}},
        }
        for number, word in enumerate(WORDS)
    ]
    with cached_in(tmp_path_factory.mktemp("suites") / "tiny") as found:
        write_tiny_suite(found, SUITE, records, seed=5, inner=64)
        record([found], reason="test", allow_ci=True, allow_dirty=True)
        yield found


def tried(folder, backend, *defects):
    """Defect -> its trial, all operators, and the whole result."""
    found = selftest(
        [folder],
        backends=[backend],
        defects=defects,
        strengths=["catalogue"],
        places=["one"],
    )
    assert found["alarms"] == []
    return {entry["defect"]: entry for entry in found["all"] if entry["defect"]}


def test_a_file_of_llama_cpp_is_planted_in_and_named(folder):
    """The weight's check names it, and the cause is read from the file."""
    pytest.importorskip("xllamacpp", reason="needs the extra llamacpp")
    found = tried(
        folder,
        "llama.cpp",
        "stored_codes_off_by_one",
        "stored_scales_nan",
        "bias_missing",
    )

    one = found["stored_codes_off_by_one"]
    assert one["caught"]
    assert "artifact" == one["check"]
    assert one["planted_in"] == one["operator"]
    assert "codes off by one" == one["cause"]
    assert found["stored_scales_nan"]["caught"]
    assert "its layers are not open to us" in found["bias_missing"]["unfit"]


def test_prompts_and_a_runtime_are_planted_around_llama_cpp(folder):
    """As around every backend; what the suite does not meet is not counted."""
    pytest.importorskip("xllamacpp", reason="needs the extra llamacpp")
    found = tried(folder, "llama.cpp", "stale_output", "prompt_template_missing")

    assert found["stale_output"]["caught"]
    assert "stability" == found["stale_output"]["check"]
    assert found["prompt_template_missing"]["planted"]


@pytest.mark.parametrize("backend", ["torch", "llama.cpp"])
def test_what_a_server_makes_of_a_reply_is_caught(folder, backend):
    """A reply and the logits before its tokens do not agree."""
    if backend == "llama.cpp":
        pytest.importorskip("xllamacpp", reason="needs the extra llamacpp")
    found = tried(
        folder,
        backend,
        "answer_cut_off",
        "answer_last_tokens_missing",
        "answer_temperature_ignored",
        "answer_seed_ignored",
        "answer_characters_broken",
    )

    shown = ["cut_off", "last_tokens_missing"]
    if backend == "torch":
        # Inputs in INT8 leave this model, of 32 channels, more noise than it takes to
        # choose another token.
        shown.append("temperature_ignored")
    for name in shown:
        entry = found[f"answer_{name}"]
        assert entry["caught"], entry
        assert "reply and its logits" in entry["reason"]
    assert found["answer_seed_ignored"]["planted"]
