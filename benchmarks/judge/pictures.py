"""The pictures of docs/how-the-gate-decides.md, drawn from measured numbers.

Run: python benchmarks/judge/pictures.py  (after power.py and coverage.py with --json)
"""

from __future__ import annotations

import json
from pathlib import Path

HERE = Path(__file__).parent
IMAGES = HERE.parents[1] / "docs" / "images"
COLOURS = {
    "quantharness in a full gate": "#0b6e4f",
    "TensorRT-LLM": "#b5651d",
    "SGLang mean-5": "#7a7a7a",
    "llm-compressor": "#5b7db1",
    "vLLM rtol .08": "#a23b72",
    "ModelOpt 1 pt": "#c9a227",
}


def svg(width, height, parts):
    style = 'font-family="sans-serif" font-size="13"'
    body = "\n".join(parts)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
        f'width="{width}" height="{height}" {style}>\n'
        f'<rect width="{width}" height="{height}" fill="white"/>\n{body}\n</svg>\n'
    )


def text(x, y, words, anchor="start", fill="#222"):
    return f'<text x="{x}" y="{y}" text-anchor="{anchor}" fill="{fill}">{words}</text>'


def line(x1, y1, x2, y2, *stroke):
    colour, width, dash = (*stroke, *("#222", 1, "")[len(stroke) :])
    dashed = f' stroke-dasharray="{dash}"' if dash else ""
    return (
        f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" '
        f'stroke="{colour}" stroke-width="{width}"{dashed}/>'
    )


def rectangle(x, y, height, colour):
    return (
        f'<rect x="{x}" y="{y:.1f}" width="34" height="{height:.1f}" fill="{colour}"/>'
    )


def power_picture(rows):
    left, top, width, height = 60, 34, 460, 260
    parts = [text(left, 20, "Chance that the gate fails, by the true drop in points")]
    for share in (0, 0.25, 0.5, 0.75, 1):
        y = top + height * (1 - share)
        parts += [
            line(left, y, left + width, y, "#ddd"),
            text(left - 8, y + 4, f"{share:.0%}", "end"),
        ]
    for drop in (0, 1, 2, 3, 4, 5):
        x = left + width * drop / 5
        parts.append(text(x, top + height + 18, f"{drop}", "middle"))
    for number, (name, colour) in enumerate(COLOURS.items()):
        points = " ".join(
            f"{left + width * row['drop'] / 0.05:.1f},"
            f"{top + height * (1 - row['fails'][name]):.1f}"
            for row in rows
        )
        thick = 3 if name.startswith("quant") else 1.8
        parts.append(
            f'<polyline points="{points}" fill="none" stroke="{colour}" '
            f'stroke-width="{thick}"/>'
        )
        y = top + 20 + 22 * number
        parts += [line(540, y - 4, 565, y - 4, colour, thick), text(572, y, name)]
    caption = "1,319 questions, 90% right, 1% of answers change by chance"
    parts.append(text(left, top + height + 42, caption, fill="#555"))
    return svg(770, 350, parts)


def interval_picture():
    budget, left = 330, 60
    rows = (
        ("pass", 120, 200, "#0b6e4f", "whole interval within"),
        ("pass", 270, 350, "#0b6e4f", "straddles, and the cases would show less"),
        ("inconclusive", 120, 520, "#c9a227", "straddles, and could hide a lot"),
        ("drift", 370, 450, "#b3261e", "whole interval beyond"),
    )
    parts = [
        text(left, 20, "Drift with its interval, against the budget"),
        line(budget, 30, budget, 215, "#222", 1.5, "5 4"),
        text(budget + 6, 42, "budget"),
    ]
    for number, (verdict, start, end, colour, why) in enumerate(rows):
        y = 72 + 40 * number
        low, high = left + start - 60, left + end - 60
        parts += [
            line(low, y, high, y, colour, 4),
            line(low, y - 7, low, y + 7, colour, 2),
            line(high, y - 7, high, y + 7, colour, 2),
            f'<circle cx="{(low + high) / 2}" cy="{y}" r="6" fill="{colour}"/>',
            text(560, y + 4, f"{verdict}: {why}", fill=colour),
        ]
    return svg(860, 240, parts)


def clusters_picture(misses):
    left, top, width, height = 60, 34, 400, 220
    parts = [text(left, 20, "90% intervals that miss the truth (10 tokens a prompt)")]
    for share in (0, 0.1, 0.3, 0.5):
        y = top + height * (1 - share / 0.7)
        parts += [
            line(left, y, left + width, y, "#222" if share == 0.1 else "#ddd"),
            text(left - 8, y + 4, f"{share:.0%}", "end"),
        ]
    for number, correlation in enumerate((0.0, 0.5, 0.9)):
        x = left + 30 + number * 130
        for shift, name, colour in (
            (0, f"the same, naive, correlation {correlation}", "#b3261e"),
            (40, f"60 prompts x 10 tokens, correlation {correlation}", "#0b6e4f"),
        ):
            found = misses[name]["0.05"]
            share = found["low"] + found["high"]
            tall = height * share / 0.7
            parts += [
                rectangle(x + shift, top + height - tall, tall, colour),
                text(x + shift + 17, top + height - tall - 5, f"{share:.0%}", "middle"),
            ]
        words = f"correlation {correlation}"
        parts.append(text(x + 37, top + height + 18, words, "middle"))
    parts += [
        text(490, 80, "tokens as if independent", fill="#b3261e"),
        text(490, 104, "prompts drawn whole (ours)", fill="#0b6e4f"),
        text(490, 128, "line: the 10% that is stated"),
    ]
    return svg(720, 290, parts)


def main() -> None:
    IMAGES.mkdir(parents=True, exist_ok=True)
    power = json.loads((HERE / "power.json").read_text(encoding="utf-8"))["power"]
    coverage = json.loads((HERE / "coverage.json").read_text(encoding="utf-8"))
    rows = [
        row
        for row in power
        if (row["cases"], row["accuracy"], row["churn"]) == (1319, 0.9, 0.01)
    ]
    pictures = {
        "gate-power.svg": power_picture(rows),
        "gate-intervals.svg": interval_picture(),
        "gate-clusters.svg": clusters_picture(coverage["misses"]),
    }
    for name, picture in pictures.items():
        (IMAGES / name).write_text(picture, encoding="utf-8")
        print(IMAGES / name)


if __name__ == "__main__":
    main()
