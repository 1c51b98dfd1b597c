"""Which quantizers are tested: ours, or those of `--quant-plugin`."""

from __future__ import annotations

import os

import pytest

from harness.properties import PROPERTIES, load_quantizers


@pytest.fixture
def profile() -> str:
    """How long to search: HYPOTHESIS_PROFILE=gate (the default), dev or nightly."""
    return os.environ.get("HYPOTHESIS_PROFILE", "gate")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """One test a quantizer and property, ids like `mxfp4-nearest`."""
    if not {"quantizer", "entry"} <= set(metafunc.fixturenames):
        return
    plugins = metafunc.config.getoption("--quant-plugin", default=[])
    found = load_quantizers(plugins)
    pairs = [(q, entry) for q in found.values() for entry in PROPERTIES.values()]
    names = [f"{quantizer.name}-{entry.name}" for quantizer, entry in pairs]
    metafunc.parametrize(("quantizer", "entry"), pairs, ids=names)
