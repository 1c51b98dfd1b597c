"""Which language model is asked: `--quant-language SUITE`, and targets by name."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from harness.properties.language import LANGUAGE_PROPERTIES

if TYPE_CHECKING:
    from harness.execution.speakers import Speakers


@pytest.fixture
def profile() -> str:
    """How long to search: HYPOTHESIS_PROFILE=gate (the default), dev or nightly."""
    return os.environ.get("HYPOTHESIS_PROFILE", "gate")


@pytest.fixture(scope="session")
def speakers(request: pytest.FixtureRequest) -> Speakers:
    """The suite's reference and targets, loaded once."""
    from harness.backends.registry import load_registry
    from harness.execution.speakers import Speakers

    options = request.config.option
    return Speakers(options.quant_language, load_registry(options.quant_plugin))


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """One test a speaker and property, ids like `reference-batch_invariant`."""
    if not {"speaker", "entry"} <= set(metafunc.fixturenames):
        return
    names = _speakers(metafunc.config)
    pairs = [(name, entry) for name in names for entry in LANGUAGE_PROPERTIES.values()]
    ids = [f"{name}-{entry.name}" for name, entry in pairs]
    metafunc.parametrize(("speaker", "entry"), pairs, ids=ids)


def _speakers(config: pytest.Config) -> list[str]:
    """The reference first; then the targets that the filters name."""
    from harness.backends.registry import load_registry
    from harness.execution.suite import load_suite

    options = config.option
    if not options.quant_language:
        return []
    suite = load_suite(options.quant_language, load_registry(options.quant_plugin))
    backends, schemes = options.quant_backend, options.quant_scheme
    chosen = [
        target.name
        for target in suite.targets
        if (backends or schemes)
        and (not backends or target.backend in backends)
        and (not schemes or target.scheme.name in schemes)
    ]
    if (backends or schemes) and not chosen:
        raise pytest.UsageError(
            f"{suite.path}: no target has backend {backends} and scheme {schemes}; it "
            f"has {', '.join(target.name for target in suite.targets)}"
        )
    return ["reference", *chosen]
