"""Backends in environments of their own say what is in them, from outside."""

from __future__ import annotations

import sys

from harness.backends import apart
from harness.backends.apart import probe_from_outside
from harness.environments import read_lock


def test_what_was_not_made_says_how_it_is(monkeypatch):
    """The one command, and what it takes."""
    monkeypatch.setattr(apart, "interpreter", lambda _: None)
    found = probe_from_outside("iree", "iree-base-compiler", "cpu llvm")

    assert not found.available
    assert "`quantharness setup iree`" in found.reason
    assert read_lock("iree").size in found.reason


def test_what_was_made_has_the_version_of_its_lock(monkeypatch):
    """Of what is compiled there too; nothing is started to ask."""
    monkeypatch.setattr(apart, "interpreter", lambda _: sys.executable)
    found = probe_from_outside("aihwkit", "aihwkit", "cpu")

    assert found.available
    assert (found.version, found.device) == (
        read_lock("aihwkit").version("aihwkit"),
        "cpu",
    )
    assert found.version
    assert not found.reason
