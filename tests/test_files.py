"""Files are written whole, into folders that can be written to."""

import pytest

from harness.errors import UsageError
from harness.files import output_folder


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
