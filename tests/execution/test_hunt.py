"""The hunt finds the prompts that a target gets wrong, and shortens them."""

from __future__ import annotations

import argparse
import json
from types import SimpleNamespace

import numpy as np
import pytest

from harness.cli.hunt import seconds
from harness.cli.main import main
from harness.execution import hunting
from harness.execution.hunt import _Found, _Hunter
from harness.execution.hunting import proposals
from harness.execution.jobs import HardPrompt, HuntRun
from harness.schemes.catalogue import SCHEMES

BAD = 7


class Tokenizer:
    """One letter a token."""

    @staticmethod
    def encode(text):
        return [ord(letter) - 64 for letter in text]

    @staticmethod
    def decode(tokens):
        return "".join(chr(token + 64) for token in tokens)


class Model:
    """Logits that a bad token in the prompt moves, in a target."""

    def __init__(self, moved):
        self.moved = moved

    def run(self, inputs):
        rows = inputs["positions"].size
        logits = np.zeros((1, rows, 9), np.float32)
        logits[..., 0] = self.moved * (inputs["input_ids"] == BAD).sum()
        return {"logits": logits}


def hunter():
    return _Hunter(Model(0.0), Model(1.0), Tokenizer, seed=1)


def times(count):
    left = iter([True] * count)
    return lambda: next(left, False)


SEEDS = [tuple([1, 2, 3, 4, 5, 6] * 2), (2, 3, 4, BAD, 5, 6, 1, 2), (1, 1, 2, 2)]


def test_the_search_climbs_from_the_seeds():
    """What it finds is further than any seed, and the seeds' mean is told."""
    hunt = hunter()
    pool = hunt.search(SEEDS, times(400))
    best = max(hunt.score(seed) for seed in SEEDS)

    assert pool[0].kl > best > 0
    assert pool[0].tokens.count(BAD) > 1
    assert 0 < hunt.baseline < best


def test_what_does_not_matter_is_left_out():
    """The bad token stays, its neighbours go; a text of one token is none."""
    hunt = hunter()
    tokens = (1, 2, 3, BAD, 4, 5, 6, 1, 2, 3)
    short = hunt.shorten(_Found(hunt.score(tokens), tokens), times(999))

    assert 2 == len(short.tokens)
    assert BAD in short.tokens


def test_no_time_finds_nothing_and_raises_nothing():
    """A budget that is over before it began."""
    assert [] == hunter().search(SEEDS, times(0))


def test_the_same_seed_finds_the_same():
    """A hunt can be repeated."""
    assert hunter().search(SEEDS, times(60)) == hunter().search(SEEDS, times(60))


@pytest.mark.parametrize(("text", "value"), [("90s", 90), ("5m", 300), ("1h", 3600)])
def test_a_budget_is_a_time(text, value):
    """With its unit."""
    assert value == seconds(text)


@pytest.mark.parametrize("text", ["5", "0m", "-1s", "5 m", "soon"])
def test_a_budget_without_a_unit_is_refused(text):
    """Minutes are not guessed."""
    with pytest.raises(argparse.ArgumentTypeError, match="5m"):
        seconds(text)


def test_a_finding_is_a_line_for_the_cases_whose_id_is_its_own():
    """Found again it is the same case; of another text another, in any hunt."""
    one, two = (HardPrompt(text=t, kl=0.5, tokens=3) for t in ("a 7", "b 😀"))
    first, second = proposals("int8", [one, two])

    assert {"id", "text", "tags"} == set(first)
    assert first == proposals("int8", [one])[0]
    assert first["id"] != second["id"]
    assert first["id"].startswith("hunt-int8-")
    assert ["hunt", "kl=0.5"] == second["tags"]


def test_only_lines_for_the_cases_go_to_the_output(monkeypatch, capsys):
    """So that `>> cases.jsonl` appends them; what was done is told beside."""
    line = {"id": "hunt-int8-1", "text": "größer 😀", "tags": ["hunt"]}
    found = {"target": "s/torch/int8", "tried": 9, "seed_kl": 0.1, "file": "c.jsonl"}
    monkeypatch.setattr(hunting, "hunt", lambda *_, **__: [{**found, "cases": [line]}])

    assert 0 == main(["hunt", "s", "--budget", "1s"])
    shown = capsys.readouterr()
    assert [line] == [json.loads(text) for text in shown.out.splitlines()]
    assert "s/torch/int8: 9 prompts tried" in shown.err
    assert "1 found are lines for c.jsonl" in shown.err


def test_every_target_is_hunted_in_its_own_environment(monkeypatch, tmp_path):
    """A variant's variables are set before its engine is imported."""
    monkeypatch.chdir(tmp_path)
    started = []

    class Watched:
        def __init__(self, *, log, environment, **_):
            started.append((log.stem, dict(environment)))

        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

        def run(self, _job):
            return HuntRun(tried=1, seed_kl=0.0, findings=())

    monkeypatch.setattr(hunting, "Worker", Watched)
    monkeypatch.setattr(hunting, "load_suite", lambda *_: suite)
    targets = [
        SimpleNamespace(backend=b, scheme=SCHEMES["int8"], name=b, nightly=False)
        for b in ("torch", "torch@avx2")
    ]
    suite = SimpleNamespace(
        name="s",
        golden=tmp_path / "none",
        folder=tmp_path,
        model="m",
        cases="c.jsonl",
        batch=1,
        seed=0,
        select="",
        targets=targets,
        reference=SimpleNamespace(precision="fp32"),
    )

    found = hunting.hunt(tmp_path)

    assert [entry["tried"] for entry in found] == [1, 1]
    assert started[0] == ("hunt-s-torch", {})
    assert started[1][0] == "hunt-s-torch@avx2"
    assert started[1][1]["ATEN_CPU_CAPABILITY"] == "avx2"
