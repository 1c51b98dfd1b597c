"""Tag the cases of the smollm2 suite that run before a merge, `gate`.

    python suites/smollm2/select_cases.py

Reads the golden: of each group (the first tag) those cases are taken first that the
reference gets right and nearly does not: the smallest probability that it gave to a
token of its own reply, or the margin of the likeliest answer. A right answer that is
nearly tied is the first to flip. Groups get places by how many behaviours they feed;
long prompts, which cost most, get few. Tags are no part of a case's fingerprint.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).resolve().parent
#: Group -> cases of it that run before a merge.
PLACES = {
    "fact": 4,
    "choice": 14,
    "json": 4,
    "tool": 3,
    "code": 3,
    "sum": 4,
    "format": 5,
    "grounded": 4,
    "prose": 2,
    "sampled": 1,
    "non-english": 2,
    "emoji": 1,
    "refusal": 1,
    "whitespace": 1,
    "corpus": 2,
    "source": 2,
    "number": 2,
    "needle": 4,
    # At night only.
    "call": 0,
    "variant": 0,
}
#: Longer prompts are for the night.
LONGEST = {"tokens<=16", "tokens<=32", "tokens<=64", "tokens<=128", "tokens<=256"}
#: Behaviours that every reply is asked for say nothing of a case in particular.
OF_ALL = {"replies", "repetition", "length", "script", "refusal", "special_tokens"} | {
    "utf8",
    "similarity",
    "same_reply",
    "ending",
}


def main() -> None:
    """Choose, and write the tags."""
    from harness.execution.suite import load_suite
    from harness.golden.store import read_golden

    suite = load_suite(FOLDER)
    golden = read_golden(suite.golden, suite=suite.name)
    path = FOLDER / "cases.jsonl"
    records = [json.loads(line) for line in path.read_text("utf-8").split("\n") if line]
    groups: dict[str, list[dict[str, Any]]] = {}
    for record in records:
        record["tags"] = [tag for tag in record["tags"] if tag != "gate"]
        groups.setdefault(record["tags"][0], []).append(record)
    chosen = [r for r in records if "tokens<=1024" in r["tags"]][:1]
    for group, members in groups.items():
        short = [r for r in members if LONGEST & set(r["tags"])]
        ranked = sorted(short, key=lambda r: closeness(r["id"], golden))
        chosen += ranked[: PLACES[group]]
    for record in chosen:
        record["tags"].append("gate")
    lines = [json.dumps(record, ensure_ascii=False) for record in records]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    print(f"{len(chosen)} of {len(records)} cases run before a merge")


def closeness(case: str, golden: Any) -> tuple[bool, float, str]:
    """Right answers first, of these the nearest to another answer."""
    own = [
        entries[case]["right"]
        for name, entries in golden.behaviours.items()
        if name not in OF_ALL and case in entries
    ]
    reply = golden.behaviours.get("replies", {}).get(case)
    close = min(reply["probabilities"]) if reply else margin(case, golden)
    return not all(own), close, case


def margin(case: str, golden: Any) -> float:
    """Probability that the likeliest token is ahead by, least over the positions."""
    values = golden.outputs[case]["logits"].array
    top = values.reshape(-1, values.shape[-1])[:, :2]
    return float((2.718281828 ** top[:, 0] - 2.718281828 ** top[:, 1]).min())


if __name__ == "__main__":
    main()
