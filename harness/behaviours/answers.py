"""All that a reply is asked for, at once: one question with all cases' power.

A behaviour of seven cases cannot show a loss of a third; fifty answers of every kind
together can.
"""

from __future__ import annotations

from typing import Final

from harness.behaviours import facts, fluency, structured
from harness.behaviours.each_reply import Judge, Seen, of_each

#: Key of `expected` -> what judges a reply by it.
_TASKS: Final[dict[str, Judge]] = {
    "json": structured.json_schema,
    "tool_call": structured.tool_call,
    "code": structured.code,
    "format": structured.format_,
    "number": facts.number,
    "fact": facts.fact,
    "needle": facts.fact,
    "context": facts.grounded,
    "ends": fluency.ending,
}


def answers(seen: Seen) -> bool | None:
    """Right by everything that the case expects; None where it expects nothing."""
    expected = seen.case.expected
    found = [
        judge(seen.about(expected[key]))
        for key, judge in _TASKS.items()
        if key in expected
    ]
    return all(found) if found else None


KINDS: Final = (
    of_each(
        "answers",
        answers,
        summary="the reply is right by everything that its case expects",
    ),
)
