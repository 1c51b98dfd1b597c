"""Conformance passes what is right and names what is wrong."""

from __future__ import annotations

import dataclasses
import importlib.util
from pathlib import Path

import numpy as np
import pytest

from harness.conformance import CHECKS, examine
from harness.schemes.catalogue import SCHEMES

FILE = Path(__file__).parent / "planted.py"
_spec = importlib.util.spec_from_file_location("planted", FILE)
planted = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(planted)


def failures(fault, scheme):
    """Names of the checks that a fault fails."""
    report = examine(planted.Planted(fault), SCHEMES[scheme])
    found = {check.name for check in report.checks if check.passed is False}
    assert (report.level == "deviates") == bool(found)
    return found


@pytest.mark.parametrize("scheme", SCHEMES)
def test_an_exact_backend_conforms(scheme):
    """Every check of every scheme passes, and each has been run."""
    report = examine(planted.Planted(), SCHEMES[scheme])

    assert list(CHECKS) == [check.name for check in report.checks]
    assert [] == [check for check in report.checks if check.passed is False]
    assert "emulated" == report.level


@pytest.mark.parametrize(
    ("fault", "scheme", "check"),
    [
        ("truncates", "fp8_e4m3", "cast"),
        ("truncates", "nvfp4", "cast"),
        ("truncates", "mxfp4", "operators"),
        ("wraps", "int8_static", "saturate"),
        ("wraps", "fp8_e4m3_static", "saturate"),
        ("per_tensor", "int8", "invariance"),
        ("per_tensor", "fp8_e4m3", "operators"),
        ("fp16_sums", "fp8_weight_only", "accumulation"),
        ("noisy", "int8_weight_only", "determinism"),
        ("view", "int8", "ownership"),
        ("silent", "int8", "errors"),
        ("lies", "int8_weight_only", "proof"),
        ("batch", "mxfp8", "invariance"),
        ("nan", "fp8_e4m3_static", "special"),
        ("drops_inner", "fp8_e4m3", "chain"),
        ("drops_inner", "int8_static", "chain"),
        ("drops_inner", "nvfp4", "chain"),
        ("drops_relu", "mxfp8", "chain"),
        ("drops_relu", "int4", "chain"),
        ("fp16_sums", "int8_weight_only", "chain"),
    ],
)
def test_a_planted_fault_is_found_by_its_check(fault, scheme, check):
    """Each check has a backend that fails it."""
    assert check in failures(fault, scheme)


def test_a_wrong_decoding_table_is_found_code_by_code():
    """One code of a format decoded to its neighbour is enough."""
    backend = planted.Planted()
    load = backend.load

    def wrong(model, scheme):
        session = load(model, scheme)
        for layer in session.layers.values():
            layer.weight = np.where(layer.weight == 0.75, 0.875, layer.weight)
        return session

    backend.load = wrong
    report = examine(backend, SCHEMES["mxfp8_weight_only"])

    failed = {check.name: check.detail for check in report.checks if not check.passed}
    assert "but should be 0.75" in failed["decode"]


def test_a_backend_that_is_not_here_is_unsupported():
    """Its reason is the level's, and nothing is run."""
    backend = planted.Planted()
    missing = dataclasses.replace(backend.probe(), available=False, reason="no driver")
    backend.probe = lambda: missing

    report = examine(backend, SCHEMES["int8"])

    assert ("unsupported", "no driver", ()) == (
        report.level,
        report.reason,
        report.checks,
    )
