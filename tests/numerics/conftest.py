"""Options and markers of these tests, and the way to their shared module."""

from __future__ import annotations

import hashlib
import os
import sys
import tempfile
from pathlib import Path

# `--import-mode=importlib` puts no folder of tests on the path.
sys.path.insert(0, str(Path(__file__).parent))

# Numba renews its cache by the date of the file that a loop stands in, not by those of
# what that imports: a cache for each content, so that no stale loop is ever tested.
_LOOPS = sorted((Path(__file__).parents[2] / "harness/numerics").glob("kernels*.py"))
_CONTENT = hashlib.sha256(b"".join(path.read_bytes() for path in _LOOPS)).hexdigest()
_CACHE = Path(tempfile.gettempdir()) / f"quantharness-loops-{_CONTENT[:12]}"
os.environ.setdefault("NUMBA_CACHE_DIR", str(_CACHE))


def pytest_configure(config):
    """Know the marker of slow tests also where the plugin is not loaded."""
    config.addinivalue_line("markers", "quant_slow: takes longer than a second")
    config.addinivalue_line("markers", "quant_gpu: needs a CUDA device")
