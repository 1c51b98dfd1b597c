"""Cases by tag."""

from __future__ import annotations

from harness.judge.slices import clusters_of, slices

CASES = [f"case-{i}" for i in range(30)]


def test_a_slice_is_some_but_not_all_cases():
    """A tag that every case has is the whole suite."""
    tags = {
        case: ("all", "half") if i < 15 else ("all",) for i, case in enumerate(CASES)
    }

    assert slices(tags, CASES) == {"half": list(range(15))}


def test_slices_that_could_never_fail_are_not_asked():
    """With one tag seven cases are enough to be heard, with forty they are not."""
    seven = dict.fromkeys(CASES[:7], ("few",))
    crowd = {case: (f"tag-{i}",) for i, case in enumerate(CASES[7:])}

    assert list(slices(seven, CASES)) == ["few"]
    assert slices(seven | crowd, CASES) == {}
    assert list(slices(dict.fromkeys(CASES[:6], ("few",)), CASES)) == []


def test_a_slice_with_a_budget_of_its_own_may_be_small():
    """Whoever states a budget for it wants it asked."""
    assert slices({"case-3": ("one",)}, CASES, least=1) == {"one": [3]}
    assert slices({}, CASES) == {}


def test_documents_and_prompts_are_clusters_and_no_slices():
    """Cases taken from one text stand together; others alone."""
    tags = {case: (f"prompt:{i // 10}", "long") for i, case in enumerate(CASES[:20])}

    found = clusters_of(tags, CASES)

    assert found[:20] == ("prompt:0",) * 10 + ("prompt:1",) * 10
    assert len(set(found[20:])) == 10
    assert list(slices(tags, CASES)) == ["long"]
    assert clusters_of({"case-1": ("long",)}, CASES) is None
