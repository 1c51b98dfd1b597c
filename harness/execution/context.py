"""What all targets of a suite share: its cases, its golden, what is known of both."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from harness.backends.registry import Registry
from harness.behaviours.kinds import KINDS
from harness.compare.catalogue import Metric
from harness.execution.errors_by_case import paired
from harness.execution.jobs import Description, Outputs
from harness.execution.suite import Suite
from harness.golden.store import Golden
from harness.judge.evidence import Paired
from harness.judge.slices import SOURCES, clusters_of

Array = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True, kw_only=True)
class Context:
    """What all targets of a suite share."""

    suite: Suite
    description: Description
    golden: Golden
    #: Golden outputs as arrays: case -> output -> array.
    reference: Mapping[str, Mapping[str, Array]]
    behaviours: Mapping[str, Any]
    #: Metrics of plugins, by name.
    metrics: Mapping[str, Metric]
    #: Every case of the golden, also those that are not run.
    every: frozenset[str] = frozenset()


def make_context(
    suite: Suite, description: Description, golden: Golden, registry: Registry
) -> Context:
    """Decode the golden once for all targets, of the cases that are run."""
    cases = {case.id for case in description.cases}
    every = frozenset(golden.outputs)
    golden = dataclasses.replace(
        golden, outputs={c: o for c, o in golden.outputs.items() if c in cases}
    )
    reference = {
        case: {name: entry.array for name, entry in outputs.items()}
        for case, outputs in golden.outputs.items()
    }
    return Context(
        suite=suite,
        description=description,
        golden=golden,
        reference=reference,
        behaviours={**KINDS, **registry.behaviours},
        metrics=registry.metrics,
        every=every,
    )


def tags_of(context: Context) -> dict[str, tuple[str, ...]]:
    """Tags of every case; a variant has the source of its original, or its id."""
    cases = context.description.cases
    original = {case.id: case.variant_of for case in cases if case.variant_of}
    tags = {case.id: case.tags for case in cases}
    for name in original:
        root = name
        while root in original:
            root = original[root]
        own = [tag for tag in tags.get(root, ()) if tag.startswith(SOURCES)]
        source = own[0] if own else f"prompt:{root}"
        for one in (root, name):
            if one in tags and not any(t.startswith(SOURCES) for t in tags[one]):
                tags[one] = (*tags[one], source)
    return tags


def clustered(context: Context, found: Paired) -> Paired:
    """With the document or prompt that each case was taken from, by its tags."""
    return dataclasses.replace(
        found, clusters=clusters_of(tags_of(context), found.cases)
    )


def drift_of(context: Context, outputs: Outputs) -> Paired:
    """Against the golden, on what the golden kept of each output."""
    golden = context.golden

    def project(case: str, name: str, full: Array) -> Array:
        return golden.outputs[case][name].project(full)

    return clustered(context, paired(context.reference, outputs, project=project))
