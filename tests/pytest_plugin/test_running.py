"""pytest runs a suite: verdicts, options, fixtures, JUnit, xdist. On a real model."""

import json
import xml.etree.ElementTree as ET

import pytest

pytestmark = pytest.mark.quant_slow
OK, FAILED = pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED
INT8 = ("--quant-scheme", "int8")


def test_a_clean_suite_passes_and_prints_the_matrix(suite, quant):
    """Every check that applies passes; the summary has a line a target."""
    result = quant(suite)

    assert OK == result.ret
    result.stdout.fnmatch_lines(
        [
            "*= quantharness =*",
            "tiny/torch/fp8_weight_only*pass",
            "tiny/torch/int8*pass",
        ]
    )


def test_a_defect_fails_the_check_that_found_it(suite, planted, quant, monkeypatch):
    """`unexplained` fails with the operators' names; drift, within budget, does not.

    What differs from where the golden was recorded stands beside it.
    """
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":8")
    result = quant("--quant-plugin", planted, *INT8, suite)

    assert FAILED == result.ret
    text = result.stdout.str()
    assert "FAILED" in text
    assert "tiny/planted/int8/unexplained" in text
    assert "operator 0: unexplained=" in text
    assert "quantharness explain" in text
    (since,) = (line for line in text.splitlines() if "its golden was recorded" in line)
    assert "variable.CUBLAS_WORKSPACE_CONFIG - -> :8" in since
    assert "Traceback" not in text
    failed = [line for line in result.outlines if line.startswith("FAILED")]
    assert not any("int8/drift" in line for line in failed)


def test_a_missing_golden_fails_and_says_what_to_type(unrecorded, quant):
    """Without a golden every check is `stale`, not skipped."""
    result = quant(*INT8, unrecorded)

    assert FAILED == result.ret
    assert "quantharness record" in result.stdout.str()


def test_record_records_what_is_missing_and_only_that(unrecorded, quant):
    """`--quant-record` makes the first run pass, and later leaves the golden alone."""
    first = quant("--quant-record", *INT8, unrecorded)
    files = {p.name: p.read_bytes() for p in (unrecorded / "golden").iterdir()}
    second = quant("--quant-record", *INT8, unrecorded)

    assert OK == first.ret == second.ret
    assert files == {p.name: p.read_bytes() for p in (unrecorded / "golden").iterdir()}


def test_renew_replaces_a_golden_of_another_model(suite, quant):
    """A changed model is stale; `--quant-renew` records it anew."""
    module = suite / "tiny_module.py"
    module.write_text(module.read_text().replace("manual_seed(20)", "manual_seed(21)"))

    assert FAILED == quant(*INT8, suite).ret
    assert FAILED == quant("--quant-record", *INT8, suite).ret
    assert OK == quant("--quant-renew", *INT8, suite).ret


def test_report_and_baseline(suite, quant, pytester):
    """`--quant-report` writes a run that `--quant-baseline` compares with."""
    first = quant("--quant-report", "first", *INT8, suite)
    run = json.loads((pytester.path / "first/tiny/run.json").read_text())
    second = quant("--quant-baseline", "first/tiny", *INT8, "-v", suite)

    assert OK == first.ret == second.ret
    assert "int8" == run["targets"][0]["scheme"]
    second.stdout.fnmatch_lines(["*int8/regression*PASSED*"])
    assert quant("--quant-baseline", "nowhere", *INT8, suite).ret != OK


def test_junit_carries_the_measurements(suite, quant, pytester):
    """Properties with numbers, an entry a check."""
    quant("--junitxml", "junit.xml", *INT8, suite)
    root = ET.parse(pytester.path / "junit.xml").getroot()
    case = next(c for c in root.iter("testcase") if c.get("name").endswith("/drift"))
    found = {p.get("name"): p.get("value") for p in case.iter("property")}

    assert 0 < float(found["drift"]) < 0.5
    assert "tiny/torch/int8/drift" == case.get("name")


def test_xdist_runs_a_suite_on_one_worker(suite, quant):
    """`-n 2` alone keeps a suite's items together: its model is loaded once."""
    result = quant("-n", "2", "-v", suite)
    workers = {
        line.split("]")[0]
        for line in result.outlines
        if line.startswith("[gw") and "PASSED" in line
    }

    assert OK == result.ret
    assert 1 == len(workers)


TESTS = """\
import numpy as np
import pytest

def test_golden(golden):
    assert golden.suite == "tiny"

def test_quantized(quantized):
    judgement = quantized("torch", "int8")
    assert str(judgement.verdict) == "pass"

def test_drift(check_drift):
    x = np.linspace(1, 2, 64)
    assert check_drift(x, x * 1.01, budget=0.02).relative_l2 > 0.009

@pytest.mark.parametrize("factor", [1.1, np.nan])
def test_too_much_drift(check_drift, factor):
    x = np.linspace(1, 2, 64)
    check_drift(x, x * factor, budget=0.02)

@pytest.mark.quant_backend("elsewhere")
def test_elsewhere():
    assert False

@pytest.mark.quant_gpu
def test_gpu():
    assert False
"""


ELSEWHERE = """\
from harness.backends.protocol import Availability

class Elsewhere:
    name = "elsewhere"
    def probe(self):
        return Availability(available=False, reason="pip install elsewhere")
    def supports(self, model, scheme): ...
    def load(self, model, scheme): ...

def register(registry):
    registry.add_backend(Elsewhere())
"""


def test_fixtures_serve_hand_written_tests(suite, quant, monkeypatch):
    """`golden`, `quantized` and `check_drift`; the two bad ones fail, NaN too."""
    (suite / "test_mine.py").write_text(TESTS)
    (suite / "elsewhere.py").write_text(ELSEWHERE)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    result = quant(
        "-rs", "--quant-plugin", suite / "elsewhere.py", suite / "test_mine.py"
    )

    result.assert_outcomes(passed=3, failed=2, skipped=2)
    assert "pip install elsewhere" in result.stdout.str()
    assert "relative_l2=0.1, but should be at most 0.02" in result.stdout.str()


def test_all_skipped_is_not_green(suite, quant):
    """Deselecting down to a check that does not apply compares nothing."""
    result = quant(*INT8, "-k", "regression", suite)

    assert FAILED == result.ret
    assert "nothing was compared" in result.stdout.str()
