"""quantharness: golden-output regression tests for quantized models."""

from __future__ import annotations

__all__ = ["__version__", "run"]

__version__ = "0.1.0"


def __getattr__(name: str) -> object:
    """Import the runner only when it is asked for: `import harness` stays fast."""
    if name == "run":
        from harness.execution.api import run

        return run
    raise AttributeError(name)
