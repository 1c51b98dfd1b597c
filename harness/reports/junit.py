"""JUnit XML: one test case a target and check, measurements as properties."""

from __future__ import annotations

import re
from xml.etree import ElementTree as ET

from harness.judge.types import CheckResult, Judgement, Report, Verdict
from harness.reports.wording import number

#: Characters that XML 1.0 does not have.
_ILLEGAL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff\ufffe\uffff]")


def render(report: Report) -> str:
    """The whole file."""
    root = ET.Element("testsuites", name="quantharness")
    suites: dict[str, list[Judgement]] = {}
    for target in report.targets:
        suites.setdefault(target.suite, []).append(target)
    for name, targets in suites.items():
        suite = ET.SubElement(
            root, "testsuite", name=_clean(name), timestamp=report.started
        )
        cases = [case for target in targets for case in _cases(suite, target)]
        suite.set("tests", str(len(cases)))
        for kind, key in (
            ("failure", "failures"),
            ("error", "errors"),
            ("skipped", "skipped"),
        ):
            suite.set(key, str(sum(case.find(kind) is not None for case in cases)))
    ET.indent(root)
    return ET.tostring(root, encoding="unicode", xml_declaration=True) + "\n"


def _cases(suite: ET.Element, target: Judgement) -> list[ET.Element]:
    checks = target.checks or (
        CheckResult(check="run", verdict=target.verdict, reason=target.reason),
    )
    seconds = sum(target.timings.values()) / len(checks)
    return [_case(suite, target, check, seconds) for check in checks]


def _case(
    suite: ET.Element, target: Judgement, check: CheckResult, seconds: float
) -> ET.Element:
    case = ET.SubElement(
        suite,
        "testcase",
        classname=_clean(f"{target.suite}.{target.backend}.{target.scheme}"),
        name=check.check,
        time=f"{seconds:.3f}",
    )
    properties = ET.SubElement(case, "properties")
    for name, entry in target.measurements.items():
        if check.measurement in ("", name):
            ET.SubElement(
                properties, "property", name=_clean(name), value=repr(entry.value)
            )
            if entry.budget is not None:
                limit = f"{_clean(name)}.limit"
                ET.SubElement(
                    properties, "property", name=limit, value=repr(entry.budget)
                )
    kind = outcome(check.verdict, required=target.required)
    if kind:
        found = ET.SubElement(
            case, kind, message=_clean(check.reason or str(check.verdict))
        )
        if kind != "skipped":
            found.set("type", str(check.verdict))
            found.text = _clean(f"{check.reason}\n{_guilty(target)}{target.command}")
    return case


def outcome(verdict: Verdict, *, required: bool) -> str:
    """What JUnit calls a verdict: failure, error, skipped, or nothing."""
    if verdict.fails:
        return "failure"
    if verdict.infrastructure or (verdict is Verdict.UNSUPPORTED and required):
        return "error"
    return "skipped" if verdict is Verdict.UNSUPPORTED else ""


def _guilty(target: Judgement) -> str:
    return "".join(
        f"{entry.name}: unexplained {number(entry.unexplained)}, "
        f"limit {number(entry.limit)}\n"
        for entry in target.operators
        if entry.guilty
    )


def _clean(text: str) -> str:
    return _ILLEGAL.sub("?", text)
