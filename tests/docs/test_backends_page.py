"""docs/backends.md says what conformance finds here."""

from __future__ import annotations

import re
from importlib.metadata import version
from pathlib import Path

import generate_backends as page
import pytest

from harness.backends.registry import load_registry
from harness.conformance import CHECKS, CheckReport, SchemeReport
from harness.environments import read_lock
from harness.schemes.catalogue import SCHEMES

ROOT = Path(__file__).parents[2]

PACKAGES = {"onnx-reference": "onnx"}
#: In environments of their own: what their locks say.
LOCKED = {"quark": "amd-quark", "iree": "iree-base-compiler"}


def todays(backend):
    """The version of a backend's engine, without what its build adds."""
    base = backend.partition("@")[0]
    if base in LOCKED:
        return read_lock(base).version(LOCKED[base])
    return version(PACKAGES.get(base, base)).partition("+")[0]


def rows():
    """The generated table: cells by row, its head first."""
    text = page.PAGE.read_text().partition(page.BEGIN)[2].partition(page.END)[0]
    lines = [line for line in text.splitlines() if line and "---" not in line]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def report(scheme, *failed):
    """A report with the checks that fail."""
    checks = tuple(
        CheckReport(name=name, passed=name not in failed, detail="") for name in CHECKS
    )
    level = "deviates" if failed else "native"
    return SchemeReport(
        backend="b", version="1", scheme=scheme, level=level, checks=checks
    )


def test_the_page_has_every_scheme_and_todays_versions():
    """A new scheme, or a new version of an engine, asks for a new table."""
    head, *found = rows()
    versions = [f"{name} {todays(name)}" for name in page.BACKENDS]

    assert ["scheme", *versions] == head
    assert [f"`{name}`" for name in SCHEMES] == [row[0] for row in found]


def test_the_page_names_every_backend_and_check():
    """What ships is on the page."""
    text = page.PAGE.read_text()

    for name in load_registry().backend_names:
        assert f"| `{name}` |" in text
    assert (
        list(CHECKS)
        == re.findall(r"^\| (\w+) \| [^|]+ \|$", text, re.MULTILINE)[-len(CHECKS) :]
    )


def test_check_fails_where_the_page_says_otherwise(monkeypatch, tmp_path, capsys):
    """One cell that is no longer so is exit 1; writing makes it 0."""
    file = tmp_path / "backends.md"
    file.write_text(f"head\n{page.BEGIN}{page.END}tail\n")
    monkeypatch.setattr(page, "PAGE", file)
    found = {"b": (report("mxfp4", "cast", "special"), report("int8"))}
    monkeypatch.setattr(page, "examined", lambda _: found)

    assert 1 == page.main(["--check"])
    assert 0 == page.main([])
    assert 0 == page.main(["--check"])
    assert "| `mxfp4` | deviates: cast, special |\n| `int8` | native |" in (
        file.read_text()
    )
    found["b"] = (report("mxfp4"), report("int8"))
    assert 1 == page.main(["--check"])
    assert "mxfp4" in capsys.readouterr().err


@pytest.mark.quant_slow
@pytest.mark.parametrize("backend", page.BACKENDS)
def test_the_table_is_what_conformance_finds(backend):
    """Every cell of a backend's column, found again."""
    if not load_registry().backend(backend).probe().available:
        pytest.skip(f"{backend} is not here")
    (found,) = page.examined([backend]).values()
    column = page.BACKENDS.index(backend) + 1

    assert [page.cell(entry) for entry in found] == [row[column] for row in rows()[1:]]
