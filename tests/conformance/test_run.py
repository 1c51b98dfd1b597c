"""Conformance passes what is right and names what is wrong."""

from __future__ import annotations

import dataclasses
import importlib.util
from pathlib import Path

import numpy as np
import pytest

from harness.backends.registry import load_registry
from harness.conformance import CHECKS, examine
from harness.schemes.catalogue import SCHEMES, scheme_from_table

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
        ("halves_second_reading", "int8_static", "chain"),
        ("halves_second_reading", "mxfp4_weight_only", "chain"),
        ("fp16_sums", "int8_weight_only", "chain"),
    ],
)
def test_a_planted_fault_is_found_by_its_check(fault, scheme, check):
    """Each check has a backend that fails it."""
    assert check in failures(fault, scheme)


def rounded(base, fmt):
    """A scheme with results rounded too."""
    return scheme_from_table(
        f"{base}_{fmt}", {"base": base, "outputs": {"format": fmt}}
    )


@pytest.mark.parametrize("fmt", ["int8", "int16"])
@pytest.mark.parametrize("base", ["int8_static", "fp8_e4m3", "int8_weight_only"])
def test_an_exact_backend_conforms_with_rounded_results(base, fmt):
    """Every check passes; two operators in a row are judged."""
    report = examine(planted.Planted(), rounded(base, fmt))

    assert [] == [check for check in report.checks if check.passed is False]
    assert next(check for check in report.checks if check.name == "chain").cases


@pytest.mark.parametrize(
    ("fault", "fmt", "check"),
    [
        ("drops_result", "int8", "operators"),
        ("drops_result", "int16", "operators"),
        ("drops_result", "int8", "chain"),
        ("drops_inner_result", "int8", "chain"),
        ("truncates_result", "int8", "operators"),
        ("truncates_result", "int16", "operators"),
        ("truncates_result", "int16", "cast"),
        ("fp16_sums", "int16", "accumulation"),
    ],
)
def test_a_wrong_rounding_of_results_is_found(fault, fmt, check):
    """Dropped everywhere or inside alone, and towards zero."""
    report = examine(planted.Planted(fault), rounded("int8_static", fmt))

    assert check in {c.name for c in report.checks if c.passed is False}


@pytest.mark.parametrize("fmt", ["int8", "int16"])
@pytest.mark.parametrize(
    ("name", "known"),
    [
        ("onnxruntime@unoptimized", set()),
        # torch._int_mm with K = 1, see docs/deviations.md.
        ("torch", {"operators"}),
        # It saturates 1e30 wrongly, see docs/deviations.md.
        ("onnx-reference", {"saturate"}),
    ],
)
def test_engines_round_results(name, known, fmt):
    """Nothing but what is known deviates, and results inside are rounded."""
    report = examine(load_registry(()).backend(name), rounded("int8_static", fmt))

    assert {c.name for c in report.checks if c.passed is False} <= known
    assert next(check for check in report.checks if check.name == "chain").passed


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
