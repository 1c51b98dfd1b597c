"""Subnormal numbers that count as zero are a defect of the operator."""

from __future__ import annotations

import dataclasses

import pytest

from harness.compare.operator_evidence import Flushed
from harness.judge import judge
from harness.judge.types import Verdict


def missing(share, what="weights", **more):
    """A share that is known to a hundredth, from fifty output vectors."""
    plain = {"error": 0.01, "vectors": 50.0, "prominence": 4.0, "accounted": 0.9}
    return Flushed(what=what, share=share, **(plain | more))


def judged(make, *parts):
    fine = make["operator"]("layer.0")
    flushing = dataclasses.replace(make["operator"]("layer.1"), flushed=parts)
    return judge(make["evidence"](operators=(fine, flushing)))


@pytest.mark.parametrize("what", ["weights", "inputs"])
def test_the_operator_that_flushes_is_named(make, what):
    """Though its energy is within the limit."""
    found = judged(make, missing(0.0, "inputs"), missing(0.99, what))

    assert found.verdict is Verdict.DEFECT
    assert f"operator layer.1: its {what} below" in found.reason
    assert [o.name for o in found.operators if o.guilty] == ["layer.1"]
    assert all(o.unexplained <= o.limit for o in found.operators)
    assert found.measurements["flushed"].value == 0.99


@pytest.mark.parametrize(
    "part",
    [
        missing(0.02),
        missing(0.49),
        # Wrong in another way.
        missing(4.1),
        missing(1.0, accounted=0.3),
        # Not known well enough.
        missing(1.0, error=0.2),
        missing(1.0, vectors=3.0),
        missing(1.0, error=0.0, vectors=3.0),
        # Sums lose so little by themselves.
        missing(1.0, prominence=0.9),
        missing(float("nan")),
    ],
)
def test_what_is_not_certain_is_no_defect(make, part):
    """A faithful backend never fails by chance or by its sums."""
    found = judged(make, part)

    assert found.verdict is Verdict.PASS
    assert not any(operator.guilty for operator in found.operators)


def test_an_exact_residual_is_certain(make):
    """Without any error there is nothing that chance could have done."""
    assert judged(make, missing(1.0, error=0.0)).verdict is Verdict.DEFECT
    assert judged(make, missing(0.0, error=0.0)).verdict is Verdict.PASS


def test_other_operators_are_named_too(make):
    """The one that misses most first."""
    operators = tuple(
        dataclasses.replace(make["operator"](f"layer.{i}"), flushed=(missing(share),))
        for i, share in enumerate((0.9, 0.0, 0.99))
    )
    found = judge(make["evidence"](operators=operators))

    assert "operator layer.2" in found.reason
    assert "also layer.0" in found.reason
    assert "layer.1" not in found.reason
