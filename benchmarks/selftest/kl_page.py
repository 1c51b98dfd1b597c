"""What kl_result.json says, judged and written: a section of the page."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any, Final

Row = Mapping[str, Any]
OURS, FILE, THEIRS = "quantharness", "file check", "llama-perplexity"
#: Statistic -> limits that people use: of files that should be as good as F16, and of
#: four bits. Larger is worse, but for the share of equal tops.
USUAL: Final = {
    "mean KL": (0.01, 0.1),
    "99% KL": (0.1, 1.0),
    "PPL ratio": (1.01, 1.05),
    "same top %": (95.0, 90.0),
}
#: The words before the tables.
TOLD: Final = (Path(__file__).parent / "kl_head.md").read_text("utf-8")
#: What is calibrated together.
STATISTICS: Final = tuple(USUAL)


def beyond(statistic: str, value: float | None, limit: float) -> bool:
    """Whether a statistic is worse than a limit; one that is not finite is."""
    if value is None:
        return True
    return value < limit if statistic == "same top %" else value > limit


def _worst(statistic: str, rows: Sequence[Row]) -> float:
    values = [row["tools"][THEIRS]["values"][statistic] for row in rows]
    return (min if statistic == "same top %" else max)(values)


def planted(rows: Sequence[Row]) -> list[Row]:
    """Files with a defect."""
    return [row for row in rows if "defect" in row]


def clean(rows: Sequence[Row]) -> list[Row]:
    """Files without."""
    return [row for row in rows if "control" in row]


def calibrated(rows: Sequence[Row], statistics: Sequence[str]) -> Callable[[Row], bool]:
    """Alarm beyond the worst clean run of the file's scheme, of any statistic."""
    schemes = {row["scheme"] for row in rows}
    limits = {
        (scheme, statistic): _worst(
            statistic, [r for r in clean(rows) if r["scheme"] == scheme]
        )
        for scheme in schemes
        for statistic in statistics
    }

    def alarm(row: Row) -> bool:
        values = row["tools"][THEIRS]["values"]
        return any(beyond(s, values[s], limits[row["scheme"], s]) for s in statistics)

    return alarm


def everywhere(rows: Sequence[Row], statistics: Sequence[str]) -> Callable[[Row], bool]:
    """The same with one limit for whatever is quantized."""
    limits = {s: _worst(s, clean(rows)) for s in statistics}

    def alarm(row: Row) -> bool:
        values = row["tools"][THEIRS]["values"]
        return any(beyond(s, values[s], limit) for s, limit in limits.items())

    return alarm


def settings(rows: Sequence[Row]) -> dict[str, Callable[[Row], bool]]:
    """Setting -> whether it alarms."""
    found: dict[str, Callable[[Row], bool]] = {}
    for statistic, limits in USUAL.items():
        sign = "≥" if statistic == "same top %" else "≤"
        for limit in limits:
            found[f"{statistic} {sign} {limit:g}"] = _usual(statistic, limit)
    found["mean KL, calibrated on clean files of all schemes"] = everywhere(
        rows, ["mean KL"]
    )
    found["mean KL, calibrated on clean files of the scheme"] = calibrated(
        rows, ["mean KL"]
    )
    found["all four, calibrated on clean files of all schemes"] = everywhere(
        rows, STATISTICS
    )
    found["all four, calibrated on clean files of the scheme"] = calibrated(
        rows, STATISTICS
    )
    return found


def _usual(statistic: str, limit: float) -> Callable[[Row], bool]:
    return lambda row: beyond(
        statistic, row["tools"][THEIRS]["values"][statistic], limit
    )


def _share(rows: Sequence[Row], alarm: Callable[[Row], bool]) -> str:
    return f"{sum(map(alarm, rows))} of {len(rows)}" if rows else "–"


def _given(rows: Sequence[Row], tool: str) -> list[Row]:
    """Those that a tool was given."""
    return [row for row in rows if tool in row["tools"]]


def _alarm(tool: str) -> Callable[[Row], bool]:
    return lambda row: bool(row["tools"][tool]["alarm"])


def _in_a_run(row: Row) -> bool:
    """The check of operators fails, not only the one of the file."""
    return "explained" in row["tools"][OURS]["failing"]


def _line(
    name: str, rows: Sequence[Row], tool: str, alarm: Callable[[Row], bool]
) -> list[str]:
    """A line of the table of ours."""
    parts = [_share(_given(part(rows), tool), alarm) for part in (planted, clean)]
    return ["quantharness", name, *parts]


def _seconds(rows: Sequence[Row], tool: str, key: str = "seconds") -> str:
    return f"{median(row['tools'][tool][key] for row in rows):.3g}" if rows else "–"


def section(result: Mapping[str, Any]) -> str:
    """The section's text."""
    rows = result["rows"]
    wrong = planted(rows)
    lines = [
        _line("its check of the file alone", rows, FILE, _alarm(FILE)),
        _line("the whole gate", rows, OURS, _alarm(OURS)),
        _line("its check of operators alone", rows, OURS, _in_a_run),
    ]
    lines += [
        [THEIRS, name, _share(wrong, alarm), _share(clean(rows), alarm)]
        for name, alarm in settings(rows).items()
    ]
    heads = ["tool", "setting", "caught", "false alarms"]
    return "\n".join(
        [
            _told(result, wrong, clean(rows)),
            table(heads, lines),
            _named(wrong),
            _severities(rows),
            _cost(result, wrong, clean(rows)),
            _files(rows),
        ]
    )


def _named(wrong: Sequence[Row]) -> str:
    one = [row for row in wrong if row["planted_in"] != "all"]
    named = sum(row["tools"][FILE]["operator"] == row["planted_in"] for row in one)
    given = _given(one, OURS)
    causes = sum(bool(row["tools"][OURS]["cause_right"]) for row in given)
    return (
        f"The check of the file names the right operator in {named} of {len(one)}; "
        f"the whole gate the right cause in {causes} of {len(given)}. "
        "llama-perplexity names neither.\n"
    )


def _severities(rows: Sequence[Row]) -> str:
    wrong = planted(rows)
    kinds = [
        (severity, level)
        for severity in dict.fromkeys(row["severity"] for row in wrong)
        for level in ("catalogue", "low")
    ]
    lines = [
        [
            tool,
            name,
            *(
                _share([r for r in wrong if (r["severity"], r["level"]) == kind], alarm)
                for kind in kinds
            ),
        ]
        for tool, name, alarm in (
            ("quantharness", "its check of the file alone", _alarm(FILE)),
            (THEIRS, "mean KL ≤ 0.01", settings(rows)["mean KL ≤ 0.01"]),
            (THEIRS, "all four, of all schemes", everywhere(rows, STATISTICS)),
            (THEIRS, "all four, of the scheme", calibrated(rows, STATISTICS)),
        )
    ]
    return table(["tool", "setting", *(", ".join(kind) for kind in kinds)], lines)


def _told(result: Mapping[str, Any], wrong: Sequence[Row], right: Sequence[Row]) -> str:
    where = result["environment"]
    schemes = ", ".join(dict.fromkeys(row["scheme"] for row in result["rows"]))
    return TOLD.format(
        date=result["date"],
        cpu=where["cpu"],
        cores=where["cores"],
        theirs=where["llama-perplexity"],
        ours=where["xllamacpp"],
        seed=result["seed"],
        wrong=len(wrong),
        right=len(right),
        judged=len(_given(right, OURS)),
        gated=len(_given(wrong, OURS)),
        schemes=schemes,
        chunks=result["chunks"],
        length=result["length"],
    )


def _cost(result: Mapping[str, Any], wrong: Sequence[Row], right: Sequence[Row]) -> str:
    gate = _seconds(_given(wrong, OURS), OURS)
    return (
        f"A file takes llama-perplexity one run of {result['chunks']} chunks, median "
        f"{_seconds(wrong, THEIRS)} s ({_seconds(wrong, THEIRS, 'cpu')} s of the "
        f"processor), after {result['record']['seconds']:.3g} s and "
        f"{result['base_bytes'] / 1e6:.0f} MB for the base. The check of the file "
        f"takes {_seconds(wrong, FILE)} s and runs nothing; the whole gate {gate} s, "
        f"on all cases of a clean file {_seconds(_given(right, OURS), OURS)} s. These "
        "are wall seconds beside up to twenty other busy processes.\n"
    )


def _files(rows: Sequence[Row]) -> str:
    heads = [
        *("scheme", "defect (strength)", "in", "mean KL", "99% KL", "PPL ratio"),
        *("same top", "file check", "operator", "whole gate", "checks that fail"),
        "cause",
    ]
    return table(heads, [_file(row) for row in rows])


def _file(row: Row) -> list[str]:
    values, tools = row["tools"][THEIRS]["values"], row["tools"]
    file, told = tools.get(FILE), tools.get(OURS)
    operator = "" if file is None else file["operator"]
    if operator == row.get("planted_in"):
        operator = "the right one"
    return [
        row["scheme"],
        f"{row['defect']} ({row['strength']:g})"
        if "defect" in row
        else f"clean, {row['control']}",
        row.get("planted_in", "–"),
        _number(values["mean KL"], ".5f"),
        _number(values["99% KL"], ".4f"),
        _number(values["PPL ratio"], ".4f"),
        _number(values["same top %"], ".2f"),
        "–" if file is None else "caught" if file["alarm"] else "passes",
        operator or "–",
        "–" if told is None else f"{told['verdict']} ({told['cases']} cases)",
        "–" if told is None else ", ".join(told["failing"]) or "none",
        "–" if told is None else told["cause"] or "–",
    ]


def _number(value: float | None, how: str) -> str:
    return "NaN" if value is None else format(value, how)


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table in Markdown."""
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines) + "\n"
