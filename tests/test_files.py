"""Files are written whole, into folders that can be written to."""

import subprocess
import sys

import pytest

from harness.errors import UsageError
from harness.files import alone_in, output_folder


def test_a_folder_is_made_before_the_work(tmp_path):
    """What can be made is made, what is there already is fine."""
    wanted = tmp_path / "a" / "b"

    assert wanted == output_folder(wanted)
    assert wanted == output_folder(wanted)
    assert [] == list(wanted.iterdir())


def test_a_file_is_no_folder(tmp_path):
    """A file in the way is named before anything runs."""
    (tmp_path / "x").write_text("")

    for wanted in (tmp_path / "x", tmp_path / "x" / "y"):
        with pytest.raises(UsageError, match="give another one"):
            output_folder(wanted)
    assert "" == (tmp_path / "x").read_text()


def test_a_folder_is_one_processs_at_a_time(tmp_path):
    """The second is refused at once, and let in when the first has ended."""
    code = (
        "import sys; from pathlib import Path; from harness.files import alone_in\n"
        "with alone_in(Path(sys.argv[1])): print('in'); sys.stdout.flush(); input()\n"
    )
    first = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert first.stdout.readline() == "in\n"

    other = "another process writes there"
    with pytest.raises(UsageError, match=other), alone_in(tmp_path):
        raise AssertionError
    first.communicate("\n", timeout=30)
    with alone_in(tmp_path):
        assert not list(tmp_path.iterdir())


def test_what_is_raised_inside_comes_out_and_the_folder_is_free(tmp_path):
    """Interruption included."""
    with pytest.raises(KeyboardInterrupt), alone_in(tmp_path):
        raise KeyboardInterrupt
    with alone_in(tmp_path):
        pass
