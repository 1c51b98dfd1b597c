"""Packages that are not here, or of another version, are named with the remedy."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError

import pytest

from harness.backends import installed
from harness.backends.registry import load_registry


def test_what_is_here_is_nothing_to_tell():
    """The versions that the tests run with."""
    assert installed.reason_against("onnxruntime", "onnxruntime", "onnx") == ""


def test_a_missing_package_is_named_with_its_extra():
    """And nothing is imported for it."""
    found = installed.reason_against("openvino", "no_such_package")

    assert found == (
        "no_such_package is not installed: pip install 'quantharness[openvino]'"
    )


@pytest.mark.parametrize(
    "backend",
    ["openvino", "onnxruntime", "onnx-reference", "torch", "torchao", "openvino@f32"],
)
def test_an_older_version_is_not_available(backend, monkeypatch):
    """Found, and what there should be, before anything is imported."""
    monkeypatch.setattr(installed, "version", lambda _: "0.9.1")
    found = load_registry().backend(backend).probe()

    assert not found.available
    assert " 0.9.1 is installed, but should be >=" in found.reason
    assert "pip install 'quantharness[" in found.reason


def test_a_build_of_its_own_counts_as_what_it_imports_as(monkeypatch):
    """onnxruntime-gpu is imported as onnxruntime: its version is its own affair."""

    def unknown(package):
        raise PackageNotFoundError(package)

    monkeypatch.setattr(installed, "version", unknown)

    assert installed.reason_against("onnxruntime", "onnxruntime") == ""


def test_a_release_candidate_is_a_version(monkeypatch):
    """And a build's own suffix is none of ours."""
    monkeypatch.setattr(installed, "version", lambda _: "2.99.0rc1+cu130")

    assert installed.reason_against("torch", "torch") == ""


def test_where_the_harness_is_not_installed_versions_are_not_asked_for(monkeypatch):
    """In a backend's own environment its lock says them."""

    def unknown(package):
        raise PackageNotFoundError(package)

    installed._wanted.cache_clear()
    monkeypatch.setattr(installed, "requires", unknown)
    monkeypatch.setattr(installed, "version", lambda _: "0.0.1")
    try:
        assert installed.reason_against("torch", "torch") == ""
    finally:
        installed._wanted.cache_clear()
