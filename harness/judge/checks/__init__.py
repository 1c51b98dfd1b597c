"""The checks, one file each, in the order in which they name the verdict.

A check is a pure function of a target's evidence and of the levels its tests are
held to. To add one, write a file beside these and a line here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

from harness.judge.checks.anomaly import anomaly
from harness.judge.checks.artifact import artifact
from harness.judge.checks.behaviour import behaviour
from harness.judge.checks.cost import cost
from harness.judge.checks.devices import devices
from harness.judge.checks.direction import direction
from harness.judge.checks.distance import distance
from harness.judge.checks.explained import explained
from harness.judge.checks.nights import nights
from harness.judge.checks.ordering import ordering
from harness.judge.checks.regression import regression
from harness.judge.checks.stability import stability
from harness.judge.evidence import Evidence
from harness.judge.levels import Levels
from harness.judge.outcome import Outcome

__all__ = ["ALL", "Check", "checks_for"]

Check = Callable[[Evidence, Levels], Outcome]

ALL: Mapping[str, Check] = MappingProxyType(
    {
        "artifact": artifact,
        "anomaly": anomaly,
        "stability": stability,
        "explained": explained,
        "distance": distance,
        "direction": direction,
        "regression": regression,
        "ordering": ordering,
        "nights": nights,
        "behaviour": behaviour,
        "cost": cost,
    }
)

#: Instead of those that read one run's outputs, where many devices were drawn.
_OF_DEVICES: Mapping[str, Check] = MappingProxyType(
    {
        "artifact": artifact,
        "anomaly": anomaly,
        "stability": stability,
        "explained": explained,
        "devices": devices,
        "cost": cost,
    }
)


def checks_for(evidence: Evidence) -> Mapping[str, Check]:
    """The checks that judge this evidence, in order."""
    return ALL if evidence.device is None else _OF_DEVICES
