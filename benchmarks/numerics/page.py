# ruff: noqa: E501 - sentences of a page
"""Writes docs/numerics-speed.md from result.json and alone.json.

python benchmarks/numerics/page.py
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
PAGE = HERE.parents[1] / "docs/numerics-speed.md"
#: Aims: at most so many times a copy, so many times as fast as peers in block formats,
#: so much memory held over what is returned.
COPY, FASTER, MEMORY = 4.0, 3.0, 1.5
DTYPES, THREADS = ("float32", "bfloat16"), (1, 2)
STEPS = ("quantize", "dequantize")


def spent(row: dict[str, Any]) -> dict[str, float]:
    """Processor seconds of a row on one thread, where they were taken; else wall."""
    held: dict[str, float] = row["seconds"]
    return row.get("processor", held) if row["threads"] == 1 else held


def ratios(row: dict[str, Any], step: str) -> dict[str, float]:
    """Peer -> how many times as long as ours it takes over a step.

    A peer that does both at once is set against both of ours, under "quantize".
    """
    seconds, found = spent(row), {}
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


def slow(row: dict[str, Any]) -> list[str]:
    """The peers against which a row of result.json misses its aim."""
    least = FASTER if row["blocks"] else 1.0
    return [
        f"{step}: {ratio:.1f} x {peer}"
        for step in STEPS
        for peer, ratio in ratios(row, step).items()
        if ratio < least
    ]


def heavy(row: dict[str, Any]) -> list[str]:
    """The aims that a row of alone.json misses, each with its number."""
    found = []
    for step in STEPS:
        copies = row["seconds"][step] / row["seconds"]["copy"]
        if copies > COPY:
            found.append(f"{step}: {copies:.1f} copies")
        if row["peak"][step] > MEMORY:
            found.append(f"{step}: {row['peak'][step]:.1f} x its result in memory")
    return found


def listed(rows: list[dict[str, Any]], missed: Callable[[Any], list[str]]) -> str:
    """A table of the aims that are missed, or that there are none."""
    lines = [
        f"| {row['row']} | {row['dtype']} | {row.get('threads', 1)} | {text} |"
        for row in rows
        for text in missed(row)
    ]
    if not lines:
        return f"None of {len(rows)} rows misses it."
    head = ["| format | dtype | threads | missed |", "| --- | --- | --- | --- |"]
    return "\n".join(head + lines)


def alone_table(rows: list[dict[str, Any]], mib: int) -> str:
    lines = [
        "| format | quantize, GB/s | copies | peak | dequantize, GB/s | copies | peak |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row in rows:
        cells = [row["row"]]
        for step in STEPS:
            seconds = row["seconds"][step]
            cells += [
                f"{mib * 2**20 / seconds / 1e9:.1f}",
                f"{seconds / row['seconds']['copy']:.1f}",
                f"{row['peak'][step]:.2f}",
            ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def peer_table(rows: list[dict[str, Any]], mib: int) -> str:
    lines = [
        "| format | ours, GB/s | peers over ours | back, GB/s | peers over ours |",
        "| --- | --- | --- | --- | --- |",
    ]
    for row in rows:
        cells = [row["row"]]
        for step in STEPS:
            rate = mib * 2**20 / spent(row)[f"ours {step}"] / 1e9
            found = ratios(row, step).items()
            cells += [
                f"{rate:.1f}",
                ", ".join(f"{name} {value:.1f}" for name, value in found) or "-",
            ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def page(result: dict[str, Any], alone: dict[str, Any]) -> str:
    """The whole page."""
    mib, rows = result["mib"], result["rows"]
    environment = result["environment"]
    versions = ", ".join(f"{k} {v}" for k, v in environment["versions"].items())
    asked = len(DTYPES) * len(THREADS) * len({row["row"] for row in alone["rows"]})
    processor = sum("processor" in r and r["threads"] == 1 for r in rows)
    short = f" It was stopped after {len(rows)} of {asked} rows." * (len(rows) < asked)
    parts = [
        "# Speed of the numerics",
        f"""\
Tensors of {mib} MiB, {environment["cores"]} cores ({environment["cpu"]}). {versions}. GB/s counts the bytes of the
unquantized tensor. Ours gives one code a byte and float32 values, for bfloat16 tensors too; peers are asked for float32 values.
This page is made by `benchmarks/numerics/page.py`; a test holds it equal to what was measured.

Aims: at least {FASTER:.0f} times as fast as every peer in block formats, faster than every peer in the others, at most
{COPY:.0f} times a copy of the tensor, at most {MEMORY} times the result in memory.""",
        "## By ourselves",
        f"""\
`benchmarks/numerics/alone.py` on {alone["date"]}: one thread, processor time, medians of {alone["rounds"]}. The machine was overloaded (about
six processes on two cores), which wall time shows and processor time does not. Copies: times `numpy.copyto` of the tensor into new memory. Peak:
memory allocated at once over what is returned.""",
        listed(alone["rows"], heavy),
    ]
    for dtype in dict.fromkeys(row["dtype"] for row in alone["rows"]):
        mine = [row for row in alone["rows"] if row["dtype"] == dtype]
        parts += [f"### {dtype}", alone_table(mine, alone["mib"])]
    parts += [
        "## Beside the peers",
        f"""\
`benchmarks/numerics/run.py` on {result["date"]}, the same overloaded machine: medians of {result["rounds"]} rounds in which every
subject is called once: wall time; {processor} rows on one thread were taken again in processor time. The wall rates are lower than they could be and noisy; how many times as long as ours a peer takes
is what these tables\nare for.{short} Quark only quantizes and takes back in one step: against both of ours.""",
        """\
Near 1 in going back means memory: in `run.py`'s process our float32 `int4, groups of 128` takes 0.13 s of processor time to dequantize, in
`alone.py`'s 0.02 s, and torchao and compressed-tensors take 0.12 s. Each writes a new tensor; we take the difference for page faults, small
pages where `alone.py` still gets huge ones. It is not proven, and the aim counts as missed in these rows.""",
        listed(rows, slow),
    ]
    for dtype, threads in dict.fromkeys((r["dtype"], r["threads"]) for r in rows):
        mine = [r for r in rows if (r["dtype"], r["threads"]) == (dtype, threads)]
        word = "thread" if threads == 1 else "threads"
        parts += [f"### {dtype}, {threads} {word}", peer_table(mine, mib)]
    return "\n\n".join(parts) + "\n"


if __name__ == "__main__":
    held = [
        json.loads((HERE / name).read_text("utf-8"))
        for name in ("result.json", "alone.json")
    ]
    PAGE.write_text(page(*held), "utf-8")
