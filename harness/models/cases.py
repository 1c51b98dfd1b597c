"""A model's cases, read and checked one by one."""

from __future__ import annotations

import dataclasses
import difflib
import importlib
import json
import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from harness.errors import CasesError, HarnessError
from harness.models.npz import inside, read_npz
from harness.models.types import Case, Model, TensorSpec

Array = np.ndarray[Any, np.dtype[Any]]


def load_cases(spec: str, folder: Path, model: Model) -> tuple[Case, ...]:
    """Read `cases.jsonl`, `cases.npz` or `package.module:function`.

    Raises:
        CasesError: no cases, or one that is malformed, repeated, not finite, a variant
            of none or of itself, or does not fit the model's inputs; names the file,
            the line and the case.
    """
    if re.fullmatch(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*", spec):
        read = _from_function(spec, folder)
    elif spec.endswith(".npz"):
        read = _from_npz(inside(folder, spec))
    else:
        read = _from_lines(inside(folder, spec), folder, model)
    cases: dict[str, Case] = {}
    places: dict[str, str] = {}
    for place, case in read:
        if case.id in cases:
            raise CasesError(f"{place}: the id {case.id!r} stands twice")
        try:
            inputs = _fit(case.inputs, model)
        except CasesError as error:
            raise CasesError(f"{place}: case {case.id!r}: {error}") from None
        cases[case.id] = dataclasses.replace(case, inputs=inputs)
        places[case.id] = place
    if not cases:
        raise CasesError(f"{folder / spec}: no cases; nothing would be compared")
    check_variants(cases, places)
    return tuple(cases.values())


def check_variants(cases: Mapping[str, Case], places: Mapping[str, str]) -> None:
    """Whether every variant leads to a case that is none.

    Args:
        cases: by id.
        places: where each was read, for messages.

    Raises:
        CasesError: `variant_of` names no case, or leads back to the case itself.
    """
    for name in cases:
        chain = [name]
        while original := cases[chain[-1]].variant_of:
            where = f"{places[name]}: case {name!r}: variant_of={original!r}"
            if original in chain:
                ring = " -> ".join([*chain, original])
                raise CasesError(
                    f"{where} is circular ({ring}); name a case that is no variant"
                )
            if original not in cases:
                close = difflib.get_close_matches(original, cases, n=1)
                hint = f"; did you mean {close[0]!r}?" if close else ""
                raise CasesError(f"{where}, but there is no such case{hint}")
            chain.append(original)


def _from_lines(file: Path, folder: Path, model: Model) -> Iterator[tuple[str, Case]]:
    try:
        # Not splitlines(): a JSON string may hold other line separators as they are.
        lines = file.read_text(encoding="utf-8").split("\n")
    except FileNotFoundError:
        raise CasesError(f"{file}: no such file") from None
    except UnicodeDecodeError as error:
        raise CasesError(f"{file}: not UTF-8 ({error})") from None
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        place = f"{file}:{number}"
        try:
            record = json.loads(line)
        except json.JSONDecodeError as error:
            raise CasesError(f"{place}: not JSON ({error})") from None
        if not isinstance(record, dict) or not isinstance(record.get("id"), str):
            raise CasesError(f'{place}: should be an object with "id": "..."')
        name = record.pop("id")
        tags = record.pop("tags", [])
        expected = record.pop("expected", {})
        original = record.pop("variant_of", "")
        if not isinstance(tags, list) or not isinstance(expected, dict):
            raise CasesError(f"{place}: tags should be a list, expected an object")
        if not isinstance(original, str) or original == name:
            raise CasesError(
                f"{place}: case {name!r}: variant_of={original!r}, but should be the "
                "id of another case"
            )
        try:
            inputs = _inputs(record, folder, model)
        except CasesError as error:
            raise CasesError(f"{place}: case {name!r}: {error}") from None
        yield place, Case(name, inputs, expected, tuple(map(str, tags)), original)


def _inputs(
    record: Mapping[str, Any], folder: Path, model: Model
) -> Mapping[str, Array]:
    """Literal inputs, or the record as the model reads it."""
    if "inputs" not in record:
        return model.prepare(record, str(folder))
    dtypes = {spec.name: spec.dtype for spec in model.inputs}
    if not isinstance(record["inputs"], dict):
        raise CasesError('"inputs" should be an object: {name: numbers}')
    arrays = {}
    for name, value in record["inputs"].items():
        try:
            array = np.array(value)
        except ValueError:
            raise CasesError(f"input {name!r} is not a regular array") from None
        if array.dtype.kind not in "biuf":
            raise CasesError(f"input {name!r} is not numbers")
        wanted = dtypes.get(name) or ("float32" if array.dtype.kind == "f" else "")
        arrays[name] = _literal(array, wanted, name) if wanted else array
    return arrays


def _literal(array: Array, wanted: str, name: str) -> Array:
    """Numbers as they were written, in the dtype that the model takes.

    Raises:
        CasesError: a number is not one of that dtype: 1.5 or 300 in uint8.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        cast = array.astype(wanted)
    if cast.dtype.kind != "f" and not np.array_equal(cast, array):
        raise CasesError(f"{name} holds numbers that are not {wanted}")
    overflow = np.isfinite(array) & ~np.isfinite(cast)
    if overflow.any():
        raise CasesError(f"{name} holds numbers beyond the range of {wanted}")
    return cast


def _from_npz(file: Path) -> Iterator[tuple[str, Case]]:
    """Arrays called `CASE/INPUT`."""
    groups: dict[str, dict[str, Array]] = {}
    for key, array in read_npz(file).items():
        case, slash, name = key.rpartition("/")
        if not slash:
            raise CasesError(f"{file}: array {key!r}, but should be called CASE/INPUT")
        groups.setdefault(case, {})[name] = array
    for case, arrays in groups.items():
        yield str(file), Case(case, arrays)


def _from_function(spec: str, folder: Path) -> Iterator[tuple[str, Case]]:
    module_name, _, attribute = spec.partition(":")
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))
    try:
        function = getattr(importlib.import_module(module_name), attribute)
        made = list(function())
    except HarnessError:
        raise
    except Exception as error:
        raise CasesError(
            f"cases={spec!r} failed: {type(error).__name__}: {error}"
        ) from error
    for case in made:
        if not isinstance(case, Case):
            raise CasesError(f"cases={spec!r} gives {type(case).__name__}, not Case")
        yield spec, case


def _fit(inputs: Mapping[str, Array], model: Model) -> dict[str, Array]:
    """The inputs, if they are what the model takes.

    Raises:
        CasesError: a name, dtype or shape is wrong, or a value is not finite.
    """
    specs = {spec.name: spec for spec in model.inputs}
    missing, extra = sorted(set(specs) - set(inputs)), sorted(set(inputs) - set(specs))
    if missing or extra:
        wrong = [f"missing {missing}"] * bool(missing) + [f"unknown {extra}"] * bool(
            extra
        )
        raise CasesError(f"inputs: {', '.join(wrong)}; the model has {sorted(specs)}")
    return {
        name: _fit_one(np.asarray(inputs[name]), spec, name in model.step_inputs)
        for name, spec in specs.items()
    }


def _fit_one(array: Array, spec: TensorSpec, stepped: bool) -> Array:
    name = spec.name
    if spec.dtype and array.dtype.name != spec.dtype:
        raise CasesError(f"{name} is {array.dtype}, but should be {spec.dtype}")
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        wrong = int((~np.isfinite(array)).sum())
        raise CasesError(f"{name} has {wrong} NaN or Inf; a case must be finite")
    if spec.shape:
        wanted = (None, *spec.shape) if stepped else spec.shape
        fits = len(wanted) == array.ndim and all(
            w is None or w == n for w, n in zip(wanted, array.shape, strict=True)
        )
        if not fits:
            shown = tuple("any" if w is None else w for w in wanted)
            raise CasesError(f"{name} has shape {array.shape}, but should have {shown}")
    if not array.size:
        raise CasesError(f"{name} is empty")
    return np.ascontiguousarray(array)
