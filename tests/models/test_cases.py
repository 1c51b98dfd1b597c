"""Cases are read and checked; each wrong one is named exactly."""

from __future__ import annotations

import json

import numpy as np
import pytest

from harness.errors import CasesError, UsageError
from harness.models.cases import load_cases
from harness.models.types import Case, TensorSpec


class Toy:
    """As much of a model as cases are checked against."""

    inputs = (
        TensorSpec("x", "float32", (None, 2)),
        TensorSpec("n", "uint8", (1,)),
    )
    step_inputs = ()

    def prepare(self, record, folder):  # noqa: ARG002
        if "text" not in record:
            raise CasesError("has no text")
        return {"x": np.ones((1, 2), np.float32), "n": np.array([1], np.uint8)}


GOOD = {"id": "a", "inputs": {"x": [[1, 2]], "n": [3]}}


def read(folder, *records, model=None):
    lines = [r if isinstance(r, str) else json.dumps(r) for r in records]
    (folder / "cases.jsonl").write_text("\n".join(lines), encoding="utf-8")
    return load_cases("cases.jsonl", folder, model or Toy())


def test_literal_inputs_take_the_models_dtypes(tmp_path):
    """Numbers become the arrays that the model takes, in its order of inputs."""
    (case,) = read(tmp_path, GOOD | {"tags": ["t"], "expected": {"label": 1}})

    assert list(case.inputs) == ["x", "n"]
    assert case.inputs["x"].dtype == np.float32
    assert case.inputs["n"].dtype == np.uint8
    assert (case.tags, case.expected) == (("t",), {"label": 1})


def test_other_records_are_the_models_to_read(tmp_path):
    """Id, tags and expectation are taken off first."""
    seen = []

    class Reader(Toy):
        def prepare(self, record, folder):
            seen.append((dict(record), folder))
            return super().prepare(record, folder)

    read(tmp_path, {"id": "a", "tags": [], "expected": {}, "text": "t"}, model=Reader())
    assert seen == [({"text": "t"}, str(tmp_path))]


def test_other_line_separators_belong_to_the_text(tmp_path):
    """A JSON string may hold U+2028; blank lines are skipped."""
    cases = read(tmp_path, '{"id": "a", "text": "one\u2028two"}', "", "  ")

    assert [case.id for case in cases] == ["a"]


def bad(**inputs):
    return {"id": "b", "inputs": GOOD["inputs"] | inputs}


@pytest.mark.parametrize(
    ("record", "words"),
    [
        ("{", "cases.jsonl:2: not JSON"),
        ("[]", 'cases.jsonl:2: should be an object with "id"'),
        ({"inputs": {}}, 'cases.jsonl:2: should be an object with "id"'),
        (GOOD, "cases.jsonl:2: the id 'a' stands twice"),
        ({"id": "b"}, "cases.jsonl:2: case 'b': has no text"),
        ({"id": "b", "inputs": [1]}, "case 'b': \"inputs\" should be an object"),
        ({"id": "b", "inputs": {"x": [[1, 2]]}}, r"missing \['n'\]"),
        (bad(z=[1]), r"unknown \['z'\]; the model has \['n', 'x'\]"),
        (bad(x=[[1, 2], [3]]), "'x' is not a regular array"),
        (bad(x=[["1", "2"]]), "'x' is not numbers"),
        (bad(x=[[1, 2, 3]]), r"x has shape \(1, 3\), but should have \('any', 2\)"),
        (bad(x=[1, 2]), r"x has shape \(2,\)"),
        (bad(x=[]), r"x has shape \(0,\)"),
        (bad(x=[[float("nan"), 2]]), "x has 1 NaN or Inf; a case must be finite"),
        (bad(x=[[float("inf"), 2]]), "x has 1 NaN or Inf"),
        (bad(x=[[1e39, 2]]), "x holds numbers beyond the range of float32"),
        (bad(n=[1.5]), "n holds numbers that are not uint8"),
        (bad(n=[300]), "n holds numbers that are not uint8"),
        (bad(n=[-1]), "n holds numbers that are not uint8"),
        (GOOD | {"id": "b", "tags": "t"}, "tags should be a list"),
        (GOOD | {"id": "b", "expected": 1}, "expected an object"),
    ],
    ids=str,
)
def test_a_wrong_record_is_named(tmp_path, record, words):
    """With file, line, case and what is wrong."""
    with pytest.raises(CasesError, match=words) as caught:
        read(tmp_path, GOOD, record)
    assert "cases.jsonl:2" in str(caught.value)


@pytest.mark.parametrize("lines", [(), ("", "  ")])
def test_no_cases_is_an_error(tmp_path, lines):
    """Nothing would be compared."""
    with pytest.raises(CasesError, match=r"cases\.jsonl: no cases"):
        read(tmp_path, *lines)


@pytest.mark.parametrize("spec", ["../cases.jsonl", "/etc/passwd", "../cases.npz"])
def test_no_path_leaves_the_folder(tmp_path, spec):
    """Whatever lies there."""
    (tmp_path / "cases.jsonl").write_text(json.dumps(GOOD))
    inner = tmp_path / "suite"
    inner.mkdir()

    with pytest.raises(CasesError, match="leaves the folder"):
        load_cases(spec, inner, Toy())


@pytest.mark.parametrize("spec", ["cases.jsonl", "cases.npz"])
def test_a_missing_file_is_named(tmp_path, spec):
    """With its whole path."""
    with pytest.raises(CasesError, match=f"{spec}: no such file"):
        load_cases(spec, tmp_path, Toy())


def test_an_archive_holds_cases(tmp_path):
    """Arrays called CASE/INPUT, in the order of the file."""
    arrays = {"x": np.ones((1, 2), np.float32), "n": np.array([1], np.uint8)}
    every = {f"{c}/{k}": v for c in ("b", "a") for k, v in arrays.items()}
    np.savez(tmp_path / "cases.npz", **every)

    cases = load_cases("cases.npz", tmp_path, Toy())
    assert [case.id for case in cases] == ["b", "a"]


def test_an_archive_of_another_dtype_is_refused(tmp_path):
    """Arrays are taken as they are, so float64 for float32 is an error."""
    arrays = {"a/x": np.ones((1, 2)), "a/n": np.array([1], np.uint8)}
    np.savez(tmp_path / "double.npz", **arrays)

    with pytest.raises(CasesError, match="x is float64, but should be float32"):
        load_cases("double.npz", tmp_path, Toy())


def test_an_archive_with_other_names_is_refused(tmp_path):
    """An array that belongs to no case is named."""
    np.savez(tmp_path / "flat.npz", x=np.ones((1, 2), np.float32))

    with pytest.raises(CasesError, match="array 'x', but should be called CASE/INPUT"):
        load_cases("flat.npz", tmp_path, Toy())


def test_a_damaged_archive_is_named(tmp_path):
    """And nothing is unpickled."""
    (tmp_path / "broken.npz").write_bytes(b"PK\x03\x04 not really")
    np.savez(tmp_path / "objects.npz", **{"a/x": np.array([{}], dtype=object)})

    for name in ("broken.npz", "objects.npz"):
        with pytest.raises(CasesError, match=f"{name}: not a readable .npz"):
            load_cases(name, tmp_path, Toy())


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("return []", "no cases"),
        ("return [1]", "gives int, not Case"),
        ("raise KeyError('k')", "failed: KeyError: 'k'"),
        ("return None", "failed: TypeError"),
    ],
)
def test_a_function_that_gives_no_cases_is_named(tmp_path, body, words):
    """With what it gave or how it failed."""
    name = f"cases_{abs(hash(body))}"
    (tmp_path / f"{name}.py").write_text(f"def make():\n    {body}\n")

    with pytest.raises(CasesError, match=words):
        load_cases(f"{name}:make", tmp_path, Toy())


def test_a_function_gives_cases(tmp_path):
    """Found beside the suite."""
    (tmp_path / "made_cases.py").write_text(
        "import numpy as np\n"
        "from harness.models import Case\n"
        "def make():\n"
        "    inputs = {'x': np.ones((1, 2), 'f'), 'n': np.ones(1, np.uint8)}\n"
        "    yield Case('a', inputs)\n"
    )

    (case,) = load_cases("made_cases:make", tmp_path, Toy())
    assert isinstance(case, Case)


def test_steps_have_an_axis_of_their_own(tmp_path):
    """Of a recurrent model's step inputs the first axis is the steps."""

    class Recurrent(Toy):
        step_inputs = ("x",)

    record = {"id": "a", "inputs": {"x": [[[1, 2]], [[3, 4]]], "n": [1]}}
    (case,) = read(tmp_path, record, model=Recurrent())
    assert case.inputs["x"].shape == (2, 1, 2)
    with pytest.raises(CasesError, match=r"should have \('any', 'any', 2\)"):
        read(tmp_path, GOOD, model=Recurrent())


def test_a_variant_names_its_original(tmp_path):
    """It is no part of the inputs; a chain of variants leads to a question."""
    cases = read(
        tmp_path,
        {"id": "b", "text": "what?", "variant_of": "a"},
        {"id": "a", "text": "What?"},
        {"id": "c", "text": "WHAT?", "variant_of": "b"},
    )

    assert [case.variant_of for case in cases] == ["a", "", "b"]


@pytest.mark.parametrize(
    ("originals", "line", "message"),
    [
        (("nobody", ""), 1, "case 'v0': variant_of='nobody', but there is no such"),
        (("v0", ""), 1, "case 'v0': variant_of='v0', but should be the id of another"),
        ((3, ""), 1, "case 'v0': variant_of=3, but should be the id of another"),
        (("v1", "v0"), 1, "is circular"),
        (("", "v2", "v1"), 2, "circular"),
        (("", "v_0"), 2, "no such case; did you mean 'v0'"),
    ],
)
def test_a_variant_of_none_or_of_itself_is_named(tmp_path, originals, line, message):
    """The file, the line, the id, and what is wrong with it."""
    records = [
        {"id": f"v{n}", "text": "?", "variant_of": of} for n, of in enumerate(originals)
    ]

    with pytest.raises(UsageError, match=message) as caught:
        read(tmp_path, *records)

    assert f"cases.jsonl:{line}: case 'v{line - 1}'" in str(caught.value)


def test_a_file_that_is_not_utf8_is_named(tmp_path):
    """Latin-1, or half a character at its end."""
    for data in (b'{"id": "a", "text": "caf\xe9"}', b'{"id": "a", "text": "\xf0\x9f"}'):
        (tmp_path / "cases.jsonl").write_bytes(data)

        with pytest.raises(CasesError, match=r"cases\.jsonl: not UTF-8"):
            load_cases("cases.jsonl", tmp_path, Toy())
