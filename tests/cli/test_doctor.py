"""`quantharness doctor` says what is here, and where."""

from __future__ import annotations

import json

from harness import environments
from harness.cli.main import main

PLUGIN = """
from harness.backends.protocol import Availability, Support


class Apart:
    name = "apart"
    own_environment = "{environment}"

    def probe(self):
        return Availability(available=True, version="1", device="cpu")

    def supports(self, model, scheme):
        return Support(supported=False)

    def load(self, model, scheme):
        raise RuntimeError


def register(registry):
    registry.add_backend(Apart())
"""


def plugin(folder, environment):
    """A file with a backend that wants an environment of its own."""
    file = folder / "apart.py"
    file.write_text(PLUGIN.format(environment=environment))
    return ["--plugin", str(file)]


def test_an_environment_of_its_own_is_shown_with_its_folder(
    tmp_path, monkeypatch, capsys
):
    """Where it was made; elsewhere nothing."""
    monkeypatch.setenv("QUANTHARNESS_CACHE", str(tmp_path / "cache"))
    given = plugin(tmp_path, "quark")

    assert main(["doctor", *given]) == 0
    assert "in its own environment" not in capsys.readouterr().out

    folder = environments.folder_of(environments.read_lock("quark"))
    python = folder / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.touch()
    (folder / "ready.json").write_text("{}")

    assert main(["doctor", *given]) == 0
    lines = capsys.readouterr().out.splitlines()
    place = lines.index("apart          1 on cpu")
    assert lines[place + 1].split(": ") == [
        f"{'':14} in its own environment",
        str(folder),
    ]
    assert main(["doctor", *given, "--json"]) == 0
    found = {e["name"]: e for e in json.loads(capsys.readouterr().out)["backends"]}
    assert found["apart"]["environment"] == str(folder)
    assert found["analog"]["environment"] == ""


def test_an_environment_that_nobody_knows_is_refused(tmp_path, capsys):
    """By its name, with those that there are."""
    assert main(["doctor", *plugin(tmp_path, "quarks")]) != 0
    assert "own_environment='quarks', but should be one of" in capsys.readouterr().err
