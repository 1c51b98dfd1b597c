"""The catalogue of defects: declared values, each with the real issues behind it."""

from __future__ import annotations

import re

import pytest

from harness.backends.registry import Registry
from harness.defects import DEFECTS, Defect, find_defect
from harness.errors import UsageError

ISSUE = re.compile(r"[\w.-]+/[\w.-]+#\d+")


@pytest.mark.parametrize("defect", DEFECTS.values(), ids=DEFECTS)
def test_a_defect_says_what_it_is_and_where_it_was_seen(defect):
    """A line for people, an issue somewhere, strengths from faint to gross."""
    p = defect.parameter

    assert re.fullmatch(r"[a-z0-9_]+", defect.name)
    assert defect.summary
    assert defect.links
    assert all(ISSUE.fullmatch(link) for link in defect.links), defect.links
    assert p.catalogue != p.none
    assert sorted([p.low, p.catalogue, p.high]) in (
        [p.low, p.catalogue, p.high],
        [p.high, p.catalogue, p.low],
    )


def test_an_unknown_defect_is_refused_with_what_was_meant():
    """One letter off."""
    with pytest.raises(UsageError, match="did you mean 'scale_missing'"):
        find_defect("scale_mising")


def test_a_plugin_adds_a_defect():
    """Registered under its name, found beside the shipped ones."""
    registry = Registry()
    mine = Defect(
        name="mine",
        summary="ours",
        place="output",
        severity="visible",
        links=("us/ours#1",),
        change=lambda _site, call, strength: call.y * strength,
    )

    registry.add_defect(mine)

    assert find_defect("mine", registry.defects) is mine
