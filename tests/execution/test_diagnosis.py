"""Looking for a cause beside the run: it may fail, the verdict stands."""

from __future__ import annotations

import dataclasses

import pytest

from harness.diagnose import FLUSHED, UNKNOWN, confirm
from harness.execution import diagnosis
from tests.diagnose.conftest import make_seen


def looked_for(seen, told):
    return diagnosis._diagnosed(None, None, None, (), seen, seen.calls, told)


@pytest.mark.parametrize(("told", "search"), [(FLUSHED, "confirm"), ("", "diagnose")])
def test_a_search_that_fails_is_a_fact(monkeypatch, told, search):
    """Whichever of the two it is."""

    def fails(*_):
        raise ValueError("no such scale")

    monkeypatch.setattr(diagnosis, search, fails)

    found = looked_for(make_seen(), told)

    assert found.cause == UNKNOWN
    assert "no such scale" in found.detail


def test_what_is_told_and_proven_is_the_cause(monkeypatch):
    """With the picture of where it is."""
    proven = dataclasses.replace(confirm(make_seen(), FLUSHED), after=0.0, limit=1.0)
    monkeypatch.setattr(diagnosis, "confirm", lambda *_: proven)

    found = looked_for(make_seen(), FLUSHED)

    assert found.cause == FLUSHED
    assert found.heat is not None


def test_what_is_told_and_not_proven_is_looked_for():
    """All signs are wrong, whatever is missing."""
    seen = make_seen("fp8_e4m3", weight=lambda q: -q.dequantize())

    assert looked_for(seen, FLUSHED).cause == "signs flipped"
