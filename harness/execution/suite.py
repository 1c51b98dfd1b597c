"""A suite: a folder with a `suite.toml`, read and checked key by key."""

from __future__ import annotations

import difflib
import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from harness.behaviours.kinds import KINDS
from harness.behaviours.schema import check_schema
from harness.behaviours.types import Behaviour
from harness.errors import ConfigError, UsageError
from harness.execution.ordering import Ordering, read_orderings
from harness.execution.toml_lines import line_of, read_toml
from harness.models.npz import inside

if TYPE_CHECKING:
    from harness.backends.registry import Registry
    from harness.schemes.types import Scheme

_SUITE_KEYS: Final[Mapping[str, type | tuple[type, ...]]] = {
    "name": str,
    "model": str,
    "cases": str,
    "reference": dict,
    "golden": str,
    "batch": int,
    "select": str,
}
_TARGET_KEYS: Final[Mapping[str, type | tuple[type, ...]]] = {
    "backend": str,
    "scheme": str,
    "required": bool,
    "nightly": bool,
    "budget": dict,
}
_TOP_KEYS: Final = ("suite", "target", "budget", "behaviour", "ordering", "scheme")
#: `package.module:name`, which is not a path.
_FACTORY: Final = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")
_PRECISIONS: Final = ("fp16", "fp32", "fp64")
_DEFAULT_BATCH: Final = 16


@dataclass(frozen=True, kw_only=True)
class Reference:
    """What everything is compared with."""

    backend: str = "torch"
    precision: str = "fp16"


@dataclass(frozen=True, kw_only=True)
class Target:
    """One column of the matrix: a backend with a scheme."""

    backend: str
    scheme: Scheme
    required: bool = False
    #: Left out before a merge, unless its backend or scheme is asked for by name.
    nightly: bool = False
    #: Metric -> (limit, "suite.toml:LINE"); the suite's own and the target's.
    budgets: Mapping[str, tuple[float, str]] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """`backend/scheme`."""
        return f"{self.backend}/{self.scheme.name}"


@dataclass(frozen=True, kw_only=True)
class Suite:
    """A model, its cases, its targets and its budgets."""

    name: str
    path: Path
    model: str
    cases: str
    reference: Reference
    targets: tuple[Target, ...]
    behaviours: tuple[Behaviour, ...]
    golden: Path
    batch: int = _DEFAULT_BATCH
    #: Tag of the cases that run before a merge; "": all. A nightly takes all.
    select: str = ""
    #: Targets that may not be worse than others with fewer bits.
    orderings: tuple[Ordering, ...] = ()

    @property
    def folder(self) -> Path:
        """Where the suite's files lie."""
        return self.path.parent

    @property
    def seed(self) -> int:
        """Seeds every random draw of a run: from the suite's identity, not a clock."""
        key = json.dumps([self.name, self.model, self.cases, self.batch])
        return int.from_bytes(hashlib.sha256(key.encode()).digest()[:4], "little")


def find_suites(paths: Iterable[str | Path]) -> list[Path]:
    """Every `suite.toml` at or under the paths, sorted, each once.

    Raises:
        UsageError: a path does not exist, or nothing is found.
    """
    found: dict[Path, None] = {}
    for given in paths:
        path = Path(given)
        if path.is_file():
            found[path.resolve()] = None
        elif path.is_dir():
            for file in sorted(path.rglob("suite.toml")):
                found[file.resolve()] = None
        else:
            raise UsageError(f"{path}: no such file or folder")
    if not found:
        names = ", ".join(str(path) for path in paths)
        raise UsageError(f"no suite.toml at or under {names}")
    return list(found)


def load_suite(path: str | Path, registry: Registry | None = None) -> Suite:
    """Read and check a `suite.toml`.

    Raises:
        ConfigError: an unknown key, a wrong type, a missing file: file, key, line.
    """
    file = Path(path)
    if file.is_dir():
        file = file / "suite.toml"
    return _Reader(file, registry).suite()


class _Reader:
    """Checks one file; every error points at its line."""

    def __init__(self, path: Path, registry: Registry | None) -> None:
        self.path = path
        self.registry = registry
        self.data, self.text = read_toml(path)

    def error(self, message: str, *where: str | int) -> ConfigError:
        key = ".".join(str(part) for part in where)
        line = line_of(self.text, *where)
        return ConfigError(message, path=self.path, key=key, line=line)

    def suite(self) -> Suite:
        self.known(self.data, _TOP_KEYS)
        table = self.data.get("suite")
        if not isinstance(table, dict):
            raise self.error("the table [suite] is missing")
        self.typed(table, _SUITE_KEYS, "suite")
        for key in ("name", "model", "cases"):
            if not table.get(key):
                raise self.error(f"suite.{key} is missing", "suite")
        name = table["name"]
        if not name.replace("-", "").replace("_", "").replace(".", "").isalnum():
            raise self.error(
                f"suite.name={name!r}, but should be letters, digits, '-', '_', '.'",
                "suite",
                "name",
            )
        self.existing_file("model", table["model"])
        self.existing_file("cases", table["cases"])
        targets = self.targets()
        batch = table.get("batch", _DEFAULT_BATCH)
        if batch < 1:
            raise self.error(
                f"suite.batch={batch}, but should be >= 1", "suite", "batch"
            )
        return Suite(
            name=name,
            path=self.path.resolve(),
            model=table["model"],
            cases=table["cases"],
            reference=self.reference(table.get("reference", {})),
            targets=targets,
            behaviours=self.behaviours(),
            golden=self.golden(table.get("golden"), name),
            batch=batch,
            select=table.get("select", ""),
            orderings=read_orderings(
                self.data.get("ordering", []),
                (target.name for target in targets),
                self.error,
                lambda i: f"{self.path.name}:{line_of(self.text, 'ordering', i)}",
            ),
        )

    def known(self, table: Mapping[str, Any], keys: Iterable[str], *where: Any) -> None:
        keys = tuple(keys)
        for key in table:
            if key in keys:
                continue
            close = difflib.get_close_matches(key, keys, n=1)
            hint = (
                f"did you mean {close[0]!r}?" if close else f"known: {', '.join(keys)}"
            )
            full = ".".join(
                str(part) for part in (*where, key) if isinstance(part, str)
            )
            raise self.error(f"unknown key {full!r}; {hint}", *where, key)

    def typed(
        self,
        table: Mapping[str, Any],
        types: Mapping[str, type | tuple[type, ...]],
        *where: Any,
    ) -> None:
        self.known(table, types, *where)
        for key, value in table.items():
            wanted = types[key]
            right = isinstance(value, wanted)
            if isinstance(value, bool) and wanted is not bool:
                right = False
            if not right:
                names = wanted.__name__ if isinstance(wanted, type) else str(wanted)
                raise self.error(
                    f"{key}={value!r} is {type(value).__name__}, but should be {names}",
                    *where,
                    key,
                )

    def existing_file(self, key: str, spec: str) -> None:
        """A spec that is a path must exist; `package.module:name` is not a path."""
        if _FACTORY.fullmatch(spec):
            return
        if not (self.path.parent / spec).exists():
            raise self.error(
                f"suite.{key}={spec!r}: no such file in {self.path.parent}",
                "suite",
                key,
            )

    def reference(self, table: Mapping[str, Any]) -> Reference:
        self.typed(table, {"backend": str, "precision": str}, "suite", "reference")
        reference = Reference(**table)
        if reference.precision not in _PRECISIONS:
            raise self.error(
                f"reference.precision={reference.precision!r}, but should be one of "
                f"{', '.join(_PRECISIONS)}",
                "suite",
                "reference",
            )
        self.backend_exists(reference.backend, "suite", "reference")
        return reference

    def backend_exists(self, name: str, *where: str | int) -> None:
        if self.registry is None:
            return
        try:
            self.registry.backend(name)
        except UsageError as error:
            raise self.error(str(error), *where) from None

    def golden(self, given: str | None, name: str) -> Path:
        """Given; or `golden/NAME` beside the folder `suites`; or inside the suite."""
        folder = self.path.resolve().parent
        if given is not None:
            return (folder / given).resolve()
        if folder.parent.name == "suites":
            return folder.parent.parent / "golden" / name
        return folder / "golden"

    def targets(self) -> tuple[Target, ...]:
        tables = self.data.get("target", [])
        if not isinstance(tables, list) or not tables:
            raise self.error("no [[target]]: nothing would be compared", "target")
        shared = self.budget(self.data.get("budget", {}), "budget")
        targets: dict[str, Target] = {}
        for index, table in enumerate(tables):
            self.typed(table, _TARGET_KEYS, "target", index)
            for key in ("backend", "scheme"):
                if key not in table:
                    raise self.error(f"target.{key} is missing", "target", index)
            self.backend_exists(table["backend"], "target", index, "backend")
            own = self.budget(table.get("budget", {}), "target", index, "budget")
            target = Target(
                backend=table["backend"],
                scheme=self.scheme(table["scheme"], index),
                required=table.get("required", False),
                nightly=table.get("nightly", False),
                budgets={**shared, **own},
            )
            if target.name in targets:
                raise self.error(
                    f"the target {target.name} stands twice", "target", index
                )
            targets[target.name] = target
        return tuple(targets.values())

    def budget(self, table: Any, *where: str | int) -> dict[str, tuple[float, str]]:
        if not isinstance(table, dict):
            raise self.error("budget is not a table", *where)
        limits = {}
        for key, value in table.items():
            number = isinstance(value, int | float) and not isinstance(value, bool)
            if not number or not value >= 0:
                raise self.error(
                    f"budget {key!r}={value!r}, but should be a number >= 0",
                    *where,
                    key,
                )
            line = line_of(self.text, *where, key)
            limits[key] = (float(value), f"{self.path.name}:{line}")
        return limits

    def scheme(self, name: str, index: int) -> Scheme:
        from harness.schemes.catalogue import scheme_by_name, scheme_from_table

        own = self.data.get("scheme", {})
        try:
            if name in own:
                return scheme_from_table(name, own[name], self.path.parent)
            if self.registry is not None and name in self.registry.schemes:
                return self.registry.schemes[name]
            return scheme_by_name(name, extra=tuple(own))
        except UsageError as error:
            place = ("scheme", name) if name in own else ("target", index, "scheme")
            raise self.error(str(error), *place) from None

    def behaviours(self) -> tuple[Behaviour, ...]:
        tables = self.data.get("behaviour", [])
        if not isinstance(tables, list):
            raise self.error("write [[behaviour]], not [behaviour]", "behaviour")
        kinds = dict(KINDS)
        if self.registry is not None:
            kinds.update(self.registry.behaviours)
        found: dict[str, Behaviour] = {}
        for index, table in enumerate(tables):
            kind = table.get("kind")
            if kind not in kinds:
                close = difflib.get_close_matches(str(kind), kinds, n=1)
                hint = (
                    f"did you mean {close[0]!r}?"
                    if close
                    else f"known: {sorted(kinds)}"
                )
                raise self.error(
                    f"behaviour kind={kind!r} is unknown; {hint}",
                    "behaviour",
                    index,
                    "kind",
                )
            allowed = ("kind", "name", "margin", "all_cases", *kinds[kind].options)
            self.known(table, allowed, "behaviour", index)
            for key in kinds[kind].required:
                if key not in table:
                    raise self.error(
                        f"behaviour {kind}: {key!r} is missing", "behaviour", index
                    )
            name = table.get("name", kind)
            if name in found:
                raise self.error(
                    f"two behaviours are called {name!r}; give one a `name`",
                    "behaviour",
                    index,
                )
            options = {key: table[key] for key in kinds[kind].options if key in table}
            if "schema" in options:
                options["schema"] = self.schema(options["schema"], "behaviour", index)
            all_cases = table.get("all_cases", False)
            if not isinstance(all_cases, bool):
                raise self.error(
                    f"behaviour {name}: all_cases={all_cases!r}, but should be true or "
                    "false",
                    "behaviour",
                    index,
                    "all_cases",
                )
            found[name] = Behaviour(
                kind=kind,
                name=name,
                options=options,
                margin=table.get("margin"),
                all_cases=all_cases,
            )
        return tuple(found.values())

    def schema(self, name: Any, *where: str | int) -> Any:
        """A JSON file beside the suite that says what JSON replies look like."""
        try:
            found = json.loads(inside(self.path.parent, str(name)).read_text("utf-8"))
            check_schema(found, str(name))
        except (OSError, ValueError, UsageError) as error:
            raise self.error(f"behaviour.schema={name!r}: {error}", *where) from None
        return found
