"""Faults that hide from averages, run through the smollm2 suite.

    python benchmarks/llm/run_conditional.py [--select TAG] [--out FOLDER] [FAULT...]

The cases are those before a merge, or those with the tag.
Prints, for weights in FP8: what mean accuracy and perplexity say of the faulty backend
beside the sound one, and what the suite says. An average that lies within the interval
of the sound backend's does not tell the two apart.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import tempfile
from pathlib import Path

from conditional_defects import DEFECTS

import harness
from harness.execution.run_folder import EVIDENCE
from harness.judge.statistics.paired_binary import flips, loss_p_value

ROOT = Path(__file__).resolve().parents[2]
PLUGIN = Path(__file__).resolve().parent / "conditional_defects.py"
SCHEME = "fp8_weight_only"
#: Behaviours of which a case expects something of its own.
TASKS = {"json", "json_schema", "code", "format", "arithmetic", "choice", "fact"} | {
    "grounded",
    "needle",
    "ending",
}
COLUMNS = (
    "fault",
    "accuracy",
    "p of no loss",
    "perplexity ratio",
    "KL",
    "verdict",
    "by",
)


def main() -> None:
    """Run the sound backend and each fault, print a row each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--select", default="gate", metavar="TAG")
    parser.add_argument("--out", type=Path, metavar="FOLDER")
    parser.add_argument("faults", nargs="*", metavar="FAULT")
    options = parser.parse_args()
    wanted = options.faults or list(DEFECTS)
    backends = ["torch", *(f"torch-{name}" for name in wanted)]
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "smollm2"
        folder.mkdir()
        print(f"| {' | '.join(COLUMNS)} |")
        print("| --- " * len(COLUMNS) + "|")
        sound: dict = {}
        for backend in backends:
            # One by one: a suite keeps the model of each of its backends, 3 GB.
            out = (options.out or Path(temporary)) / backend
            write_suite(folder, backend, options.select)
            harness.run([folder], plugins=[str(PLUGIN)], out=out)
            found = figures(out, backend)
            sound = sound or found
            print(row(backend, found, sound), flush=True)


def write_suite(folder: Path, backend: str, select: str) -> None:
    """The shipped suite with one scheme on this backend."""
    suite = ROOT / "suites/smollm2"
    text = (suite / "suite.toml").read_text()
    golden = folder / "golden"
    shutil.copytree(ROOT / "golden/smollm2", golden, dirs_exist_ok=True)
    head = text.split("[[target]]")[0].replace(
        'select = "gate"', f'select = "{select}"'
    )
    # A slice may have no case of some behaviour, which is no finding here.
    whole = select == "gate"
    behaviours = text[text.index("[[behaviour]]") :] if whole else ""
    target = f'[[target]]\nbackend = "{backend}"\nscheme = "{SCHEME}"\n'
    (folder / "suite.toml").write_text(f"{head}\n{target}\n{behaviours}")
    (folder / "cases.jsonl").write_bytes((suite / "cases.jsonl").read_bytes())


def figures(out: Path, backend: str) -> dict:
    """What averages say, and the verdict."""
    target = out / "targets/smollm2" / backend / SCHEME
    verdict = json.loads((target / "verdict.json").read_text())
    evidence = json.loads((target / EVIDENCE).read_text())
    _, right = answers_by_case(evidence["evidence"]["behaviours"])
    failed = [c for c in verdict["checks"] if c["verdict"] != "pass"]
    return {
        "right": right,
        "measured": verdict["measurements"],
        "verdict": verdict["verdict"],
        "reason": failed[0]["reason"] if failed else "",
        "checks": ", ".join(dict.fromkeys(c["check"] for c in failed)),
    }


def row(backend: str, own: dict, sound: dict) -> str:
    """A fault's line: averages beside the sound backend's, then the verdict."""
    reason = re.sub(r"\s+", " ", own["reason"])[:160].replace("|", "/")
    cells = [
        backend.removeprefix("torch-").replace("torch", "none"),
        *accuracy(own["right"], sound["right"]),
        average(own, sound, "logits.perplexity_ratio"),
        average(own, sound, "logits.kl"),
        own["verdict"],
        f"{own['checks']}: {reason}" if reason else "",
    ]
    return f"| {' | '.join(cells)} |"


def accuracy(own: dict[str, bool], sound: dict[str, bool]) -> tuple[str, str]:
    """Right answers, and the chance of so many lost ones were nothing lost."""
    if not own:
        return "-", "-"
    table = flips([sound[case] for case in own], list(own.values()))
    return f"{sum(own.values())} of {len(own)}", f"{loss_p_value(table):.2g}"


def average(own: dict, sound: dict, name: str) -> str:
    """A mean, its interval, and whether the sound backend's interval holds it."""
    entry, other = own["measured"][name], sound["measured"][name]
    shown = f"{entry['value']:.3g} [{entry['low']:.3g}, {entry['high']:.3g}]"
    within = other["low"] <= entry["value"] <= other["high"]
    return shown if within else f"{shown} (told apart)"


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


if __name__ == "__main__":
    main()
