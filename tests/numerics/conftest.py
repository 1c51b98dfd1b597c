"""Options and markers of these tests, and the way to their shared module."""

from __future__ import annotations

import sys
from pathlib import Path

# `--import-mode=importlib` puts no folder of tests on the path.
sys.path.insert(0, str(Path(__file__).parent))


def pytest_configure(config):
    """Know the marker of slow tests also where the plugin is not loaded."""
    config.addinivalue_line("markers", "quant_slow: takes longer than a second")
    config.addinivalue_line("markers", "quant_gpu: needs a CUDA device")
