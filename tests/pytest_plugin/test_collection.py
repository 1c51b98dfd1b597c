"""What pytest collects from a suite.toml: ids, filters, errors. Nothing is run."""

import pytest

CHECKS = [
    "artifact",
    "anomaly",
    "stability",
    "unexplained",
    "drift",
    "direction",
    "regression",
    "behaviour",
    "cost",
]


def ids(result):
    """The collected ids."""
    return [line.rpartition("::")[2] for line in result.outlines if "::" in line]


def test_an_item_is_a_target_and_a_check(suite, quant):
    """Ids are suite/backend/scheme/check, in the order of the checks."""
    found = ids(quant("--collect-only", "-q", suite))

    assert found == [
        f"tiny/torch/{scheme}/{check}"
        for scheme in ("fp8_weight_only", "int8")
        for check in CHECKS
    ]


@pytest.mark.parametrize(
    ("option", "value", "count"),
    [
        ("--quant-scheme", "int8", 9),
        ("--quant-backend", "torch", 18),
        ("--quant-backend", "onnxruntime", 0),
    ],
)
def test_options_leave_only_their_targets(suite, quant, option, value, count):
    """`--quant-backend` and `--quant-scheme` filter before anything is run."""
    assert count == len(ids(quant("--collect-only", "-q", option, value, suite)))


def test_filters_are_repeatable(suite, quant):
    """Two schemes are both kept."""
    two = ("--quant-scheme", "int8", "--quant-scheme", "fp8_weight_only")
    assert 18 == len(ids(quant("--collect-only", "-q", *two, suite)))


def test_targets_of_the_nightly_are_asked_for(suite, quant):
    """Not collected before a merge, unless their scheme or backend is named."""
    file = suite / "suite.toml"
    text = file.read_text()
    file.write_text(text.replace('scheme = "int8"', 'scheme = "int8"\nnightly = true'))

    assert 9 == len(ids(quant("--collect-only", "-q", suite)))
    found = ids(quant("--collect-only", "-q", "--quant-scheme", "int8", suite))
    assert 9 == len(found)
    assert all("/int8/" in name for name in found)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("scheme =", "shceme =", "did you mean 'scheme'"),
        ('"int8"', '"int9"', "int9"),
        ('"torch"', '"tourch"', "tourch"),
        ("drift = 0.5", 'drift = "much"', "drift"),
        ("[suite]", "[suite", "suite.toml"),
    ],
)
def test_a_wrong_suite_is_one_clear_line(suite, quant, old, new, message):
    """File and line of the mistake, no traceback, and not green."""
    file = suite / "suite.toml"
    file.write_text(file.read_text().replace(old, new, 1))
    result = quant(suite)

    assert pytest.ExitCode.INTERRUPTED == result.ret
    text = result.stdout.str()
    assert message in text
    assert "suite.toml:" in text
    assert "Traceback" not in text


def test_a_plugin_that_is_not_there_is_named(suite, quant):
    """`--quant-plugin nowhere.py` fails the collection and says why."""
    result = quant("--quant-plugin", "nowhere.py", suite)

    assert pytest.ExitCode.INTERRUPTED == result.ret
    assert "nowhere.py" in result.stdout.str()


def test_the_options_explain_themselves(quant):
    """`pytest --help` has them in one group."""
    text = quant("--help").stdout.str()
    for option in ("backend", "scheme", "plugin", "report", "baseline", "record"):
        assert f"--quant-{option}" in text
