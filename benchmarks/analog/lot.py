r"""A plugin: `analog` or `aihwkit` with devices of another lot, or with a fault.

    ANALOG='{"lot": 7}' quantharness run suites/vad --backend analog \
        --plugin benchmarks/analog/lot.py

`ANALOG` holds the options of `AnalogBackend` as JSON, `AIHWKIT` those of
`AihwkitBackend`.
"""

from __future__ import annotations

import json
import os

from harness.backends.aihwkit_backend import AihwkitBackend
from harness.backends.analog_backend import AnalogBackend
from harness.backends.registry import Registry


def register(registry: Registry) -> None:
    """Take the place of the backends that ship."""
    registry.add_backend(AnalogBackend(**json.loads(os.environ.get("ANALOG", "{}"))))
    registry.add_backend(AihwkitBackend(**json.loads(os.environ.get("AIHWKIT", "{}"))))
