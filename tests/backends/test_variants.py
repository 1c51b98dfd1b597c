"""`NAME@VARIANT`: another configuration of a backend, in a worker of its own."""

from __future__ import annotations

import time
from pathlib import Path
from typing import ClassVar

import pytest

from harness.backends.protocol import Availability, Support, Variant
from harness.backends.registry import Registry, load_registry
from harness.errors import UsageError
from harness.execution.isolation import Worker


class Plugin:
    """A backend with one variant."""

    variants: ClassVar = {
        "slow": Variant(
            summary="slower", environment={"SPEED": "1"}, options={"speed": 1}
        )
    }

    def __init__(self, *, name="plugin", speed=9):
        self.name = name
        self.speed = speed

    def probe(self):
        return Availability(available=True)

    def supports(self, model, scheme):  # noqa: ARG002
        return Support(supported=True)

    def load(self, model, scheme):  # noqa: ARG002
        raise AssertionError


def registry():
    """One plugin and nothing else."""
    found = Registry()
    found.add_backend(Plugin())
    return found


def test_a_variant_is_a_backend_with_its_options_and_name():
    """The class is called with the variant's options; the plain backend stays."""
    found = registry()

    variant = found.backend("plugin@slow")

    assert ("plugin@slow", 1) == (variant.name, variant.speed)
    assert found.backend("plugin").speed == 9
    assert {"SPEED": "1"} == found.environment("plugin@slow")
    assert {} == found.environment("plugin")


def test_an_unknown_variant_names_the_known_ones():
    """A misspelt variant is wrong usage, never the plain backend."""
    with pytest.raises(UsageError, match="plugin@slow"):
        registry().backend("plugin@slwo")
    with pytest.raises(UsageError, match="unknown backend"):
        registry().backend("plugn@slow")
    assert {} == registry().environment("plugin@slwo")


def test_the_variants_environment_is_the_workers(tmp_path):
    """The process is started with it, so that the engine sees it when imported."""
    worker = Worker(log=tmp_path / "log", environment={"ONEDNN_MAX_CPU_ISA": "AVX2"})
    with worker:
        worker._start()
        file = Path(f"/proc/{worker._process.pid}/environ")
        # Empty until the process has become the worker.
        deadline = time.monotonic() + 30
        while not (found := file.read_bytes()) and time.monotonic() < deadline:
            time.sleep(0.01)
        environment = found.split(b"\0")

    assert b"ONEDNN_MAX_CPU_ISA=AVX2" in environment


def test_what_ships_names_its_variants():
    """Every shipped variant can be made and says what it is."""
    shipped = load_registry()
    for name in shipped.backend_names:
        base = shipped.backend(name)
        for variant, entry in getattr(base, "variants", {}).items():
            assert f"{name}@{variant}" == shipped.backend(f"{name}@{variant}").name
            assert entry.summary
