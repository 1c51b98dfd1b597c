"""Inline SVG, small and without scripts."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup, escape

from harness.judge.types import OperatorResult
from harness.reports.wording import number

_LOW = -8.0


def operators(found: Sequence[OperatorResult], *, width: int = 720) -> Markup:
    """Unexplained drift along the network, each operator with its own limit.

    The scale is logarithmic, from 1e-8 up: faithful operators lie near rounding, a
    defect stands out by powers of ten.
    """
    if not found:
        return Markup("")
    height, left, top, bottom = 180, 44, 10, 16
    high = max(0.5, *(_log(max(o.unexplained, o.limit)) for o in found)) + 0.3
    step = (width - left - 8) / len(found)

    def y(value: float) -> float:
        share = (value - _LOW) / (high - _LOW)
        return top + (height - top - bottom) * (1 - min(max(share, 0.0), 1.0))

    label = f"unexplained drift of {len(found)} operators"
    box = f"0 0 {width} {height}"
    parts = [f'<svg class="network" viewBox="{box}" role="img" aria-label="{label}">']
    parts += [
        f'<line class="grid" x1="{left}" x2="{width - 8}" y1="{y(power):.1f}" '
        f'y2="{y(power):.1f}"/><text x="{left - 6}" y="{y(power) + 3:.1f}" '
        f'text-anchor="end">1e{power}</text>'
        for power in range(int(_LOW), math.floor(high) + 1, 2)
    ]
    for index, entry in enumerate(found):
        x = left + index * step
        value, limit = _log(entry.unexplained), _log(entry.limit)
        kind = "guilty" if entry.guilty else "clean"
        title = escape(
            f"{entry.name}: unexplained {number(entry.unexplained)}, "
            f"limit {number(entry.limit)}"
        )
        bar = max(1.5, min(step * 0.7, 22))
        parts.append(
            f'<g><title>{title}</title><rect class="{kind}" x="{x:.1f}" '
            f'y="{y(value):.1f}" width="{bar:.1f}" '
            f'height="{max(height - bottom - y(value), 0.5):.1f}"/>'
            f'<line class="limit" x1="{x - 1:.1f}" x2="{x + bar + 1:.1f}" '
            f'y1="{y(limit):.1f}" y2="{y(limit):.1f}"/></g>'
        )
    parts.append("</svg>")
    return Markup("".join(parts))  # noqa: S704 - every text in it is escaped above


def _log(value: float) -> float:
    if math.isinf(value) or math.isnan(value):
        return 3.0
    return math.log10(value) if value > 0 else _LOW


def heat(found: Mapping[str, Any], *, width: int = 560) -> Markup:
    """Error by output channel (rows) and block of inputs (columns), darker is worse.

    The scale is that of the worst cell; its value is written above the picture.
    """
    cells = found["cells"]
    rows, columns = len(cells), len(cells[0])
    left, top = 52, 16
    across = (width - left - 8) / columns
    down = min(14.0, 300 / rows)
    height = top + down * rows + 18
    worst = max(max(row) for row in cells)
    parts = [
        f'<svg class="heat" viewBox="0 0 {width} {height:.0f}" role="img" '
        'aria-label="error by output channel and block of inputs">',
        f'<text x="{left}" y="10">darkest: an error of {number(worst)} times the '
        "weight's root mean square</text>",
    ]
    parts += [
        f'<text x="{left - 6}" y="{top + down * (row + 1) - 1:.1f}" '
        f'text-anchor="end">{int(found["channels"][row])}</text>'
        for row in sorted({0, rows // 2, rows - 1})
    ]
    parts += [
        f'<text x="{left + across * column:.1f}" y="{height - 5:.0f}">'
        f"{int(found['inputs'][column])}</text>"
        for column in sorted({0, columns // 2, columns - 1})
    ]
    for y, row in enumerate(cells):
        for x, value in enumerate(row):
            share = value / worst if worst > 0 else 0.0
            title = (
                f"channels from {int(found['channels'][y])}, inputs from "
                f"{int(found['inputs'][x])}: {number(value)}"
            )
            parts.append(
                f'<rect class="cell" x="{left + across * x:.1f}" '
                f'y="{top + down * y:.1f}" width="{across:.1f}" height="{down:.1f}" '
                f'opacity="{share:.2f}"><title>{title}</title></rect>'
            )
    parts.append("</svg>")
    return Markup("".join(parts))  # noqa: S704 - numbers only


def sparkline(values: Sequence[float], *, width: int = 120, height: int = 24) -> Markup:
    """A measurement over past nights; the last one marked."""
    finite = [value for value in values if math.isfinite(value)]
    if len(finite) < 2:
        return Markup("")
    low, high = min(finite), max(finite)
    # A flat line lies in the middle: it has neither risen nor fallen.
    span = high - low or 1.0
    base = 0.5 if high == low else 0.0
    step = (width - 8) / (len(finite) - 1)
    points = [
        (4 + index * step, height - 4 - (base + (value - low) / span) * (height - 8))
        for index, value in enumerate(finite)
    ]
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    title = escape(f"{len(finite)} runs, {number(low)} to {number(high)}")
    return Markup(  # noqa: S704 - numbers and escaped text only
        f'<svg class="spark" viewBox="0 0 {width} {height}"><title>{title}</title>'
        f'<polyline points="{path}"/><circle cx="{points[-1][0]:.1f}" '
        f'cy="{points[-1][1]:.1f}" r="2.5"/></svg>'
    )
