"""From distances to alarms: every tool at its usual settings, and at its best.

A calibrated limit is the tightest that lets every clean run of its scope pass: of one
scheme, which needs a quantized model known to be good, or of all schemes of a suite.
So calibrated settings have no false alarms by construction; how many there would have
been with a limit taken from one clean run is told beside. Limits are per tensor.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import thresholds

#: A calibrated limit has this much room for the last bits of a sum.
ROOM = 1e-6
SEVERITIES = ("catastrophic", "visible", "silent", "conditional")
Scope = Literal["usual", "scheme", "suite"]
Row = dict[str, Any]
#: Outputs on all cases and every operator on some: two commands.
BOTH = "polygraphy run, twice"


@dataclass(frozen=True, kw_only=True)
class Setting:
    """One way of using a tool."""

    tool: str
    #: Several with " + " between: an alarm of any.
    statistic: str
    scope: Scope
    #: Of a usual setting.
    limit: float = 0.0
    #: How an operator is named: not at all, the first over its limit, the worst value.
    names: Literal["", "first", "worst"] = ""

    @property
    def label(self) -> str:
        """For the table."""
        if self.scope == "usual":
            return f"{self.statistic} ≤ {self.limit:g}"
        known = {"scheme": "of the scheme", "suite": "of all schemes"}[self.scope]
        parts = self.statistic.split(" + ")
        shown = "all statistics together" if len(parts) > 1 else parts[0]
        return f"{shown}, calibrated on clean models {known}"


def settings(peers: bool) -> list[Setting]:
    """Every setting that is scored."""
    made = [
        Setting(tool="plain threshold", statistic=name, scope="usual", limit=limit)
        for name, limits in thresholds.USUAL.items()
        for limit in limits
    ]
    for name in (*thresholds.USUAL, " + ".join(thresholds.USUAL)):
        made += _calibrated("plain threshold", name)
    if not peers:
        return made
    made += [
        Setting(
            tool="polygraphy run", statistic=f"elemwise {t:g}", scope="usual", limit=0.5
        )
        for t in (1e-5, 1e-2, 1e-1)
    ]
    for name in ("max", "mean", "median", "max + mean + median"):
        made += _calibrated("polygraphy run", name)
        made += _calibrated("polygraphy run, all operators", name, names="first")
        made += _calibrated(BOTH, name, names="first")
    # It sets no limit: whoever reads its list begins with the worst.
    tool = "qdq_loss_debug"
    shown = Setting(
        tool=tool, statistic="SQNR", scope="usual", limit=math.inf, names="worst"
    )
    return [*made, shown, *_calibrated(tool, "SQNR", names="first")]


def _calibrated(
    tool: str, statistic: str, names: Literal["", "first"] = ""
) -> list[Setting]:
    scopes: tuple[Scope, ...] = ("suite", "scheme")
    return [
        Setting(tool=tool, statistic=statistic, scope=scope, names=names)
        for scope in scopes
    ]


def with_both(rows: Sequence[Row]) -> list[Row]:
    """The rows with one tool more: what Polygraphy's two commands say together."""
    found = []
    for row in rows:
        outputs = row["tools"].get("polygraphy run")
        layers = row["tools"].get("polygraphy run, all operators")
        tools = dict(row["tools"])
        if outputs and layers:
            tools[BOTH] = {
                "values": {
                    name: values
                    | {f"all cases: {n}": v for n, v in outputs["values"][name].items()}
                    for name, values in layers["values"].items()
                },
                "runs": outputs["runs"] + layers["runs"],
                "seconds": outputs["seconds"] + layers["seconds"],
            }
        found.append({**row, "tools": tools})
    return found


def _values(row: Row, setting: Setting) -> dict[tuple[str, str], float]:
    """(tensor, statistic) -> value, in the graph's order."""
    values = row["tools"][setting.tool]["values"]
    parts = setting.statistic.split(" + ")
    names = dict.fromkeys(name for part in parts for name in values[part])
    return {
        (name, part): values[part][name]
        for name in names
        for part in parts
        if name in values[part]
    }


def _limits(rows: Iterable[Row], setting: Setting) -> dict[tuple[str, str], float]:
    """The worst of clean runs."""
    found: dict[tuple[str, str], float] = {}
    for row in rows:
        for key, value in _values(row, setting).items():
            found[key] = max(found.get(key, -math.inf), value)
    return {key: value + abs(value) * ROOM for key, value in found.items()}


def _over(
    row: Row, setting: Setting, limits: dict[tuple[str, str], float]
) -> list[str]:
    """Tensors beyond their limit, in the graph's order."""
    usual = setting.scope == "usual"
    return [
        key[0]
        for key, value in _values(row, setting).items()
        if value > (setting.limit if usual else limits.get(key, math.inf))
    ]


def _scope(rows: Sequence[Row], row: Row, setting: Setting) -> list[Row]:
    """The clean runs that a limit for this row is taken from."""
    return [
        r
        for r in rows
        if not r["defect"]
        and r["suite"] == row["suite"]
        and setting.tool in r["tools"]
        and (setting.scope != "scheme" or r["scheme"] == row["scheme"])
    ]


def judged(rows: Sequence[Row], setting: Setting, operators: Any) -> dict[str, Any]:
    """One line of the table: what a setting catches, alarms on, names, costs."""
    alarms: list[tuple[Row, bool, str]] = []
    once = []
    for row in rows:
        if setting.tool not in row["tools"]:
            continue
        clean = _scope(rows, row, setting)
        over = _over(row, setting, _limits(clean, setting))
        alarms.append((row, bool(over), _named(row, setting, over, operators)))
        if not row["defect"] and row["control"] and setting.scope != "usual":
            plain = _limits([r for r in clean if not r["control"]], setting)
            once.append(bool(_over(row, setting, plain)))
    line = {
        "tool": setting.tool,
        "setting": setting.label,
        "scope": setting.scope,
        **_counts(alarms),
        "names": bool(setting.names),
        "cause_right": None,
        **_cost(rows, setting.tool),
    }
    line["alarms_from_one_clean_run"] = [sum(once), len(once)] if once else None
    return line


def _named(row: Row, setting: Setting, over: list[str], operators: Any) -> str:
    tensors = {tensor: name for name, tensor in operators[row["suite"]].items()}
    if setting.names == "first":
        return next((tensors[name] for name in over if name in tensors), "")
    if setting.names == "worst":
        values = _values(row, setting)
        return tensors[max(values, key=lambda key: values[key])[0]]
    return ""


def ours(rows: Sequence[Row]) -> dict[str, Any]:
    """The same line for quantharness."""
    tool = "quantharness"
    told = [(row, row["tools"][tool]) for row in rows if tool in row["tools"]]
    alarms = [(row, bool(t["alarm"]), str(t["operator"])) for row, t in told]
    single = [(r, t) for r, t in told if r["defect"] and r["planted_in"] != "all"]
    return {
        "tool": tool,
        "setting": "as it ships",
        "scope": "usual",
        **_counts(alarms),
        "names": True,
        "cause_right": [sum(t["cause_right"] is True for _, t in single), len(single)],
        "cause_wrong_and_sure": [
            sum(
                t["cause_right"] is False and t["confidence"] >= 0.9 for _, t in single
            ),
            len(single),
        ],
        **_cost(rows, tool),
        "alarms_from_one_clean_run": None,
    }


def _counts(alarms: Sequence[tuple[Row, bool, str]]) -> dict[str, Any]:
    planted = [entry for entry in alarms if entry[0]["defect"]]
    clean = [entry for entry in alarms if not entry[0]["defect"]]
    single = [entry for entry in planted if entry[0]["planted_in"] != "all"]

    def share(holds: Callable[[Row], bool]) -> list[int]:
        found = [alarm for row, alarm, _ in planted if holds(row)]
        return [sum(found), len(found)]

    return {
        "caught": share(lambda _: True),
        "by_severity": {
            severity: {
                level: share(
                    lambda r, s=severity, k=level: (
                        r["severity"] == s and r["level"] == k
                    )
                )
                for level in ("catalogue", "low")
            }
            for severity in SEVERITIES
        },
        "by_suite": {
            suite: share(lambda r, s=suite: r["suite"] == s)
            for suite in sorted({row["suite"] for row, _, _ in alarms})
        },
        "false_alarms": [sum(alarm for _, alarm, _ in clean), len(clean)],
        "operator_right": [
            sum(name == row["planted_in"] for row, _, name in single),
            len(single),
        ],
    }


def _cost(rows: Sequence[Row], tool: str) -> dict[str, Any]:
    """Median runs and seconds a planted model, by suite."""
    cost: dict[str, dict[str, float]] = {"runs": {}, "seconds": {}}
    for suite in sorted({row["suite"] for row in rows}):
        entries = [
            row["tools"][tool]
            for row in rows
            if row["suite"] == suite and row["defect"] and tool in row["tools"]
        ]
        if not entries:
            continue
        cost["runs"][suite] = statistics.median(e["runs"] for e in entries)
        seconds = statistics.median(e["seconds"] for e in entries)
        cost["seconds"][suite] = round(seconds, 2)
    return cost


def missed(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """What quantharness did not catch, named wrongly, or alarmed on without cause."""
    found = []
    for row in rows:
        told = row["tools"].get("quantharness")
        if told is None:
            continue
        single = row["defect"] and row["planted_in"] != "all"
        operator = single and told["operator"] != row["planted_in"]
        cause = single and told["cause_right"] is not True
        wrong = bool(row["defect"]) != bool(told["alarm"])
        if wrong or operator or cause:
            entry = {k: v for k, v in row.items() if k != "tools"}
            keys = ("verdict", "operator", "cause", "confidence", "reason", "unfit")
            found.append({**entry, **{f"told_{key}": told[key] for key in keys}})
    return found
