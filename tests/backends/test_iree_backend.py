"""IREE; what needs its environment runs where that was made."""

from __future__ import annotations

import json

import pytest

from harness.backends.iree_backend import IreeBackend
from harness.backends.registry import load_registry
from harness.cli.main import main
from harness.models.types import Operator
from harness.schemes.catalogue import SCHEMES, scheme_by_name

REASON = IreeBackend().probe().reason
needs_iree = pytest.mark.skipif(bool(REASON), reason=f"iree: {REASON}")


class Linear:
    """A model of one layer."""

    name = "one"

    def operators(self):
        import numpy as np

        weight = np.ones((4, 64), np.float32)
        return (Operator(name="fc", kind="linear", weight=weight),)


def test_without_its_environment_it_says_what_makes_one(tmp_path, monkeypatch):
    """One command."""
    monkeypatch.setenv("QUANTHARNESS_CACHE", str(tmp_path))

    found = IreeBackend().probe()

    assert not found.available
    assert "`quantharness setup iree`" in found.reason
    assert load_registry().environment("iree") == {}


@pytest.mark.parametrize("scheme", sorted(SCHEMES))
def test_what_holds_fp8_is_unsupported(scheme):
    """Elements or scales: its importer of ONNX has no such type."""
    found = IreeBackend().supports(Linear(), scheme_by_name(scheme))

    fp8 = "fp8" in scheme or "nvfp4" in scheme
    assert found.supported != fp8
    assert ("FP8" in found.reason) == fp8


def levels(capsys, *schemes):
    """Conformance levels, and what was found, in its own environment."""
    chosen = [f"--scheme={name}" for name in schemes]
    code = main(["conformance", "--backend", "iree", "--json", *chosen])
    found = json.loads(capsys.readouterr().out)["schemes"]
    return code, {entry["scheme"]: entry for entry in found}


@needs_iree
@pytest.mark.quant_slow
def test_it_conforms_where_no_nan_is_clipped(capsys):
    """Integers, and FP4 weights that are unpacked in the graph."""
    code, found = levels(capsys, "int8", "int4", "mxfp4_weight_only")

    assert code == 0
    assert {entry["level"] for entry in found.values()} == {"emulated"}


@needs_iree
@pytest.mark.quant_slow
@pytest.mark.xfail(strict=True, reason="IREE 3.13.0: Min of NaN and 6 is 6")
def test_nan_stays_nan(capsys):
    """An input of NaN gives NaN, whatever it is rounded to: docs/deviations.md."""
    assert levels(capsys, "mxfp4")[0] == 0
