"""What compiling takes is found missing before anything is begun."""

from __future__ import annotations

import shutil
import sys

import pytest

from harness.environments import NEEDS, lacking, toolchain
from harness.environments.toolchain import Need

needs_compiler = pytest.mark.skipif(
    not any(map(shutil.which, toolchain._COMPILERS)), reason="no C++ compiler"
)


@pytest.fixture
def nothing(tmp_path, monkeypatch):
    """A machine without a program."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)


def test_without_a_compiler_it_alone_is_missing(nothing):
    """Nothing else can be tried."""
    (found,) = lacking(["openblas", "c++"])
    assert found.startswith("a C++ compiler (")
    assert "apt-get install g++" in found


def test_nothing_is_tried_where_nothing_is_needed(nothing):
    """Most environments compile nothing."""
    assert lacking([]) == []


@needs_compiler
@pytest.mark.parametrize("name", ["nonsense-compiler", sys.executable])
def test_a_compiler_that_is_named_and_is_none_is_missing(name, monkeypatch):
    """`CXX` is what the build would take, whatever else is here."""
    monkeypatch.setenv("CXX", name)
    assert lacking(["c++"])[0].startswith("a C++ compiler (")


@needs_compiler
def test_a_compiler_that_works_is_enough(monkeypatch):
    """The one named, with its own options, or the first that is found."""
    named = next(filter(shutil.which, toolchain._COMPILERS))
    for value in ("", f"{named} -O0"):
        monkeypatch.setenv("CXX", value)
        assert lacking(["c++"]) == []


@needs_compiler
@pytest.mark.parametrize("what", ["header", "library"])
def test_what_does_not_compile_or_link_is_missing(what, monkeypatch):
    """A header alone is not enough, nor a library alone."""
    includes = {"header": "#include <no_such_header.h>\n", "library": ""}[what]
    libraries = {"header": (), "library": ("-lno_such_library",)}[what]
    need = Need(
        what="X",
        how="apt-get install x",
        program=f"{includes}int main() {{ return 0; }}",
        libraries=libraries,
    )
    monkeypatch.setattr(toolchain, "NEEDS", {**NEEDS, "x": need})
    assert lacking(["c++", "x"]) == ["X (apt-get install x)"]


@needs_compiler
def test_a_folder_of_its_own_is_looked_in(tmp_path, monkeypatch):
    """Where the variable says that it lies."""
    need = Need(
        what="X",
        how="X_HOME",
        program="#include <only_there.h>\nint main() { return THERE; }",
        home="X_HOME",
    )
    monkeypatch.setattr(toolchain, "NEEDS", {**NEEDS, "x": need})
    monkeypatch.delenv("X_HOME", raising=False)
    assert lacking(["x"])
    (tmp_path / "include").mkdir()
    (tmp_path / "include" / "only_there.h").write_text("#define THERE 0\n")
    monkeypatch.setenv("X_HOME", str(tmp_path))
    assert lacking(["x"]) == []


@needs_compiler
def test_nothing_is_left_behind(tmp_path, monkeypatch):
    """What is tried is compiled in a folder that goes again."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(toolchain.tempfile, "tempdir", None)
    lacking(["c++"])
    assert list(tmp_path.iterdir()) == []
