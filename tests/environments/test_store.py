"""An environment is made once, whole or not at all; workers run in it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from harness import environments
from harness.cli.main import main
from harness.environments import lock as lock_module
from harness.environments import store
from harness.errors import BackendError, UsageError
from harness.execution.isolation import Worker


@pytest.fixture
def locked(tmp_path, monkeypatch):
    """A folder of locks instead of ours, and a cache folder of its own."""
    folder = tmp_path / "locks"
    folder.mkdir()
    monkeypatch.setenv("QUANTHARNESS_CACHE", str(tmp_path / "cache"))

    def read(name):
        return lock_module.read_lock(name, folder)

    monkeypatch.setattr(store, "read_lock", read)
    monkeypatch.setattr(environments, "read_lock", read)
    monkeypatch.setattr(environments, "locks", lambda: lock_module.locks(folder))

    def write(text, name="tiny"):
        (folder / f"{name}.txt").write_text(text)
        return read(name)

    return write


def test_what_ships_is_exact():
    """Every lock reads, says what it is for and proves itself."""
    assert environments.locks()
    for name in environments.locks():
        lock = environments.read_lock(name)
        assert lock.summary
        assert lock.size
        assert lock.check
        assert len({r.partition("==")[0] for r in lock.requirements}) == len(
            lock.requirements
        )


@pytest.mark.parametrize("line", ["numpy", "numpy>=2", "numpy == 2.0", "==2", "-r x"])
def test_a_version_that_is_not_exact_is_named(locked, line):
    """With its file and line."""
    with pytest.raises(UsageError, match=r"tiny\.txt:2: .* should be NAME==VERSION"):
        locked(f"# Tiny.\n{line}\n")


def test_what_is_compiled_is_exact_too(locked):
    """Below its heading, and it counts as a version of the lock."""
    lock = locked("# Tiny.\n# needs: c++, openblas\na==1\n\n[sources]\n# Why.\nb==2\n")
    assert lock.requirements == ("a==1",)
    assert lock.sources == ("b==2",)
    assert lock.needs == ("c++", "openblas")
    assert lock.version("b") == "2"
    with pytest.raises(UsageError, match=r"tiny\.txt:3: .* should be NAME==VERSION"):
        locked("# Tiny.\n[sources]\nb>=2\n")
    with pytest.raises(UsageError, match=r"needs \['fortran'\], but should be of"):
        locked("# Tiny.\n# needs: c++, fortran\n")


def test_a_compiled_package_is_another_environment(locked):
    """The same version as a wheel is another thing."""
    wheel = store.folder_of(locked("# Tiny.\na==1\n"))
    assert wheel != store.folder_of(locked("# Tiny.\n[sources]\na==1\n"))


def test_what_compiling_lacks_is_named_before_it_begins(
    locked, tmp_path, monkeypatch, capsys
):
    """Exit code 3, and nothing was made."""
    monkeypatch.setenv("CXX", "no-such-compiler")
    locked("# Tiny.\n# size: 1 MB\n# needs: c++\n[sources]\nb==2\n")

    assert main(["setup", "tiny"]) == 3

    found = capsys.readouterr().err
    assert "b==2 is compiled here, with a C++ compiler" in found
    assert "what that takes is missing:" in found
    assert "apt-get install g++" in found
    assert not (tmp_path / "cache").exists()


#: Builds a package by hand: says what it finds, and breaks if it is told to.
BUILDS = """
import os, sys, zipfile

def build_wheel(folder, *rest):
    print("[1/2] Building CXX object a.o")
    print("a.cpp:1:10: fatal error: cblas.h: No such file" if {broken} else "fine")
    for line in range(20):
        print("noise", line)
    first = os.environ["PATH"].split(os.pathsep)[0]
    print("tool:", first == os.path.dirname(sys.executable))
    print("jobs:", os.environ["CMAKE_BUILD_PARALLEL_LEVEL"])
    if {broken}:
        sys.exit(1)
    name = "tiny_source-2-py3-none-any.whl"
    info = "tiny_source-2.dist-info/"
    with zipfile.ZipFile(os.path.join(folder, name), "w") as wheel:
        head = "Metadata-Version: 2.1\\nName: tiny-source\\nVersion: 2\\n"
        wheel.writestr(info + "METADATA", head)
        tag = "Root-Is-Purelib: true\\nTag: py3-none-any\\n"
        wheel.writestr(info + "WHEEL", "Wheel-Version: 1.0\\n" + tag)
        wheel.writestr(info + "RECORD", "")
    return name
"""
PROJECT = """
[build-system]
requires = []
build-backend = "builds"
backend-path = ["."]
[project]
name = "tiny-source"
version = "2"
"""


@pytest.fixture
def source(tmp_path, monkeypatch):
    """Writes that package into the only index there is; needs no network."""
    index = tmp_path / "index"
    index.mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(index))
    monkeypatch.setenv("PIP_NO_CACHE_DIR", "1")

    def write(*, broken):
        folder = tmp_path / "tiny-source-2"
        folder.mkdir()
        (folder / "builds.py").write_text(BUILDS.format(broken=broken))
        (folder / "pyproject.toml").write_text(PROJECT)
        (folder / "PKG-INFO").write_text("Name: tiny-source\nVersion: 2\n")
        with tarfile.open(index / "tiny-source-2.tar.gz", "w:gz") as archive:
            archive.add(folder, "tiny-source-2")

    return write


@pytest.mark.quant_slow
def test_a_source_is_compiled_with_the_environments_own_tools(
    locked, source, monkeypatch, capsys
):
    """Its steps are shown as they come."""
    monkeypatch.delenv("CMAKE_BUILD_PARALLEL_LEVEL", raising=False)
    source(broken=False)
    locked("# Tiny.\n# size: 1 MB\n[sources]\ntiny-source==2\n")
    lines = []
    store.set_up("tiny", on_line=lines.append)

    assert "tool: True" in lines
    assert f"jobs: {os.cpu_count()}" in lines
    assert store.interpreter("tiny") is not None
    assert main(["setup", "tiny", "--force"]) == 0
    assert "tiny-source==2: compiling, step 1 of 2" in capsys.readouterr().err


@pytest.mark.quant_slow
def test_a_compiler_that_fails_shows_its_error(locked, source):
    """Not only the last lines, which say that pip has failed."""
    source(broken=True)
    locked("# Tiny.\n[sources]\ntiny-source==2\n")
    with pytest.raises(BackendError, match="compiling tiny-source==2") as failed:
        store.set_up("tiny", on_line=lambda _: None)
    assert "fatal error: cblas.h: No such file" in str(failed.value)
    assert store.interpreter("tiny") is None


def test_another_version_is_another_environment(locked):
    """Nothing is made over what another lock made."""
    first = store.folder_of(locked("# Tiny.\na==1\n"))
    assert first != store.folder_of(locked("# Tiny.\na==2\n"))
    assert first == store.folder_of(locked("# Other words.\na==1\n"))


@pytest.mark.quant_slow
def test_it_is_made_once_and_used_by_a_worker(locked, tmp_path, capsys):
    """A worker in it is another Python; what it lacks comes from ours."""
    locked("# Tiny.\n# size: 20 MB\n# check: import sys\n")
    assert store.interpreter("tiny") is None
    assert store.variables("tiny") == {}

    folder = store.set_up("tiny", on_line=lambda _: None)

    python = store.interpreter("tiny")
    assert python is not None
    assert python.is_relative_to(folder)
    made = (folder / "ready.json").stat().st_mtime_ns
    assert store.set_up("tiny", on_line=lambda _: None) == folder
    assert (folder / "ready.json").stat().st_mtime_ns == made

    (tmp_path / "asks.py").write_text(
        "import sys, numpy, harness\nprint(sys.prefix, numpy.__file__)\n"
    )
    environment = {**os.environ, **store.variables("tiny")}
    environment["PYTHONPATH"] += os.pathsep + str(tmp_path)
    command = store.launch("tiny", "asks")
    found = subprocess.run(
        command, env=environment, capture_output=True, text=True, check=True
    )
    prefix, numpy = found.stdout.split()
    assert Path(prefix) == folder
    assert not Path(numpy).is_relative_to(folder)

    assert main(["setup"]) == 0
    assert "tiny       ready" in capsys.readouterr().out
    assert main(["setup", "tiny", "--remove", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["removed"]
    assert not folder.exists()
    assert not store.remove("tiny")


@pytest.mark.quant_slow
def test_what_was_interrupted_is_not_taken_for_made(locked):
    """No marker, no environment; the next setup begins anew."""
    lock = locked("# Tiny.\n# check: raise SystemExit('no compiler here')\n")
    with pytest.raises(BackendError, match="no compiler here"):
        store.set_up("tiny", on_line=lambda _: None)
    assert store.folder_of(lock).exists()
    assert store.interpreter("tiny") is None
    with pytest.raises(BackendError, match="quantharness setup tiny"):
        store.launch("tiny", "asks")


@pytest.mark.quant_slow
def test_a_package_that_cannot_be_had_says_what_pip_said(locked, monkeypatch, capsys):
    """Exit code 3: infrastructure, not the suite's fault."""
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.delenv("PIP_FIND_LINKS", raising=False)
    locked("# Tiny.\n# size: 1 MB\nno-such-package-at-all==9.9\n")

    assert main(["setup", "tiny"]) == 3

    assert "no-such-package-at-all==9.9" in capsys.readouterr().err


@pytest.mark.quant_slow
def test_a_full_disk_is_called_one(locked, monkeypatch):
    """What makes the environment says only that ensurepip failed."""
    locked("# Tiny.\n# check: raise SystemExit(1)\n")
    usage = shutil.disk_usage("/")._replace(free=3 << 20)
    monkeypatch.setattr(store.shutil, "disk_usage", lambda _: usage)

    with pytest.raises(BackendError, match="has 3 MiB left: make room"):
        store.set_up("tiny", on_line=lambda _: None)


def test_a_cache_folder_that_cannot_be_written_to_is_named(
    locked, tmp_path, monkeypatch, capsys
):
    """One line and exit code 3, no traceback."""
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("QUANTHARNESS_CACHE", str(tmp_path / "file" / "cache"))
    locked("# Tiny.\n# size: 1 MB\n")

    assert main(["setup", "tiny"]) == 3

    found = capsys.readouterr().err
    assert f"{tmp_path / 'file'}" in found
    assert "$QUANTHARNESS_CACHE" in found


def test_a_marker_without_its_python_is_no_environment(locked):
    """Whatever became of the rest: the next setup begins anew."""
    folder = store.folder_of(locked("# Tiny.\n"))
    folder.mkdir(parents=True)
    (folder / "ready.json").write_text("{}")
    assert store.interpreter("tiny") is None

    store._python(folder).parent.mkdir()
    store._python(folder).symlink_to(folder / "gone")
    assert store.interpreter("tiny") is None

    store._python(folder).unlink()
    store._python(folder).touch()
    assert store.interpreter("tiny") == store._python(folder)


@pytest.mark.parametrize("name", environments.locks())
def test_a_worker_there_reads_what_is_pickled_here(name):
    """Arrays cross between versions of NumPy 2; NumPy 1 has other module names."""
    lock = environments.read_lock(name)

    assert lock.version("numpy").partition(".")[0] == "2"
    assert {"ml_dtypes", "safetensors", "scipy"} <= {
        line.partition("==")[0] for line in lock.requirements
    }


def test_two_at_once_do_not_mix(locked):
    """The second is told to wait."""
    lock = locked("# Tiny.\n")
    told = pytest.raises(UsageError, match="another process")
    with store._alone(store.folder_of(lock)), told:
        store.set_up("tiny", on_line=lambda _: None)


def test_an_unknown_name_is_corrected(capsys):
    """With the nearest that there is."""
    assert main(["setup", "quarks"]) == 2
    assert "did you mean 'quark'?" in capsys.readouterr().err
    assert main(["setup", "--remove"]) == 2


def test_a_worker_of_an_environment_that_is_gone_says_so(locked, tmp_path):
    """Removed while a run goes on."""
    locked("# Tiny.\n")
    environment = {store.VARIABLE: "tiny"}
    told = pytest.raises(BackendError, match="quantharness setup tiny")
    with Worker(log=tmp_path / "log", environment=environment) as worker, told:
        worker.run(None, timeout=10)


def test_ours_is_no_environment():
    """What runs these tests was not started by a worker."""
    assert not store.is_inside("quark")
    assert sys.prefix
