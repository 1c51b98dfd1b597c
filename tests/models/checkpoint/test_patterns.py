"""Names of layers as configurations write them."""

from __future__ import annotations

import pytest

from harness.errors import ModelError
from harness.models.checkpoint.patterns import Patterns


@pytest.mark.parametrize(
    ("entry", "layer", "names"),
    [
        ("lm_head", "lm_head", True),
        ("lm_head", "x.lm_head", False),
        ("re:.*k_proj$", "model.0.k_proj", True),
        ("re:.*k_proj$", "model.0.q_proj", False),
        ("model.layers.0.*", "model.layers.0.mlp", True),
        ("Linear", "model.0.k_proj", False),
    ],
)
def test_names(entry, layer, names):
    """Exact names, `re:` and globs name layers; a class does not."""
    assert Patterns((entry,)).names(layer) is names


def test_prefix_covers_what_lies_below():
    """`modules_to_not_convert` names a module for all its layers."""
    assert Patterns(("a.b",), prefixes=True).matching("a.b.c") == "a.b"
    assert not Patterns(("a.b",)).names("a.b.c")
    assert not Patterns(("a.b",), prefixes=True).names("a.bc")


def test_class():
    """Only a capitalised entry means a class."""
    assert Patterns(("Linear",)).classes
    assert not Patterns(("re:Linear", "linear")).classes


def test_bad_expression():
    """A broken regular expression is an error of the configuration."""
    with pytest.raises(ModelError, match="no regular expression"):
        Patterns(("re:(",)).names("x")
