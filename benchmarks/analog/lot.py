r"""A plugin: the backend `analog` with devices of another lot, or with a fault.

    ANALOG='{"lot": 7}' quantharness run suites/vad --backend analog \
        --plugin benchmarks/analog/lot.py

`ANALOG` holds the options of `AnalogBackend` as JSON.
"""

from __future__ import annotations

import json
import os

from harness.backends.analog_backend import AnalogBackend
from harness.backends.registry import Registry


def register(registry: Registry) -> None:
    """Take the place of the backend that ships."""
    registry.add_backend(AnalogBackend(**json.loads(os.environ.get("ANALOG", "{}"))))
