"""A self-test's detection matrix: terminal and HTML."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from harness.reports.terminal import console

_LEVELS: Final = ("low", "catalogue", "high")


def share(entry: Mapping[str, Any]) -> str:
    """`41 of 43 (95.3%, 84.2% to 99.4%)`, the bounds exact at 95%."""
    if not entry["of"]:
        return "-"
    bounds = f"{entry['low']:.1%} to {entry['high']:.1%}"
    return f"{entry['count']} of {entry['of']} ({entry['share']:.1%}, {bounds})"


def print_selftest(found: Mapping[str, Any]) -> None:
    """What is caught by severity, what is missed and why, false alarms, names."""
    from rich import box
    from rich.table import Table

    out = console()
    table = Table("severity", box=box.SIMPLE_HEAD)
    for level in _LEVELS:
        table.add_column(f"caught at {level} strength", justify="right")
    for severity, row in found["by_severity"].items():
        table.add_row(severity, *(share(row[level]) for level in _LEVELS))
    out.print(table)
    _print_missed(out, found)
    for (name, _), entries in grouped(found["tolerated"]).items():
        out.print(
            f"not counted: {name} in {_places(entries)}: it changed no more codes than "
            "right backends may differ by",
            markup=False,
            soft_wrap=True,
        )
    for spot in found["blind_spots"]:
        out.print(
            f"blind spot: {spot['suite']} never met {spot['defect']}; add "
            f"{spot['add']}",
            markup=False,
            soft_wrap=True,
        )
    for entry in found["thresholds"]:
        out.print(_threshold(entry), markup=False, soft_wrap=True)
    for entry in found["alarms"]:
        out.print(
            f"FALSE ALARM {entry['suite']}/{entry['target']}: {entry['verdict']} "
            f"without any defect: {entry['reason']}",
            style="bold red",
            markup=False,
            soft_wrap=True,
        )
    named = found["operator_right"]
    if named["of"]:
        out.print(
            f"operator named first: right {share(named)}; cause: right "
            f"{share(found['cause_right'])}, wrong with confidence "
            f"{share(found['cause_wrong'])}, unknown {share(found['cause_unknown'])}",
            markup=False,
            soft_wrap=True,
        )
    out.print(verdict(found), style="bold", markup=False, soft_wrap=True)


def _threshold(entry: Mapping[str, Any]) -> str:
    least = f"caught from {entry['caught']:.3g}"
    if entry["missed"] is not None:
        least += f", missed at {entry['missed']:.3g}"
    return (
        f"{entry['suite']}/{entry['target']} {entry['defect']}: {least} "
        f"({entry['parameter']})"
    )


def _print_missed(out: Any, found: Mapping[str, Any]) -> None:
    """What was missed, a line a defect and strength."""
    for (name, level), entries in grouped(found["missed"]).items():
        out.print(
            f"missed at {level} strength: {name} in {_places(entries)}: "
            f"{entries[0]['why']}",
            style="yellow" if level == "low" else "red",
            markup=False,
            soft_wrap=True,
        )


def _places(entries: Sequence[Mapping[str, Any]]) -> str:
    """The first few targets, and how many more there are."""
    more = f" and {len(entries) - 4} more" if len(entries) > 4 else ""
    return ", ".join(f"{e['suite']}/{e['target']}" for e in entries[:4]) + more


def grouped(
    trials: Sequence[Mapping[str, Any]],
) -> dict[tuple[str, str], list[Mapping[str, Any]]]:
    """Trials by defect and strength."""
    found: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for entry in trials:
        found.setdefault((entry["defect"], entry["level"]), []).append(entry)
    return found


def print_catalogue(defects: Sequence[Any]) -> None:
    """Every defect: where it sits, how bad, what its strength means, its issues."""
    from rich import box
    from rich.table import Table

    out = console()
    table = Table(box=box.SIMPLE_HEAD)
    for name in ("defect", "place", "severity"):
        table.add_column(name, no_wrap=True)
    for name in ("what goes wrong", "strength", "seen in"):
        table.add_column(name, overflow="fold")
    for entry in defects:
        p = entry.parameter
        table.add_row(
            entry.name,
            entry.place,
            entry.severity,
            entry.summary,
            f"{p.name}: {p.low:g}, {p.catalogue:g}, {p.high:g}",
            " ".join(entry.links),
        )
    out.print(table)


def verdict(found: Mapping[str, Any]) -> str:
    """The whole in one sentence."""
    if not found["caught"]["of"]:
        changed = found["trials"] - found["controls"] - found["unfit"]
        return (
            f"nothing was tested: {found['unfit']} plantings did not fit, {changed} "
            f"changed nothing that counts; {len(found['alarms'])} false alarms in "
            f"{found['controls']} clean runs."
        )
    return (
        f"{share(found['caught'])} planted defects caught; {len(found['alarms'])} "
        f"false alarms in {found['controls']} clean runs; {found['unfit']} did not fit."
    )


def render(found: Mapping[str, Any]) -> str:
    """The HTML page: the matrix of defects and targets, misses, thresholds."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("harness.reports", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals.update(share=share, threshold=_threshold, grouped=grouped)
    targets = sorted({name for row in found["matrix"].values() for name in row})
    return environment.get_template("selftest.html.j2").render(
        found=found, targets=targets, levels=_LEVELS, verdict=verdict(found)
    )
