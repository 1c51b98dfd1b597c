"""`quantharness conformance`: exit codes, a level a scheme, a crash that is a level."""

import json
from pathlib import Path

from harness.cli.main import main

ROOT = Path(__file__).parents[2]
PLANTED = str(ROOT / "tests" / "conformance" / "planted.py")
VENDOR = str(ROOT / "examples" / "vendor_backend" / "vendor_backend" / "__init__.py")


def conformance(backend, *more, plugin=PLANTED):
    """Run the command."""
    return main(["conformance", "--backend", backend, "--plugin", plugin, *more])


def test_a_right_plugin_passes(capsys):
    """Exit 0, and a line with the level of each scheme."""
    assert 0 == conformance("planted", "--scheme", "mxfp4", "--scheme", "int8")

    assert "mxfp4                emulated" in capsys.readouterr().out


def test_a_wrong_plugin_fails_and_says_where(capsys):
    """Exit 1: the check, what was found and what it should be."""
    assert 1 == conformance("planted-truncates", "--scheme", "fp8_e4m3")
    found = capsys.readouterr().out

    assert "fp8_e4m3             deviates" in found
    assert "cast: " in found
    assert "but should be" in found


def test_a_crash_is_a_level(capsys):
    """The process that aborts is one scheme's error; the next scheme gets another."""
    assert 1 == conformance("planted-crash", "--json", "--scheme", "int8")
    found = json.loads(capsys.readouterr().out)

    assert ("error", False) == (found["schemes"][0]["level"], found["conforms"])
    assert "SIGABRT" in found["schemes"][0]["reason"]


def test_nothing_supported_is_no_pass(capsys):
    """A backend that supports nothing of what was asked has proved nothing."""
    assert 1 == conformance("vendor", "--scheme", "int8", plugin=VENDOR)

    assert "unsupported  int8 is not FP8 by rows" in capsys.readouterr().out


def test_an_unknown_backend_is_exit_2(capsys):
    """Wrong usage, with what was meant."""
    assert 2 == conformance("plantde", "--scheme", "int8")

    assert "did you mean 'planted'" in capsys.readouterr().err


def test_the_vendors_template_passes(capsys):
    """examples/vendor_backend conforms in all that it says it supports."""
    schemes = ("--scheme", "fp8_e4m3", "--scheme", "fp8_weight_only")

    assert 0 == conformance("vendor", *schemes, plugin=VENDOR), capsys.readouterr().out
