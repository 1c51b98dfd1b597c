"""Pictures of a target as files: the network's unexplained drift, the error map."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.errors import MissingExtraError, UsageError
from harness.files import write_bytes
from harness.judge.types import Judgement

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_KINDS = (".svg", ".png", ".pdf")
#: What is drawn for exactly nothing unexplained, on a logarithmic scale.
_FLOOR = 1e-9


def plot(target: Judgement, path: Path) -> None:
    """Draw unexplained drift along the network and the worst operator's error map.

    Args:
        target: with operators that were checked.
        path: `.svg`, `.png` or `.pdf`.

    Raises:
        UsageError: another kind of file, or nothing to draw.
        MissingExtraError: matplotlib is not installed.
    """
    if path.suffix not in _KINDS:
        raise UsageError(f"{path}: should end in one of {', '.join(_KINDS)}")
    if not target.operators:
        raise UsageError(f"{target.name}: no operator was checked; nothing to draw")
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise MissingExtraError("matplotlib", "plot") from None
    maps = [entry for entry in target.diagnosis if entry.get("heat")]
    figure = Figure(figsize=(11, 4 if not maps else 8), layout="constrained")
    rows = figure.subplots(1 + bool(maps), 1, squeeze=False)
    _network(rows[0][0], target)
    if maps:
        _heat(rows[1][0], maps[0])
    data = io.BytesIO()
    figure.savefig(data, format=path.suffix[1:], dpi=150)
    write_bytes(path, data.getvalue())


def _network(axes: Axes, target: Judgement) -> None:
    """Bars of this run, the clean band below each limit."""
    index = range(len(target.operators))
    values = [max(entry.unexplained, _FLOOR) for entry in target.operators]
    colours = ["tab:red" if entry.guilty else "tab:green" for entry in target.operators]
    limits = [max(entry.limit, _FLOOR) for entry in target.operators]
    axes.bar(index, values, color=colours, bottom=0, label="this run")
    axes.fill_between(
        index, _FLOOR, limits, step="mid", alpha=0.2, label="what rounding explains"
    )
    noise = [entry.quantization_noise for entry in target.operators]
    axes.plot(index, noise, "k:", label="the format's own noise against the reference")
    axes.set_yscale("log")
    axes.set_ylim(bottom=_FLOOR)
    axes.set_ylabel("unexplained drift")
    axes.set_xlabel("operators in the order they ran")
    axes.set_title(f"{target.name}: {target.verdict}")
    guilty = [i for i, entry in enumerate(target.operators) if entry.guilty]
    if guilty:
        first = target.operators[guilty[0]]
        axes.annotate(first.name, (guilty[0], first.unexplained), fontsize=8)
    axes.legend(fontsize=8)


def _heat(axes: Axes, entry: Any) -> None:
    found = entry["heat"]
    image = axes.imshow(found["cells"], aspect="auto", cmap="Reds", vmin=0)
    axes.figure.colorbar(image, ax=axes, label="error / weight's root mean square")
    axes.set_xlabel("blocks of inputs")
    axes.set_ylabel("output channels")
    for axis, labels in (
        (axes.xaxis, found["inputs"]),
        (axes.yaxis, found["channels"]),
    ):
        steps = range(0, len(labels), max(1, len(labels) // 8))
        axis.set_ticks(list(steps), [str(int(labels[i])) for i in steps])
    axes.set_title(str(entry.get("sentence", entry["operator"])), fontsize=8)
