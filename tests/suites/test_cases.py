"""The case files of the shipped suites are well-formed."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

SUITES = Path(__file__).resolve().parents[2] / "suites"
#: Suite -> (the key that names its data, what its expectation is called and is).
SHAPES = {
    "minilm": ("text", "nearest", str),
    "ocr": ("image", "text", str),
    "vad": ("audio", "speech", bool),
}
FEWEST = {"minilm": 96, "ocr": 64, "vad": 64}
#: The largest part of a suite's cases that may be hard for FP32 itself.
HARD = {"minilm": 0.10, "ocr": 0.10, "vad": 0.05}
LARGEST = {"ocr": 1_500_000, "vad": 3_000_000}


def faults(name: str, folder: Path) -> list[str]:
    """Say what is wrong with the case files of one suite; nothing when all is well."""
    data_key, expected_key, kind = SHAPES[name]
    cases = [json.loads(s) for s in (folder / "cases.jsonl").read_text().splitlines()]
    ids = [case["id"] for case in cases]
    found = []
    if len(set(ids)) != len(ids):
        found.append("ids are not unique")
    if len(cases) < FEWEST[name]:
        found.append(f"{len(cases)} cases are too few")
    if sum("hard" in c["tags"] for c in cases) > HARD[name] * len(cases):
        found.append("too many hard cases")
    for case in cases:
        if set(case) != {"id", data_key, "tags", "expected"} or not case["tags"]:
            found.append(f"{case['id']}: keys")
        if type(case["expected"].get(expected_key)) is not kind:
            found.append(f"{case['id']}: expected")
    if name == "minilm":
        return found + neighbour_faults(cases)
    return found + archive_faults(name, folder, [case[data_key] for case in cases])


def neighbour_faults(cases: list[dict]) -> list[str]:
    """Expected neighbours exist, are another case, and share the group's name."""
    ids = {case["id"] for case in cases}
    found = []
    for case in cases:
        near = case["expected"].get("nearest", "")
        if near not in ids or near == case["id"] or near[:-2] != case["id"][:-2]:
            found.append(f"{case['id']}: neighbour {near}")
        if not case["text"].strip():
            found.append(f"{case['id']}: empty")
    texts = [case["text"] for case in cases]
    return found + (["texts repeat"] if len(set(texts)) != len(texts) else [])


def archive_faults(name: str, folder: Path, places: list[str]) -> list[str]:
    """Every `file#key` is an array of the right kind, and no array is left over."""
    found, used = [], set()
    files = {place.split("#")[0] for place in places}
    if files != {"lines.npz" if name == "ocr" else "clips.npz"}:
        return [f"archives {files}"]
    path = folder / files.pop()
    if path.stat().st_size >= LARGEST[name]:
        found.append(f"{path.name} is too large")
    with np.load(path, allow_pickle=False) as archive:
        for key in (place.split("#")[1] for place in places):
            used.add(key)
            if key not in archive.files:
                found.append(f"{key}: missing")
            elif not right_array(name, archive[key]):
                found.append(f"{key}: {archive[key].dtype} {archive[key].shape}")
        if set(archive.files) - used:
            found.append("arrays left over")
    return found


def right_array(name: str, array: np.ndarray) -> bool:
    """Pictures: uint8, 48 high, three widths, not blank. Clips: int16, 32 chunks."""
    if name == "ocr":
        fits = array.shape in {(48, 160), (48, 240), (48, 320)}
        return array.dtype == np.uint8 and fits and array.min() < array.max()
    return array.dtype == np.int16 and array.shape == (32 * 512,)


@pytest.fixture
def broken(tmp_path, request):
    """Copy a suite's case files to a place where they may be spoilt."""
    name = request.param
    for path in (SUITES / name).glob("*.[jn]*"):
        shutil.copy(path, tmp_path)
    return name, tmp_path


def rewrite(folder: Path, change) -> None:
    """Apply `change` to the list of cases of a folder."""
    path = folder / "cases.jsonl"
    cases = [json.loads(line) for line in path.read_text().splitlines()]
    path.write_text("\n".join(json.dumps(case) for case in change(cases)))


@pytest.mark.parametrize("name", SHAPES)
def test_the_shipped_cases_have_no_faults(name):
    """Each suite has enough cases, whole, unique, and with their data."""
    assert faults(name, SUITES / name) == []


@pytest.mark.parametrize("broken", SHAPES, indirect=True)
def test_repeated_few_and_hard_cases_are_found(broken):
    """A case given twice, a short file and a file of hard cases are faults."""
    name, folder = broken
    rewrite(folder, lambda cases: [{**c, "tags": ["hard"]} for c in cases[:3] * 2])
    found = faults(name, folder)
    few = "6 cases are too few"
    assert found[:3] == ["ids are not unique", few, "too many hard cases"]


@pytest.mark.parametrize("broken", SHAPES, indirect=True)
def test_a_missing_tag_and_a_wrong_expectation_are_found(broken):
    """A case without tags or with an expectation of another type is a fault."""
    name, folder = broken

    def spoil(cases):
        cases[1]["tags"] = []
        cases[2]["expected"] = {}
        return cases

    rewrite(folder, spoil)
    assert [fault.split(": ")[1] for fault in faults(name, folder)][:2] == [
        "keys",
        "expected",
    ]


@pytest.mark.parametrize("near", ["nobody-a", "hello-a", "thanks-a"])
@pytest.mark.parametrize("broken", ["minilm"], indirect=True)
def test_a_neighbour_that_cannot_be_is_found(broken, near):
    """A neighbour which is unknown, the case itself, or of another group is a fault."""
    name, folder = broken
    rewrite(folder, lambda c: [{**c[0], "expected": {"nearest": near}}, *c[1:]])
    assert faults(name, folder) == [f"hello-a: neighbour {near}"]


@pytest.mark.parametrize("broken", ["ocr", "vad"], indirect=True)
def test_a_wrong_missing_or_unused_array_is_found(broken):
    """Float data with NaN, a key that is not there and one too many are faults."""
    name, folder = broken
    path = next(folder.glob("*.npz"))
    with np.load(path, allow_pickle=False) as archive:
        arrays = {key: archive[key] for key in archive.files}
    first, second, *_ = arrays
    arrays["extra"] = arrays.pop(first)
    arrays[second] = np.full(arrays[second].shape, np.nan)
    np.savez_compressed(path, **arrays)
    wrong = f"{second}: float64 {arrays[second].shape}"
    assert faults(name, folder) == [f"{first}: missing", wrong, "arrays left over"]


def test_a_blank_picture_is_not_right():
    """A picture of one grey shows nothing to read."""
    assert not right_array("ocr", np.zeros((48, 160), np.uint8))


def test_the_cases_are_those_of_their_sources():
    """No case was added by hand after the maker ran, and none was lost."""
    read = {}
    for name, source in [("minilm", "groups"), ("ocr", "lines"), ("vad", "clips")]:
        for file in (source, "cases"):
            lines = (SUITES / name / f"{file}.jsonl").read_text("utf-8").splitlines()
            read[name, file] = [json.loads(line) for line in lines]
    texts = [text for group in read["minilm", "groups"] for text in group["texts"]]
    assert texts == [case["text"] for case in read["minilm", "cases"]]
    for name, source, key in [("ocr", "lines", "text"), ("vad", "clips", "speech")]:
        there = [line.get(key, "say" in line) for line in read[name, source]]
        assert there == [case["expected"][key] for case in read[name, "cases"]]
