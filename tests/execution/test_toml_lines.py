"""Every key is found on its line."""

from pathlib import Path

import pytest

from harness.errors import ConfigError
from harness.execution.toml_lines import line_of, read_toml

TEXT = """\
[suite]
name = "a"
reference = { backend = "torch" }

[[target]]
backend = "torch"

[[target]]
backend = "onnxruntime"
scheme = "x"
[target.budget]
drift = 1

[budget]
"logits.kl" = 0.5
"""


@pytest.mark.parametrize(
    ("where", "line"),
    [
        (("suite",), 1),
        (("suite", "name"), 2),
        (("suite", "reference", "backend"), 3),
        (("target", 0, "backend"), 6),
        (("target", 1), 8),
        (("target", 1, "backend"), 9),
        (("target", 1, "budget", "drift"), 12),
        (("budget", "logits.kl"), 15),
    ],
)
def test_line_of_finds_the_key(where, line):
    """A key is found under its own table, also in the second of two entries."""
    assert line == line_of(TEXT, *where)


def test_line_of_an_absent_key_is_none():
    """What is not there has no line."""
    assert line_of(TEXT, "nothing") is None


def test_syntax_error_names_file_and_line(tmp_path: Path):
    """A file that is not TOML is an error that points at the line."""
    file = tmp_path / "suite.toml"
    file.write_text('[suite]\nname = "a\n')

    with pytest.raises(ConfigError, match=r"suite\.toml:2: not TOML") as caught:
        read_toml(file)

    assert 2 == caught.value.line


@pytest.mark.parametrize("content", [None, b"\xff\xfe\x00"])
def test_unreadable_file_is_a_configuration_error(tmp_path: Path, content):
    """A missing or binary file says so."""
    file = tmp_path / "suite.toml"
    if content is not None:
        file.write_bytes(content)

    with pytest.raises(ConfigError, match=r"does not exist|not UTF-8"):
        read_toml(file)
