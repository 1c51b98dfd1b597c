"""Every renderer shows the verdict that was decided, whole and escaped."""

import json
import re
import sys
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from harness.judge.serial import report_from_dict
from harness.judge.types import OperatorResult, Verdict
from harness.reports import junit, markdown, page
from harness.reports.terminal import Progress, print_explanation, print_json, print_report
from harness.reports.wording import next_command, sentence

sys.path.insert(0, str(Path(__file__).parent))
from make import judgement, report

EVIL = '<script>alert("x")</script>|`*'


def test_junit_carries_failures_measurements_and_limits():
    """A failing verdict is a failure of its check, with its numbers as properties."""
    root = ET.fromstring(junit.render(report(judgement(verdict=Verdict.DRIFT))))
    case = root.find(".//testcase[@name='distance']")
    suite = root.find("testsuite")

    assert ("2", "1", "0") == tuple(
        suite.get(k) for k in ("tests", "failures", "errors")
    )
    assert "drift" == case.find("failure").get("type")
    found = {p.get("name"): p.get("value") for p in case.iter("property")}
    assert {"drift": "0.1", "drift.limit": "0.2"} == found


@pytest.mark.parametrize(
    ("verdict", "required", "kind"),
    [
        (Verdict.ERROR, False, "error"),
        (Verdict.UNSUPPORTED, True, "error"),
        (Verdict.UNSUPPORTED, False, "skipped"),
        (Verdict.STALE, False, "failure"),
        (Verdict.CHANGED, False, ""),
    ],
)
def test_junit_outcomes(verdict, required, kind):
    """Infrastructure is an error, a failing verdict a failure, `changed` neither."""
    assert kind == junit.outcome(verdict, required=required)


def test_junit_survives_characters_that_xml_lacks():
    """A control character in a reason does not make the file unreadable."""
    bad = judgement(reason="\x00\x1b[31m", checks=(), verdict=Verdict.ERROR)

    ET.fromstring(junit.render(report(bad)))


def test_markdown_says_the_verdict_first_and_lists_only_trouble():
    """The first line decides; a passing target has no row; nothing becomes markup."""
    text = markdown.render(
        report(judgement("ok"), judgement("bad", Verdict.DEFECT, reason=EVIL)),
        {"package.torch": ("1", "2")},
    )

    assert "The run fails" in text.splitlines()[0]
    assert "minilm/torch/bad" in text
    assert "minilm/torch/ok" not in text
    assert "<script>" not in text
    assert "| package.torch | 1 | 2 |" in text


def test_markdown_stays_small_with_hundreds_of_failures():
    """The worst rows, then a count: a summary over 1 MiB would be dropped silently."""
    many = [judgement(f"s{i}", Verdict.DRIFT) for i in range(500)]

    text = markdown.render(report(*many))

    assert "and 450 more" in text
    assert len(text) < 100_000


def test_page_is_one_offline_file_with_everything_escaped():
    """No asset from elsewhere; a hostile name stays text; the guilty bar is red."""
    html = page.render(report(judgement(verdict=Verdict.DEFECT, reason=EVIL)))

    assert not re.search(r"(src|href)=[\"']https?:", html)
    assert EVIL not in html
    assert "&lt;script&gt;alert" in html
    assert 'class="guilty"' in html
    assert 'class="clean"' in html
    assert "a &lt;b&gt; &amp; c" in html


def test_page_shows_what_changed_since_the_run_before():
    """A verdict that moved and an environment that moved stand at the top."""
    before = report(
        judgement(), run="20261122-000000-abcd", environment={"package.torch": "1"}
    )
    html = page.render(report(judgement(verdict=Verdict.DRIFT)), [before])

    assert "pass → drift" in html
    assert "What changed in the environment" in html
    assert 'class="spark"' in html


def test_page_says_what_the_nights_have_spent():
    """Of a nightly run: its number, its level and what all nights spent."""
    nights = {"night": 3, "alpha": 0.00338, "spent": 0.0414, "answers": {}}
    html = page.render(replace(report(judgement()), nights=nights))

    assert "night 3: false discoveries held at 0.0034, 0.041 spent so far" in html
    assert "spent so far" not in page.render(report(judgement()))


def test_what_is_wrong_between_operators_is_shown(capsys):
    """The first such path, where every operator is right; never a right operator."""
    fine = OperatorResult(name="a.b", unexplained=1e-5, limit=1e-3)
    wrong = OperatorResult(name="a.b -> norm", unexplained=0.1, limit=1e-5)
    target = judgement(verdict=Verdict.DEFECT, operators=(fine,), paths=(wrong,))
    print_report(report(target))

    assert "worst path: a.b -> norm: unexplained 0.1" in capsys.readouterr().out
    assert "Between operators, beyond what" in page.render(report(target))
    assert "a.b -&gt; norm" in page.render(report(target))
    assert "`a.b -> norm`" in markdown.render(report(target))


def test_terminal_is_plain_where_it_is_not_a_terminal(capsys):
    """No control codes in a pipe; the matrix, the worst operator and the next step."""
    print_report(report(judgement(verdict=Verdict.DEFECT)))
    out = capsys.readouterr().out

    assert "\x1b" not in out
    assert "worst operator: c.d" in out
    assert "next: quantharness explain reports/x minilm/torch/fp8" in out


def test_what_else_changed_since_the_golden_stands_beside_a_failure(capsys):
    """Terminal, Markdown and page name it for suites in trouble; for others nothing."""
    changed = {"minilm": {"cpu": ("EPYC", "Xeon")}, "vad": {"cpu": ("EPYC", "Xeon")}}
    wrong = report(
        judgement(verdict=Verdict.DRIFT), judgement(suite="vad"), since_golden=changed
    )
    line = "since its golden was recorded: cpu EPYC -> Xeon"
    print_report(wrong)
    assert f"minilm: {line}" in capsys.readouterr().out
    print_explanation(wrong, everything=False)
    shown = capsys.readouterr().out
    assert f"minilm: {line}" in shown
    assert "vad" not in shown
    assert "golden of `minilm` was recorded: cpu EPYC -" in markdown.render(wrong)
    assert "golden of `vad`" not in markdown.render(wrong)
    assert page.render(wrong).count("cpu EPYC -&gt; Xeon") == 1
    print_report(report(judgement(), since_golden=changed))
    assert "golden" not in capsys.readouterr().out
    assert report_from_dict(wrong.as_dict()) == wrong


def test_terminal_says_one_reason_once(capsys):
    """Twenty targets without a golden are one message."""
    many = [judgement(f"s{i}", Verdict.STALE, reason="no golden") for i in range(20)]

    print_report(report(*many))

    assert 1 == capsys.readouterr().out.count("no golden")


def test_progress_goes_to_standard_error(capsys):
    """Standard output stays free for results."""
    progress = Progress()
    progress.on_start(1, "x")
    progress.on_target("minilm/torch/fp8")
    progress.on_progress("minilm/torch/fp8", 1, 2)
    progress.on_done(judgement())
    progress.on_finish()
    found = capsys.readouterr()

    assert "" == found.out
    assert "minilm/torch/fp8: pass" in found.err


def test_json_is_one_object_and_reads_back(capsys):
    """What is printed is the contract, and makes the same report again."""
    first = report(judgement(), judgement("b", Verdict.DRIFT))
    print_json(first.as_dict())
    data = json.loads(capsys.readouterr().out)
    again = report_from_dict(data)

    assert 1 == data["schema"]
    assert {"name", "unexplained"} <= set(data["targets"][0]["operators"][0])
    assert first.targets == again.targets
    assert 1 == again.exit_code


def test_a_run_that_compared_nothing_has_not_passed():
    """All unsupported is neither a pass nor a crash, and says what to do."""
    absent = judgement(verdict=Verdict.UNSUPPORTED, measurements={}, operators=())
    nothing = report(absent, absent)

    assert 2 == nothing.exit_code
    assert "Nothing was compared" in sentence(nothing)
    assert "quantharness doctor" == next_command(nothing)
    assert "⚠" in markdown.render(nothing)
    assert 0 == report(absent, judgement()).exit_code


def test_infinite_measurements_survive_json(capsys):
    """JSON has no Inf: it is written as its name and read back as the number."""
    bad = judgement(operators=(), measurements={})
    broken = report(bad, seconds=float("inf"))
    print_json(broken.as_dict())

    assert "inf" == json.loads(capsys.readouterr().out)["seconds"]


def test_the_page_shows_replies_side_by_side(tmp_path):
    """What was asked, what both wrote, marked where they part, and what broke."""
    target = judgement()
    folder = tmp_path / "targets" / target.suite / target.backend / target.scheme
    folder.mkdir(parents=True)
    row = {
        "case": "c1",
        "prompt": EVIL,
        "reference": "It is 4.",
        "target": "It is 5.",
        "step": 2,
        "common": 6,
        "probability": [0.61, None],
        "broken": ["arithmetic"],
    }
    (folder / "replies.json").write_text(json.dumps([row, row | {"case": "c2"}]))
    text = page.render(report(target, folder=str(tmp_path)))

    assert "It is <mark>4.</mark>" in text
    assert "It is <mark>5.</mark>" in text
    assert "0.61 / -" in text
    assert "arithmetic" in text
    assert EVIL not in text


@pytest.mark.parametrize("content", [None, "{", "[1]", "[{}]"])
def test_replies_that_cannot_be_read_leave_the_page_whole(tmp_path, content):
    """They are an extra, not what the verdict rests on."""
    target = judgement()
    folder = tmp_path / "targets" / target.suite / target.backend / target.scheme
    folder.mkdir(parents=True)
    if content is not None:
        (folder / "replies.json").write_text(content)

    assert "beside the target" not in page.render(
        report(target, folder=str(tmp_path))
    )
