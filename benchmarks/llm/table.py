"""The table scheme x metric x behaviour of a run, in Markdown.

python benchmarks/llm/table.py RUN_FOLDER [RUN_FOLDER...]
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from harness.judge.statistics.paired_binary import Flips, flips, loss_p_value

#: Behaviours of which a case expects something of its own.
TASKS = {"json", "json_schema", "code", "format", "arithmetic", "choice", "fact"} | {
    "grounded",
    "needle",
    "ending",
}

METRICS = {
    "logits.kl": "KL, nats",
    "logits.kl.median": "median",
    "logits.kl.p99": "99 %",
    "logits.kl.max": "largest",
    "logits.reverse_kl": "reverse KL",
    "logits.top1_agreement": "top-1",
    "logits.top5_agreement": "top-5",
    "logits.delta_p_rms": "RMS Δp",
    "logits.perplexity_ratio": "perplexity ratio",
    "reply.first_divergence": "tokens before the first other one",
}


def main() -> None:
    """Print both tables."""
    targets = [
        json.loads(file.read_text())
        for folder in sys.argv[1:]
        for file in sorted(Path(folder).glob("targets/*/*/*/verdict.json"))
    ]
    print("| target | verdict |", " | ".join(METRICS.values()), "|")
    print("| --- " * (2 + len(METRICS)) + "|")
    for target in targets:
        cells = [shown(target["measurements"].get(name)) for name in METRICS]
        print(f"| {name_of(target)} | {target['verdict']} |", " | ".join(cells), "|")
    names = [
        name.split(".")[1]
        for name in max((t["measurements"] for t in targets), key=len)
        if name.startswith("behaviour.") and name.endswith(".loss")
    ]
    print("\n| behaviour | cases |", " | ".join(name_of(t) for t in targets), "|")
    print("| --- " * (2 + len(targets)) + "|")
    for name in names:
        own = [t["measurements"].get(f"behaviour.{name}.loss") for t in targets]
        flips = [t["measurements"].get(f"behaviour.{name}.flips") for t in targets]
        cases = next(entry["cases"] for entry in own if entry)
        cells = [
            "-"
            if one is None
            else f"{one['value']:+.2f}; {two['value']:.2f} {span(two)}"
            for one, two in zip(own, flips, strict=True)
        ]
        print(f"| {name} | {cases} |", " | ".join(cells), "|")
    print("\n| target | lost | gained | of | p of no loss |")
    print("| --- " * 5 + "|")
    for folder in sys.argv[1:]:
        for file in sorted(Path(folder).glob("targets/*/*/*/evidence.json")):
            table = pooled(json.loads(file.read_text())["evidence"]["behaviours"])
            p = loss_p_value(table)
            cells = (table.lost, table.gained, table.cases, f"{p:.2g}")
            print(f"| {file.parent.name} |", " | ".join(map(str, cells)), "|")


def answers_by_case(
    behaviours: list[dict],
) -> tuple[dict[str, bool], dict[str, bool]]:
    """By case: whether the reference had all that is expected right, and the target."""
    before: dict[str, bool] = {}
    now: dict[str, bool] = {}
    for entry in behaviours:
        if entry["name"] not in TASKS:
            continue
        for side, key in ((before, "reference_right"), (now, "target_right")):
            for case, right in zip(entry["cases"], entry[key], strict=True):
                side[case] = side.get(case, True) and bool(right)
    return before, now


def pooled(behaviours: list[dict]) -> Flips:
    """Cases whose every expectation was right then, and now."""
    before, now = answers_by_case(behaviours)
    return flips([before[case] for case in before], [now[case] for case in before])


def name_of(target: dict) -> str:
    return f"{target['backend']} {target['scheme']}"


def shown(entry: dict | None) -> str:
    return "-" if entry is None else f"{number(entry['value'])} {span(entry)}"


def span(entry: dict) -> str:
    return f"[{number(entry['low'])}, {number(entry['high'])}]"


def number(value: float | str) -> str:
    return value if isinstance(value, str) else f"{value:.3g}"


if __name__ == "__main__":
    main()
