"""From a worker's run to the judge's evidence."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest

from harness.backends.protocol import Arithmetic, Availability
from harness.behaviours.types import Answer, Behaviour, Reply
from harness.execution.assemble import assemble
from harness.execution.context import Context, tags_of
from harness.execution.errors_by_case import paired
from harness.execution.jobs import (
    REWRITTEN,
    CaseInfo,
    Description,
    OracleRun,
    Repeat,
    TargetRun,
)
from harness.golden.store import Golden, compact
from harness.judge.evidence import LatencyEvidence
from harness.judge.slices import clusters_of
from harness.models.types import TensorSpec

CASES = ("a", "b", "c")
REFERENCE = {case: {"y": np.arange(1.0, 4.0)} for case in CASES}


class Kind:
    """Every answer is right."""

    name = "fine"
    reads = "outputs"

    def evaluate(self, cases, _outputs, _options, _metadata):
        """One answer a case."""
        return {case.id: Answer("yes", right=True) for case in cases}


def context(tags):
    """A suite of three cases with these tags."""
    behaviour = Behaviour(kind="fine", name="fine")
    golden = Golden(
        suite="s",
        model_fingerprint="",
        cases_fingerprint="",
        outputs={c: {"y": compact(a["y"])} for c, a in REFERENCE.items()},
        behaviours={"fine": {c: {"answer": "yes", "right": True} for c in CASES}},
    )
    return Context(
        suite=SimpleNamespace(name="s", seed=1, behaviours=(behaviour,)),
        description=Description(
            model_fingerprint="",
            cases_fingerprint="",
            cases=tuple(
                CaseInfo(id=c, expected={}, tags=tags.get(c, ())) for c in CASES
            ),
            outputs=(TensorSpec("y", "float64", (3,)),),
            metadata={},
        ),
        golden=golden,
        reference=REFERENCE,
        behaviours={"fine": Kind()},
        metrics={},
        every=frozenset(CASES),
    )


def assembled(tags, **run):
    """Evidence of a target that is a tenth off."""
    outputs = {c: {"y": 1.1 * a["y"]} for c, a in REFERENCE.items()}
    scheme = SimpleNamespace(name="fp8", weight_only=True)
    return assemble(
        context(tags),
        SimpleNamespace(backend="b", scheme=scheme, required=False),
        TargetRun(availability=Availability(available=True), outputs=outputs, **run),
        oracle=OracleRun(outputs=outputs, backend="b"),
        baseline=None,
        budgets={},
    )


def with_variants(whole, variants):
    """The context with some cases being variants: id -> original."""
    cases = tuple(
        dataclasses.replace(case, variant_of=variants.get(case.id, ""))
        for case in whole.description.cases
    )
    described = dataclasses.replace(whole.description, cases=cases)
    return dataclasses.replace(whole, description=described)


def test_documents_and_prompts_reach_every_paired_measurement():
    """Drift, oracle, target against oracle, and the answers."""
    found = assembled({"a": ("prompt:1",), "b": ("prompt:1",)})
    wanted = ("prompt:1", "prompt:1", "case:c")

    assert wanted == found.drift.clusters
    assert wanted == found.oracle_drift.clusters == found.end_to_end.clusters
    assert wanted == found.behaviours[0].clusters


def test_cases_without_a_source_stand_alone():
    """No clusters at all: every case its own."""
    assert assembled({"a": ("long",)}).drift.clusters is None


def test_metrics_and_times_are_filled():
    """What the catalogue measures, and what the worker timed."""
    times = LatencyEvidence(phase="run", reference=np.ones(3), target=np.ones(3))
    found = assembled({}, latency=(times,))
    values = {entry.name: entry.values for entry in found.metrics}

    assert (times,) == found.latency
    assert pytest.approx(0.1) == values["y.relative_l2"][0]
    assert "dB" in {entry.unit for entry in found.metrics}


def repeated(error, *, drawable, scale=1.0, name="repeat", weight_only=False):
    """Stability of a target off by 0.01; case `a` again, off by `error` from that."""
    outputs = {c: {"y": REFERENCE[c]["y"] * 1.01} for c in CASES}
    outputs["a"] = {"y": REFERENCE["a"]["y"] * (1 + scale)}
    again = {"a": {"y": outputs["a"]["y"] + error}}
    first = {"a": outputs["a"]}
    repeat = Repeat(name=name, difference=paired(first, again), outputs=again)
    run = TargetRun(
        availability=Availability(available=True),
        outputs=outputs,
        arithmetic=Arithmetic(determinism="drifts"),
        drawable=drawable,
        repeats=(repeat,),
    )
    scheme = SimpleNamespace(name="int8", weight_only=weight_only)
    return assemble(
        context({}),
        SimpleNamespace(backend="b", scheme=scheme, required=False),
        run,
        oracle=None,
        baseline=None,
        budgets={},
    ).stability[0]


def test_two_runs_of_a_device_differ_as_it_differs_from_the_reference():
    """On the cases that both ran, whatever the others did; beyond is too much."""
    noisy = repeated(0.5, drawable=True, scale=0.5)

    assert noisy.limit_source == "two draws of the device's noise"
    assert noisy.differences[0] < noisy.limit
    exact = repeated(0.5, drawable=True, scale=0.0)
    assert exact.differences[0] > exact.limit


def test_a_target_that_is_not_exact_may_differ_as_another_batch_does():
    """A last bit flips roundings of its inputs; weights alone move as the reference."""
    both = repeated(1e-4, drawable=False)
    weights = repeated(1e-4, drawable=False, weight_only=True)

    assert both.limit_source == "two draws of the quantization noise"
    assert both.differences[0] < both.limit
    assert weights.limit_source == "sqrt(2) x recorded noise floor"
    wrong = repeated(5.0, drawable=False, scale=0.01)
    assert wrong.differences[0] > wrong.limit


@pytest.mark.parametrize("drawable", [True, False])
def test_what_a_call_returned_may_not_change_at_all(drawable):
    """Noise is no reason: nothing was computed again."""
    found = repeated(1e-6, drawable=drawable, name=REWRITTEN)

    assert 0.0 == found.limit
    assert found.differences[0] > 0


def judged(
    outputs,
    behaviour,
    *,
    golden=None,
    kind=None,
    replies=None,
    reference=REFERENCE,
    variants=None,
):
    """Behaviours of a target that gave these outputs, and was asked for no more."""
    whole = with_variants(context({}), variants or {})
    suite = SimpleNamespace(**{**vars(whole.suite), "behaviours": (behaviour,)})
    golden = golden or whole.golden
    run = {case: entry for case, entry in golden.outputs.items() if case in outputs}
    asked = tuple(case for case in whole.description.cases if case.id in outputs)
    scheme = SimpleNamespace(name="fp8", weight_only=True)
    return assemble(
        dataclasses.replace(
            whole,
            suite=suite,
            description=dataclasses.replace(whole.description, cases=asked),
            golden=dataclasses.replace(golden, outputs=run),
            reference={case: reference[case] for case in outputs},
            behaviours={"fine": kind or Kind()},
        ),
        SimpleNamespace(backend="b", scheme=scheme, required=False),
        TargetRun(
            availability=Availability(available=True),
            outputs=outputs,
            replies=replies or {},
        ),
        oracle=None,
        baseline=None,
        budgets={},
    ).behaviours


def test_a_behaviour_of_all_cases_is_not_judged_on_a_selection():
    """A selection may have looked at the answers; every case cannot."""
    some = {"a": REFERENCE["a"]}
    whole = Behaviour(kind="fine", name="fine", all_cases=True)

    assert judged(REFERENCE, whole)[0].cases == CASES
    assert judged(some, whole) == ()
    assert judged(some, Behaviour(kind="fine", name="fine"))[0].cases == ("a",)


def test_what_the_reference_wrote_answers_a_behaviour_that_is_newer():
    """Read from the golden's replies, by the same judge as the target's."""

    class Long(Kind):
        """Right when it is a long reply."""

        reads = "replies"

        def evaluate(self, cases, replies, _options, _metadata):
            return {c.id: Answer("", len(replies[c.id].text) > 2) for c in cases}

    wrote = {
        case: {
            "answer": text,
            "right": True,
            "tokens": [1],
            "probabilities": [1.0],
            "ended": True,
        }
        for case, text in zip(CASES, ("long", "long", "s"), strict=True)
    }
    golden = dataclasses.replace(context({}).golden, behaviours={"replies": wrote})
    one = np.ones(1)
    replies = {
        case: Reply(text=text, tokens=one, probabilities=one, ended=True)
        for case, text in zip(CASES, ("long", "s", "s"), strict=True)
    }
    found = judged(
        REFERENCE,
        Behaviour(kind="fine", name="fine"),
        golden=golden,
        kind=Long(),
        replies=replies,
    )[0]

    assert found.reference_right.tolist() == [True, True, False]
    assert found.target_right.tolist() == [True, False, False]


class Largest(Kind):
    """Right for the case whose output is larger than every other's."""

    among_cases = True

    def evaluate(self, cases, outputs, _options, _metadata):
        sizes = {case.id: float(outputs[case.id]["y"].sum()) for case in cases}
        return {c: Answer(c, s == max(sizes.values())) for c, s in sizes.items()}


def test_answers_among_some_cases_are_compared_among_the_same():
    """What the reference answered among all of them is another question."""
    sizes = dict(zip(CASES, (1.0, 2.0, 3.0), strict=True))
    reference = {case: {"y": np.full(3, size)} for case, size in sizes.items()}
    recorded = {c: {"answer": c, "right": c == "c"} for c in CASES}
    golden = dataclasses.replace(
        context({}).golden,
        outputs={c: {"y": compact(a["y"])} for c, a in reference.items()},
        behaviours={"fine": recorded},
    )
    some = {case: reference[case] for case in ("a", "b")}
    asked = {"golden": golden, "kind": Largest(), "reference": reference}

    found = judged(some, Behaviour(kind="fine", name="fine"), **asked)[0]

    assert found.reference_right.tolist() == found.target_right.tolist()
    assert found.target_right.tolist() == [False, True]


class Pairs(Kind):
    """Variants are answered as told, and so are their originals; else all right."""

    variants = True

    def __init__(self, own=True, original=True):
        self.own = own
        self.original = original

    def evaluate(self, cases, _outputs, _options, _metadata):
        found = Answer("yes", self.own, original=self.original)
        return {c.id: found for c in cases if c.variant_of}


def test_a_question_and_its_variants_are_one_prompt():
    """Resampled together, also a variant of a variant; the others stand alone."""
    whole = with_variants(context({}), {"b": "a", "c": "b"})
    assert set(clusters_of(tags_of(whole), CASES)) == {"prompt:a"}

    part = with_variants(context({}), {"b": "a"})
    assert clusters_of(tags_of(part), CASES) == ("prompt:a", "prompt:a", "case:c")
    document = with_variants(context({"a": ("document:d",)}), {"b": "a"})
    assert clusters_of(tags_of(document), CASES)[:2] == ("document:d", "document:d")


def test_only_kinds_of_variants_see_variants():
    """Every other behaviour asks a question once."""
    fine = Behaviour(kind="fine", name="fine")
    variants = {"b": "a"}

    assert judged(REFERENCE, fine, variants=variants)[0].cases == ("a", "c")
    found = judged(REFERENCE, fine, variants=variants, kind=Pairs())[0]
    assert (found.cases, found.unjudged) == (("b",), "")


def test_a_selection_without_variants_says_that_it_cannot_judge():
    """All cases without one are a mistake of the suite, and not excused."""
    fine = Behaviour(kind="fine", name="fine")
    some = {"a": REFERENCE["a"], "c": REFERENCE["c"]}

    found = judged(some, fine, variants={"b": "a"}, kind=Pairs())[0]
    assert found.unjudged == "no variant is among the 2 cases that were run"
    assert judged(REFERENCE, fine, kind=Pairs())[0].unjudged == ""


PAIRED = {"fine": {c: {"answer": "yes", "right": c == "b"} for c in CASES}}


@pytest.mark.parametrize("original", [True, False])
def test_a_variant_is_held_against_its_original_in_the_target(original):
    """Of pairs that the reference has right; a lost original excuses its variant."""
    golden = dataclasses.replace(context({}).golden, behaviours=PAIRED)
    fine = Behaviour(kind="fine", name="fine")
    kind = Pairs(own=False, original=original)

    (found,) = judged(
        REFERENCE, fine, variants={"b": "a", "c": "a"}, kind=kind, golden=golden
    )

    assert (found.cases, found.variants) == (("b",), True)
    assert found.reference_right.tolist() == [original]
    assert found.target_right.tolist() == [False]
    told = "" if original else "the target has none of 1 originals right"
    assert found.unjudged == told


def test_pairs_of_which_the_reference_has_none_right_carry_nothing():
    """They stay, so that the judge finds nothing that could be lost."""
    wrong = {c: {"answer": "yes", "right": False} for c in CASES}
    golden = dataclasses.replace(context({}).golden, behaviours={"fine": wrong})
    fine = Behaviour(kind="fine", name="fine")

    (found,) = judged(REFERENCE, fine, variants={"b": "a"}, kind=Pairs(), golden=golden)

    assert (found.cases, found.unjudged) == (("b",), "")
    assert found.reference_right.tolist() == [False]
