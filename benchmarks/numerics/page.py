# ruff: noqa: E501 - sentences of a page
"""Writes docs/numerics-speed.md from result.json.

python benchmarks/numerics/page.py
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
PAGE = HERE.parents[1] / "docs/numerics-speed.md"
#: Aims: at most so many times a copy, so many times as fast as peers in block formats,
#: so much memory held over what is returned.
COPY, FASTER, MEMORY = 4.0, 3.0, 1.5
STEPS = ("quantize", "dequantize")


def ratios(row: dict[str, Any], step: str) -> dict[str, float]:
    """Peer -> how many times as long as ours it takes over a step.

    A peer that does both at once is set against both of ours, under "quantize".
    """
    seconds, found = row["seconds"], {}
    for name, taken in seconds.items():
        if name == "copy" or name.startswith("ours "):
            continue
        peer, what = name.rsplit(" ", 1)
        if what == step:
            found[peer] = taken / seconds[f"ours {step}"]
        elif what == "both" and step == "quantize":
            both = seconds["ours quantize"] + seconds["ours dequantize"]
            found[f"{peer} (both steps)"] = taken / both
    return found


def misses(row: dict[str, Any]) -> list[str]:
    """The aims that a row misses, each with its number."""
    found = []
    least = FASTER if row["blocks"] else 1.0
    for step in STEPS:
        copies = row["seconds"][f"ours {step}"] / row["seconds"]["copy"]
        if copies > COPY:
            found.append(f"{step} takes {copies:.1f} copies")
        for peer, ratio in ratios(row, step).items():
            if ratio < least:
                found.append(f"{step} {ratio:.1f} x {peer}")
        if row["peak"][step] > MEMORY:
            found.append(f"{step} holds {row['peak'][step]:.1f} x its result")
    return found


def cells(row: dict[str, Any], step: str, mib: int) -> str:
    seconds = row["seconds"][f"ours {step}"]
    rate = mib * 2**20 / seconds / 1e9
    compared = ratios(row, step)
    peers = ", ".join(f"{name} {value:.1f}" for name, value in compared.items())
    copies = seconds / row["seconds"]["copy"]
    return f"{rate:.1f} | {copies:.1f} | {peers} | {row['peak'][step]:.2f}"


def table(rows: list[dict[str, Any]], step: str, mib: int) -> str:
    lines = [
        f"| {step} | GB/s | copies | peers' time over ours | peak |",
        "| --- | --- | --- | --- | --- |",
    ]
    lines += [f"| {row['row']} | {cells(row, step, mib)} |" for row in rows]
    return "\n".join(lines)


def page(result: dict[str, Any]) -> str:
    """The whole page."""
    mib, rows = result["mib"], result["rows"]
    versions = result["environment"]["versions"]
    listed = ", ".join(f"{name} {version}" for name, version in versions.items())
    environment = result["environment"]
    missed = [(row, text) for row in rows for text in misses(row)]
    parts = [
        "# Speed of the numerics",
        f"""\
One run of `benchmarks/numerics/run.py` on {result["date"]}: tensors of {mib} MiB, {environment["cores"]} cores
({environment["cpu"]}) shared with other work, medians of {result["rounds"]} interleaved rounds. {listed}.
This page is `benchmarks/numerics/page.py` of `result.json`, which holds every time; a test holds the two equal.

GB/s: bytes of the unquantized tensor. Copies: times `numpy.copyto` of these bytes. Peak: memory held at once over what is
returned. Ours gives one code a byte and float32 values, also for bfloat16 tensors; peers are asked for float32 values too.
Quark only quantizes and takes back in one step: against both of ours.""",
        "## Aims",
        f"""\
At least {FASTER:.0f} times as fast as every peer in block formats and faster in the others, at most {COPY:.0f} copies,
at most {MEMORY} times the result in memory. {len(rows)} rows; **missed {len(missed)} times**:""",
    ]
    names = {(row["dtype"], row["threads"]): None for row in rows}
    lines = [
        f"| {row['row']} | {row['dtype']} | {row['threads']} | {text} |"
        for row, text in missed
    ]
    head = ["| format | dtype | threads | missed |", "| --- | --- | --- | --- |"]
    parts.append("\n".join(head + lines) if lines else "None.")
    for dtype, threads in names:
        mine = [r for r in rows if (r["dtype"], r["threads"]) == (dtype, threads)]
        word = "thread" if threads == 1 else "threads"
        parts.append(f"## {dtype}, {threads} {word}")
        parts += [table(mine, step, mib) for step in STEPS]
    return "\n\n".join(parts) + "\n"


if __name__ == "__main__":
    held = json.loads((HERE / "result.json").read_text("utf-8"))
    PAGE.write_text(page(held), "utf-8")
