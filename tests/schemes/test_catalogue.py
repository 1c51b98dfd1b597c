"""The schemes that ship, and those of a suite's own."""

from __future__ import annotations

import pytest

from harness.errors import UsageError
from harness.schemes.catalogue import SCHEMES, scheme_by_name, scheme_from_table


def test_every_scheme_is_found_by_its_own_name():
    """The key of the catalogue is the scheme's name."""
    assert all(name == scheme.name for name, scheme in SCHEMES.items())
    assert scheme_by_name("nvfp4") is SCHEMES["nvfp4"]


@pytest.mark.parametrize("name", sorted(SCHEMES))
def test_weight_only_schemes_say_so(name):
    """A scheme without activations is weight-only, and only such a one."""
    expected = name.endswith("weight_only") or name.startswith(("int4", "nf4"))

    assert SCHEMES[name].weight_only == expected


def test_an_unknown_name_gets_the_nearest_one():
    """A typo is answered with what was meant."""
    with pytest.raises(
        UsageError, match=r"unknown scheme .nvpf4.; did you mean .nvfp4."
    ):
        scheme_by_name("nvpf4")


def test_a_name_unlike_any_lists_all():
    """Where nothing is near, every name is shown."""
    with pytest.raises(UsageError, match=r"known: fp8_e4m3, .*int4_g128"):
        scheme_by_name("zzz")


def test_a_table_changes_its_base():
    """`base` gives what the table leaves out."""
    scheme = scheme_from_table("own", {"base": "mxfp4", "keep": ["head*"]})

    assert scheme.weights == SCHEMES["mxfp4"].weights
    assert scheme.keep == ("head*",)
    assert scheme.name == "own"


def test_false_takes_activations_away():
    """`activations = false` makes a weight-only scheme of its base."""
    assert scheme_from_table("own", {"base": "int8", "activations": False}).weight_only


def test_a_table_of_its_own():
    """Every key arrives where it belongs."""
    scheme = scheme_from_table(
        "own",
        {
            "weights": {"format": "int4", "granularity": "block", "block": 64},
            "activations": {
                "format": "fp8_e4m3",
                "granularity": "tensor",
                "dynamic": False,
            },
            "summary": "mine",
        },
    )

    assert (scheme.weights.format, scheme.weights.block) == ("int4", 64)
    assert not scheme.activations.dynamic
    assert scheme.summary == "mine"


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({}, "neither `base` nor `weights`"),
        ({"wieghts": {}}, "unknown key scheme.own.wieghts; did you mean 'weights'"),
        ({"base": "mxpf4"}, "did you mean 'mxfp4'"),
        ({"base": ["mxfp4"]}, "scheme.own.base=.* should be a scheme's name"),
        ({"weights": 3}, "scheme.own.weights should be"),
        ({"weights": {"granularity": "row"}}, "scheme.own.weights should be"),
        ({"weights": {"format": "fp8"}}, "unknown format 'fp8'"),
        ({"weights": {"format": ["fp8_e4m3"]}}, "format=.* should be a format's name"),
        ({"weights": {"format": "fp8_e8m0"}}, "fp8_e8m0 is a format of scales"),
        (
            {"weights": {"format": "mxfp4", "granularity": "row"}},
            "granularity='row', but should be one of .'block',. for mxfp4",
        ),
        (
            {"weights": {"format": "int8", "granularity": "block"}},
            "granularity 'block' of int8 needs `block`",
        ),
        (
            {"weights": {"format": "int4", "granularity": "block", "block": True}},
            "block=True, but should be a whole number",
        ),
        ({"weights": {"format": "mxfp4", "rule": "flor"}}, "rule='flor'"),
        ({"weights": {"format": "int8", "dynamic": 1}}, "dynamic=1, but should be"),
        (
            {
                "base": "mxfp4",
                "activations": {"format": "mxfp4", "dynamic": False},
            },
            "mxfp4 has no scale to calibrate",
        ),
        ({"base": "int8", "keep": "head"}, "keep='head', but should be a list"),
        ({"base": "int8", "summary": 3}, "summary=3, but should be a text"),
    ],
)
def test_what_is_wrong_in_a_table_is_named(table, message):
    """Every mistake names its key, what was found and what should be there."""
    with pytest.raises(UsageError, match=message):
        scheme_from_table("own", table)
