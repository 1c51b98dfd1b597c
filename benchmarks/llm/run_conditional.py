"""Faults that hide from averages, run through the smollm2 suite.

    python benchmarks/llm/run_conditional.py [--select TAG] [FAULT...]

The cases are those before a merge, or those with the tag.
Prints, for weights in FP8: what mean accuracy and perplexity say of the faulty backend
beside the sound one, and what the suite says.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import tempfile
from pathlib import Path

import numpy as np
from conditional_defects import DEFECTS

import harness
from harness.execution.run_folder import EVIDENCE

ROOT = Path(__file__).resolve().parents[2]
PLUGIN = Path(__file__).resolve().parent / "conditional_defects.py"
SCHEME = "fp8_weight_only"


def main() -> None:
    """Run the sound backend and each fault, print a row each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--select", default="gate", metavar="TAG")
    parser.add_argument("faults", nargs="*", metavar="FAULT")
    options = parser.parse_args()
    wanted = options.faults or list(DEFECTS)
    backends = ["torch", *(f"torch-{name}" for name in wanted)]
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "smollm2"
        folder.mkdir()
        write_suite(folder, backends, options.select)
        harness.run([folder], plugins=[str(PLUGIN)], out=Path(temporary) / "run")
        sound = figures(Path(temporary), "torch")
        print("| backend | accuracy | perplexity ratio | mean KL | verdict | by |")
        print("| --- " * 6 + "|")
        for backend in backends:
            print(row(backend, figures(Path(temporary), backend), sound), flush=True)


def write_suite(folder: Path, backends: list[str], select: str) -> None:
    """The shipped suite with one scheme on these backends."""
    suite = ROOT / "suites/smollm2"
    text = (suite / "suite.toml").read_text()
    shutil.copytree(ROOT / "golden/smollm2", folder / "golden")
    head = text.split("[[target]]")[0].replace(
        'select = "gate"', f'select = "{select}"'
    )
    # A slice may have no case of some behaviour, which is no finding here.
    whole = select == "gate"
    behaviours = text[text.index("[[behaviour]]") :] if whole else ""
    targets = [f'[[target]]\nbackend = "{b}"\nscheme = "{SCHEME}"\n' for b in backends]
    (folder / "suite.toml").write_text("\n".join([head, *targets, behaviours]))
    (folder / "cases.jsonl").write_bytes((suite / "cases.jsonl").read_bytes())


def figures(folder: Path, backend: str) -> dict:
    """What averages say, and the verdict."""
    target = folder / "run/targets/smollm2" / backend / SCHEME
    verdict = json.loads((target / "verdict.json").read_text())
    evidence = json.loads((target / EVIDENCE).read_text())
    right = np.concatenate(
        [np.array(b["target_right"], bool) for b in evidence["evidence"]["behaviours"]]
        or [np.zeros(0, bool)]
    )
    measured = verdict["measurements"]
    failed = [c for c in verdict["checks"] if c["verdict"] != "pass"]
    return {
        "accuracy": float(right.mean()) if right.size else float("nan"),
        "perplexity": measured.get("logits.perplexity_ratio", {}).get("value"),
        "kl": measured.get("logits.kl", {}).get("value"),
        "verdict": verdict["verdict"],
        "reason": failed[0]["reason"] if failed else "",
        "checks": ", ".join(dict.fromkeys(c["check"] for c in failed)),
    }


def row(backend: str, own: dict, sound: dict) -> str:
    reason = re.sub(r"\s+", " ", own["reason"])[:160].replace("|", "/")
    return (
        f"| {backend} "
        f"| {own['accuracy']:.3f} ({own['accuracy'] - sound['accuracy']:+.3f}) "
        f"| {own['perplexity']:.3f} ({own['perplexity'] - sound['perplexity']:+.3f}) "
        f"| {own['kl']:.4f} | {own['verdict']} | {own['checks']}: {reason} |"
    )


if __name__ == "__main__":
    main()
