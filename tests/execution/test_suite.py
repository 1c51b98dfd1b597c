"""A suite.toml is read key by key, and every wrong one says where it is wrong."""

from pathlib import Path

import pytest

from harness.backends.protocol import Availability, Support
from harness.backends.registry import Registry
from harness.errors import ConfigError, UsageError
from harness.execution.selection import select
from harness.execution.suite import find_suites, load_suite
from harness.schemes.catalogue import SCHEMES

GOOD = """\
[suite]
name = "mine"
model = "model.onnx"
cases = "cases.jsonl"
reference = { backend = "torch", precision = "fp16" }

[[target]]
backend = "onnxruntime"
scheme = "fp8_e4m3"
required = true

[[target]]
backend = "torch"
scheme = "gentle"
budget = { drift = 0.5 }

[scheme.gentle]
base = "fp8_weight_only"
keep = ["*head*"]

[budget]
"y.kl" = 0.25

[[behaviour]]
kind = "argmax"
output = "y"
"""


@pytest.fixture
def write(tmp_path: Path):
    """Writes a suite.toml with its files beside it."""

    def write(text: str) -> Path:
        (tmp_path / "model.onnx").write_bytes(b"")
        (tmp_path / "cases.jsonl").write_text("")
        file = tmp_path / "suite.toml"
        file.write_text(text)
        return file

    return write


def test_a_good_suite_is_read_whole(write):
    """Every key of the contract arrives."""
    suite = load_suite(write(GOOD))

    assert "mine" == suite.name
    assert ["onnxruntime/fp8_e4m3", "torch/gentle"] == [t.name for t in suite.targets]
    assert suite.targets[0].required
    assert ("*head*",) == suite.targets[1].scheme.keep
    assert (0.25, "suite.toml:22") == suite.targets[0].budgets["y.kl"]
    assert 0.5 == suite.targets[1].budgets["drift"][0]
    assert "argmax" == suite.behaviours[0].name
    assert suite.folder / "golden" == suite.golden


def test_golden_of_a_shipped_suite_lies_beside_the_suites(tmp_path: Path):
    """suites/NAME/suite.toml has its golden in golden/NAME."""
    folder = tmp_path / "suites" / "mine"
    folder.mkdir(parents=True)
    for name in ("model.onnx", "cases.jsonl"):
        (folder / name).write_bytes(b"")
    (folder / "suite.toml").write_text(GOOD)

    assert tmp_path / "golden" / "mine" == load_suite(folder).golden


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("cases =", "casse =", r"suite\.toml:4: unknown key 'suite\.casse'; did you"),
        ("required = true", 'required = "yes"', r"toml:10: required='yes' is str"),
        ("[budget]", "[budgets]", r"toml:21: unknown key 'budgets'; did you mean 'bu"),
        ('"model.onnx"', '"none.onnx"', r"toml:3: suite\.model='none\.onnx': no such"),
        ('"fp8_e4m3"', '"fp8_e4m4"', r"toml:9: .*fp8_e4m4.*did you mean 'fp8_e4m3"),
        ('"argmax"', '"argmin"', r"toml:25: behaviour kind='argmin'.*argmax"),
        ("0.25", '"small"', r"toml:22: budget 'y\.kl'='small', but should be a num"),
        ("0.25", "nan", r"toml:22: budget 'y\.kl'=nan"),
        ("[suite]", "[suit]", r"toml:1: unknown key 'suit'"),
        ('"fp16"', '"fp17"', r"toml:5: reference\.precision='fp17'"),
        ('output = "y"', "", r"behaviour argmax: 'output' is missing"),
        ("keep =", "kepe =", r"toml:1[79]: .*kepe"),
        ('name = "mine"', 'name = "../x"', r"toml:2: suite\.name='\.\./x'"),
    ],
)
def test_a_wrong_suite_names_file_line_and_remedy(write, old, new, message):
    """Unknown keys, wrong types and missing files point at their line."""
    assert old in GOOD  # sanity check

    with pytest.raises(ConfigError, match=message):
        load_suite(write(GOOD.replace(old, new, 1)))


def test_a_suite_without_targets_is_refused(write):
    """Nothing passes vacuously: no target is an error, not a green run."""
    text = GOOD.split("[[target]]", 1)[0]

    with pytest.raises(ConfigError, match="nothing would be compared"):
        load_suite(write(text))


def test_a_target_twice_is_refused(write):
    """Two equal targets would hide each other."""
    twice = GOOD + '\n[[target]]\nbackend = "onnxruntime"\nscheme = "fp8_e4m3"\n'

    with pytest.raises(ConfigError, match="stands twice"):
        load_suite(write(twice))


def test_find_suites_refuses_what_is_not_there(tmp_path: Path):
    """A path without suites is wrong usage, never an empty green run."""
    with pytest.raises(UsageError, match="no such file"):
        find_suites([tmp_path / "missing"])
    with pytest.raises(UsageError, match=r"no suite\.toml"):
        find_suites([tmp_path])


def test_filters_that_match_nothing_are_refused(write):
    """A filter with a typo says what there is."""
    suite = load_suite(write(GOOD))

    assert 1 == len(select([suite], ["torch"], None))
    with pytest.raises(UsageError, match="did you mean 'onnxruntime'"):
        select([suite], ["onnxruntim"], None)
    with pytest.raises(UsageError, match="leave no target"):
        select([suite], ["torch"], ["fp8_e4m3"])


def test_targets_of_the_nightly_wait_for_it(write):
    """Left out before a merge; there at night, and where they are asked for."""
    suite = load_suite(write(GOOD.replace("required = true", "nightly = true")))

    def names(*filters, **more):
        return [target.name for _, target in select([suite], *filters, **more)]

    every = ["onnxruntime/fp8_e4m3", "torch/gentle"]
    assert every[1:] == names(None, None)
    assert every == names(None, None, nightly=True)
    assert every[:1] == names(["onnxruntime"], None)
    assert every[:1] == names(None, ["fp8_e4m3"])


class Stub:
    """A backend that is there, or not."""

    def __init__(self, name, available):
        self.name, self.available = name, available

    def probe(self):
        return Availability(available=self.available)

    def supports(self, *_):
        return Support(supported=True)

    def load(self, *_):
        raise NotImplementedError


def test_all_is_every_scheme_on_every_backend_that_is_there(write):
    """A suite's own targets stay as they are; what is not installed is left out."""
    suite = load_suite(write(GOOD))
    registry = Registry()
    for name, available in (("torch", True), ("onnxruntime", True), ("npu", False)):
        registry.add_backend(Stub(name, available))

    chosen = [t for _, t in select([suite], None, None, everything=registry)]
    some = select([suite], ["torch"], ["mxfp8", "gentle"], everything=registry)

    schemes = len(SCHEMES) + 1  # `gentle` is the suite's own
    assert len(chosen) == 2 * schemes
    assert {target.backend for target in chosen} == {"torch", "onnxruntime"}
    assert [t for t in chosen if t.required] == [t for t in suite.targets if t.required]
    assert {target.name for _, target in some} == {"torch/gentle", "torch/mxfp8"}
