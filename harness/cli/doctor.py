"""`quantharness doctor`."""

from __future__ import annotations

import argparse
from typing import Any

from harness.cli.options import add_json, add_plugin

EXAMPLE = "quantharness doctor --plugin my_backend.py"


def configure(parser: argparse.ArgumentParser) -> None:
    """Its options."""
    add_plugin(parser)
    add_json(parser)


def execute(options: argparse.Namespace) -> int:
    """Show what is here and what is missing."""
    from harness.reports.terminal import print_json

    found = examine(options.plugin)
    if options.json:
        print_json({"schema": 1, **found})
        return 0
    for entry in found["backends"]:
        if entry["available"]:
            print(f"{entry['name']:14} {entry['version']} on {entry['device']}")
        else:
            print(f"{entry['name']:14} not here: {entry['reason']}")
        if entry["environment"]:
            print(f"{'':14} in its own environment: {entry['environment']}")
    for name, reason in found["failed"].items():
        print(f"{name:14} its plugin does not load: {reason}")
    for name in ("python", "platform", "cpu", "cpu_flags", "cores", "driver"):
        print(f"{name:14} {found['environment'][name] or '-'}")
    for name, value in found["environment"].items():
        if name.startswith(("package.", "variable.")) and value:
            print(f"{name.partition('.')[2]:14} {value}")
    return 0


def examine(plugins: list[str]) -> dict[str, Any]:
    """Backends with their availability, plugins that failed, the environment."""
    from harness.backends.registry import load_registry
    from harness.errors import UsageError
    from harness.golden.environment import environment

    registry = load_registry(plugins)
    backends = []
    for name in registry.backend_names:
        try:
            backend = registry.backend(name)
            available = backend.probe()
        except UsageError:
            # Its plugin does not load: said among the failed ones.
            continue
        backends.append(
            {
                "name": name,
                "available": available.available,
                "version": available.version,
                "device": available.device,
                "reason": available.reason,
                "environment": _folder(getattr(backend, "own_environment", "")),
            }
        )
    return {
        "backends": backends,
        "failed": dict(registry.failed),
        "environment": environment(),
    }


def _folder(environment: str) -> str:
    """Where a backend's own environment lies; empty: it has none, or it is not made."""
    from harness.environments import folder_of, interpreter, read_lock

    if not environment or interpreter(environment) is None:
        return ""
    return str(folder_of(read_lock(environment)))
