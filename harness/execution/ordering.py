"""`[[ordering]]`: a target that may not be worse than one with fewer bits."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from harness.errors import ConfigError
from harness.judge.evidence import Evidence, OrderingEvidence, Paired
from harness.judge.slices import clusters_of
from harness.numerics.formats import FORMATS

if TYPE_CHECKING:
    from harness.execution.suite import Suite, Target
    from harness.schemes.types import Scheme, TensorScheme

_KEYS: Final = ("better", "worse", "metric")
#: Bits of a number that is not quantized: more than of any that is.
_UNQUANTIZED: Final = 32.0
#: What is compared where nothing is said: every output of every suite has it.
_DRIFT: Final = "drift"


@dataclass(frozen=True, kw_only=True)
class Ordering:
    """One `[[ordering]]` of a suite."""

    #: `backend/scheme` of the target with more bits, and of the one with fewer.
    better: str
    worse: str
    #: `drift`, or a metric of the run, e.g. `logits.kl`.
    metric: str = _DRIFT
    #: "suite.toml:LINE".
    source: str = ""


def read_orderings(
    tables: Any,
    targets: Iterable[str],
    error: Callable[..., ConfigError],
    place: Callable[[int], str],
) -> tuple[Ordering, ...]:
    """The suite's orderings, checked.

    Args:
        tables: of the file, under `ordering`.
        targets: names of the suite's targets.
        error: makes an error that points at a key.
        place: of the table of this index, `suite.toml:LINE`.

    Raises:
        ConfigError: not tables, an unknown or missing key, a target that the suite has
            not, one that is compared with itself, or a pair that stands twice.
    """
    if not isinstance(tables, list) or not all(isinstance(t, dict) for t in tables):
        raise error("write [[ordering]], not [ordering]", "ordering")
    known = list(targets)
    found: dict[tuple[str, str, str], Ordering] = {}
    for index, table in enumerate(tables):
        where = ("ordering", index)
        for key, value in table.items():
            if key not in _KEYS or not isinstance(value, str):
                raise error(
                    f"ordering: {key}={value!r}, but its keys are the texts "
                    f"{', '.join(_KEYS)}",
                    *where,
                    key,
                )
        for key in ("better", "worse"):
            _named(table, key, known, error, where)
        if table["better"] == table["worse"]:
            raise error(f"{table['better']} is compared with itself", *where, "worse")
        entry = Ordering(**table, source=place(index))
        same = (entry.better, entry.worse, entry.metric)
        if same in found:
            raise error(f"the ordering of {entry.better} stands twice", *where)
        found[same] = entry
    return tuple(found.values())


def _named(
    table: Mapping[str, Any],
    key: str,
    known: Sequence[str],
    error: Callable[..., ConfigError],
    where: tuple[str, int],
) -> None:
    if key not in table:
        raise error(f"ordering: {key!r} is missing", *where)
    if table[key] in known:
        return
    close = difflib.get_close_matches(table[key], known, n=1)
    hint = f"did you mean {close[0]!r}?" if close else f"it has {', '.join(known)}"
    raise error(f"ordering: the suite has no target {table[key]!r}; {hint}", *where)


def with_orderings(
    pairs: Sequence[tuple[Suite, Target]], evidences: Sequence[Evidence]
) -> tuple[Evidence, ...]:
    """The evidence of all targets, with what those of more bits are held against."""
    by_name = {
        (suite.name, target.name): (target, evidence)
        for (suite, target), evidence in zip(pairs, evidences, strict=True)
    }
    return tuple(
        dataclasses.replace(
            evidence,
            orderings=tuple(
                _evidence(entry, target, evidence, by_name.get((suite.name, other)))
                for entry in suite.orderings
                if entry.better == target.name
                for other in (entry.worse,)
            ),
        )
        for (suite, target), evidence in zip(pairs, evidences, strict=True)
    )


def _evidence(
    entry: Ordering,
    target: Target,
    evidence: Evidence,
    other: tuple[Target, Evidence] | None,
) -> OrderingEvidence:
    def unjudged(reason: str) -> OrderingEvidence:
        return OrderingEvidence(
            other=entry.worse,
            metric=entry.metric,
            source=entry.source,
            unjudged=reason,
        )

    if other is None:
        return unjudged(f"{entry.worse} was not run")
    reason = not_comparable(target.scheme, other[0].scheme)
    if reason:
        return unjudged(reason)
    if other[1].failure is not None:
        return unjudged(f"{entry.worse}: {other[1].failure.kind}")
    return _aligned(entry, evidence, other[1])


def _aligned(entry: Ordering, evidence: Evidence, other: Evidence) -> OrderingEvidence:
    """The values of both on the cases that both have; none without the metric."""
    plain = OrderingEvidence(
        other=entry.worse,
        metric=entry.metric,
        source=entry.source,
        known=(_DRIFT, *(metric.name for metric in evidence.metrics)),
    )
    mine, theirs = _values(evidence, entry.metric), _values(other, entry.metric)
    if mine is None or theirs is None:
        return plain
    index = {case: i for i, case in enumerate(theirs[0])}
    kept = [i for i, case in enumerate(mine[0]) if case in index]
    then = [index[mine[0][i]] for i in kept]
    cases = tuple(mine[0][i] for i in kept)
    reference = None
    limit = 0.0
    if isinstance(mine[1], Paired):
        reference, limit = mine[1].reference_sq[kept], evidence.noise_floor
    return dataclasses.replace(
        plain,
        cases=cases,
        own=_array(mine[1])[kept],
        others=_array(theirs[1])[then],
        reference_sq=reference,
        better=getattr(mine[1], "better", "lower"),
        limit=limit,
        clusters=clusters_of(evidence.tags, cases),
    )


def _values(evidence: Evidence, metric: str) -> tuple[tuple[str, ...], Any] | None:
    """Cases, and what was measured of them."""
    if metric == _DRIFT:
        return (
            None if evidence.drift is None else (evidence.drift.cases, evidence.drift)
        )
    for entry in evidence.metrics:
        if entry.name == metric:
            return entry.cases, entry
    return None


def _array(values: Any) -> np.ndarray[Any, np.dtype[np.float64]]:
    found = values.error_sq if isinstance(values, Paired) else values.values
    return np.asarray(found, dtype=np.float64)


def not_comparable(better: Scheme, worse: Scheme) -> str:
    """Why one scheme cannot be said to have more bits than another; "": it has.

    More bits in one kind of tensor, and fewer in none; and nothing is quantized that
    the other leaves alone. Shared scales of block formats count: MXFP4 has 4.25 bits a
    number, NVFP4 4.5.
    """
    more = False
    for kind in ("weights", "activations", "kv_cache"):
        high, low = bits_of(getattr(better, kind)), bits_of(getattr(worse, kind))
        if high < low:
            return f"{better.name} has {high:g} bits in {kind}, {worse.name} {low:g}"
        more = more or high > low
    if not more:
        return f"{better.name} and {worse.name} have as many bits"
    alone = sorted(set(worse.keep) - set(better.keep))
    if alone:
        return f"{better.name} quantizes {alone[0]}, which {worse.name} leaves alone"
    return ""


def bits_of(scheme: TensorScheme | None) -> float:
    """Bits of one number, its part of a block's scale included.

    A scale of no format of its own, of a group of integers, has at least 16.
    """
    if scheme is None:
        return _UNQUANTIZED
    found = FORMATS[scheme.format]
    if found.kind != "block":
        return found.bits + (16 / scheme.block if scheme.block else 0.0)
    element, scale = FORMATS[found.element], FORMATS[found.scale]
    return element.bits + scale.bits / found.block
