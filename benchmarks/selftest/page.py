"""Write docs/selftest-against-peers.md from result.json and kl_result.json alone.

python benchmarks/selftest/page.py
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import kl_page

HERE = Path(__file__).parent
PAGE = HERE.parents[1] / "docs/selftest-against-peers.md"
OURS = "quantharness"
#: The words before and after the tables.
HEAD = (HERE / "page_head.md").read_text("utf-8")
NOT_MEASURED = (HERE / "page_end.md").read_text("utf-8")
LEVELS = ("catalogue", "low")
Line = dict[str, Any]


def page(result: dict[str, Any], kl: dict[str, Any]) -> str:
    """The page's text, of what run.py and what kl_peer.py measured."""
    lines = result["table"]
    mine = next(line for line in lines if line["tool"] == OURS)
    shown = [mine, *chosen(lines)]
    parts = [
        _head(result),
        "\n## What each caught, named and cost\n",
        _main(shown, result),
        "\n## By severity, at catalogue strength and barely visible\n",
        _severities(shown),
        "\n## Where others are better\n",
        _better(mine, lines),
        "\n## Polygraphy `debug reduce`\n",
        _reduce(result["reduce"]),
        "\n## llama-perplexity's KL, on GGUF files\n",
        kl_page.section(kl),
        "\n## Where quantharness did not do what it should\n",
        _faults(result["not_as_it_should"]),
        "\n## Not measured\n",
        NOT_MEASURED,
    ]
    return "\n".join(parts)


def _head(result: dict[str, Any]) -> str:
    specimens = result["specimens"]
    planted = [s for s in specimens if "defect" in s]
    versions = ", ".join(
        f"{name} {version}"
        for name, version in result["environment"]["versions"].items()
    )
    return HEAD.format(
        minutes=result["seconds"] / 60,
        date=result["date"],
        **{k: result["environment"][k] for k in ("cpu", "cores", "python")},
        versions=versions,
        seed=result["seed"],
        planted=len(planted),
        single=sum(s["planted_in"] != "all" for s in planted),
        low=sum(s["level"] == "low" for s in planted),
        clean=len(specimens) - len(planted),
        schemes="; ".join(
            f"{suite} in {', '.join(names)}"
            for suite, names in result["schemes"].items()
        ),
        few=" and ".join(
            f"{runs:g} calls ({suite})" for suite, runs in _calls(result).items()
        ),
    )


def _calls(result: dict[str, Any]) -> dict[str, float]:
    lines = [e for e in result["table"] if e["tool"].endswith("all operators")]
    return lines[0]["runs"] if lines else {}


def chosen(lines: Sequence[Line]) -> list[Line]:
    """Of every tool: its usual settings, and the best calibrated one of each scope."""
    found = []
    tools = dict.fromkeys(line["tool"] for line in lines if line["tool"] != OURS)
    for tool in tools:
        own = [line for line in lines if line["tool"] == tool]
        found += [line for line in own if line["scope"] == "usual"]
        for scope in ("suite", "scheme"):
            scoped = [line for line in own if line["scope"] == scope]
            if scoped:
                found.append(max(scoped, key=_merit))
    return found


def _merit(line: Line) -> tuple[int, int]:
    return line["caught"][0], line["operator_right"][0]


def _of(pair: Sequence[int] | None) -> str:
    return "–" if pair is None or not pair[1] else f"{pair[0]} of {pair[1]}"


def _main(lines: Sequence[Line], result: dict[str, Any]) -> str:
    suites = list(result["schemes"])
    heads = [
        *("tool", "setting", "caught", "false alarms", "with one clean run"),
        *("right operator first", "right cause"),
        *(f"runs {suite}" for suite in suites),
        *(f"seconds {suite}" for suite in suites),
    ]
    rows = []
    for line in lines:
        cells = [
            line["tool"],
            line["setting"].replace("elemwise ", "atol = rtol = ").replace(" ≤ 0.5", "")
            if "elemwise" in line["setting"]
            else line["setting"].replace("SQNR ≤ inf", "worst SQNR, no limit"),
            _of(line["caught"]),
            _of(line["false_alarms"]),
            _of(line["alarms_from_one_clean_run"]),
            _of(line["operator_right"] if line["names"] else None),
            _of(line["cause_right"]),
            *(f"{line['runs'].get(s, 0):g}" for s in suites),
            *(f"{line['seconds'].get(s, 0):.2g}" for s in suites),
        ]
        rows.append(cells)
    note = (
        "\nOperator and cause are counted over all defects of one operator, caught or "
        "not. Runs and seconds are medians of a planted model; the lines of one tool "
        "are judged from the same runs. quantharness's are the whole gate: load, all "
        "cases, repeats, operators, cause.\n"
    )
    return kl_page.table(heads, rows) + note


def _severities(lines: Sequence[Line]) -> str:
    names = list(lines[0]["by_severity"])
    heads = ["tool", "setting", *(f"{n}, {k}" for n in names for k in LEVELS)]
    rows = [
        [
            line["tool"],
            line["setting"],
            *(_of(line["by_severity"][n][k]) for n in names for k in LEVELS),
        ]
        for line in lines
        if line["tool"] == OURS or line["scope"] != "usual"
    ]
    return kl_page.table(heads, rows)


def _better(mine: Line, lines: Sequence[Line]) -> str:
    others = [line for line in lines if line["tool"] != OURS]
    points = []
    for tool in dict.fromkeys(line["tool"] for line in others):
        own = [line for line in others if line["tool"] == tool]
        faster = [
            f"{mine['seconds'][s] / own[0]['seconds'][s]:.1f} times on {s}"
            for s in mine["seconds"]
            if own[0]["seconds"].get(s, 0) and own[0]["seconds"][s] < mine["seconds"][s]
        ]
        if faster:
            points.append(f"- **{tool}** is faster: {', '.join(faster)}.")
        good = [
            line
            for line in own
            if not line["false_alarms"][0] and line["caught"][0] >= mine["caught"][0]
        ]
        points += [
            f"- **{tool}** ({line['setting']}) catches {_of(line['caught'])} without a "
            f"false alarm, quantharness {_of(mine['caught'])}; it names "
            f"{_of(line['operator_right'])} operators rightly, quantharness "
            f"{_of(mine['operator_right'])}."
            for line in good
        ]
        more = [
            line
            for line in own
            if line["names"]
            and line not in good
            and line["operator_right"][0] > mine["operator_right"][0]
        ]
        points += [
            f"- **{tool}** ({line['setting']}) names {_of(line['operator_right'])} "
            f"operators rightly, quantharness {_of(mine['operator_right'])}."
            for line in more
        ]
    points += _ahead(mine, others)
    points.append(
        "- None of them needs cases, a golden or a scheme's declaration: two models "
        "and some inputs are enough. quantharness has to know the scheme."
    )
    return "\n".join(points) + "\n"


def _ahead(mine: Line, others: Sequence[Line]) -> list[str]:
    """Severities of which a setting without false alarms catches more."""
    points = []
    for severity, levels in mine["by_severity"].items():
        for level, own in levels.items():
            ahead = [
                f"{line['tool']} ({line['setting']}) {_of(more)}"
                for line in others
                if not line["false_alarms"][0]
                and (more := line["by_severity"][severity][level])[0] > own[0]
            ]
            if ahead:
                points.append(
                    f"- Of the {severity} ones ({level}) more are caught than "
                    f"quantharness's {_of(own)} by: {'; '.join(ahead)}."
                )
    return points


def _reduce(entries: Sequence[dict[str, Any]]) -> str:
    if not entries:
        return "Not run.\n"
    text = (
        "Bisection over the graph's nodes, each part fed the FP32 model's activations "
        "and checked by `polygraphy run` against them, within the tightest limit of "
        "every tensor that the clean model of the scheme passes. It ends with the "
        "nodes that are left. `run` is its command line once, with its start.\n"
    )
    rows = [
        [
            f"{e['suite']}/{e['scheme']}",
            f"{e['defect']} in {e['planted_in']}",
            "yes" if e["alarm"] else "no",
            ", ".join(e["operators_left"]) or f"none ({e['nodes_left']} other nodes)",
            _left(e),
            str(e["checks"]),
            f"{e['run_seconds']:.1f}",
            f"{e['reduce_seconds']:.0f}",
        ]
        for e in entries
    ]
    heads = [
        *("target", "defect", "caught", "operators left", "the right one"),
        *("checks", "seconds of `run`", "seconds of `reduce`"),
    ]
    return text + "\n" + kl_page.table(heads, rows)


def _left(entry: dict[str, Any]) -> str:
    left = entry["operators_left"]
    if entry["planted_in"] not in left:
        return "no"
    return "alone" if len(left) == 1 else f"one of {len(left)}"


def _faults(entries: Sequence[dict[str, Any]]) -> str:
    if not entries:
        return "Nowhere in this run.\n"
    rows = [
        [
            f"{e['suite']}/{e['scheme']}",
            f"{e['defect']} ({e['strength']:g})"
            if e["defect"]
            else f"clean, {e['control'] or 'as built'}",
            e["planted_in"] or "–",
            e["told_verdict"] or f"unfit: {e['told_unfit']}",
            e["told_operator"] or "–",
            e["told_cause"] or "–",
        ]
        for e in entries
    ]
    heads = ["target", "defect (strength)", "in", "verdict", "operator", "cause"]
    return (
        "A miss, a false alarm, or for a defect of one operator another operator or "
        "no right cause:\n\n" + kl_page.table(heads, rows)
    )


def main() -> None:
    """Read and write."""
    result, kl = (
        json.loads((HERE / name).read_text("utf-8"))
        for name in ("result.json", "kl_result.json")
    )
    PAGE.write_text(page(result, kl), "utf-8")


if __name__ == "__main__":
    main()
