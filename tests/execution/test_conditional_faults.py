"""Faults that show only sometimes: averages miss them, the suite does not."""

from __future__ import annotations

import pytest

from harness.execution.api import record, run
from tests.models.tiny_language import cached_in, write_tiny_suite

pytestmark = pytest.mark.quant_slow

#: What follows `HEAD` of `tiny_language`.
SUITE = """\
batch = 8

[scheme.fp8_weight_only]
base = "fp8_weight_only"
keep = ["lm_head"]

[budget]
drift = 1.0
"""
FAULTS = ("sound", "digits", "batch", "stale")
PLUGIN = """\
import torch
from harness.backends.torch_backend import TorchBackend

def sound(module):
    pass

def digits(module):
    # The letters of the tiny vocabulary start at 3, in the order of the bytes.
    ids = torch.tensor([3 + byte for byte in b"0123456789"])
    def scale(_, inputs, output):
        return torch.where(torch.isin(inputs[0], ids)[..., None], output * 1.05, output)
    module.model.embed_tokens.register_forward_hook(scale)

def batch(module):
    def weaken(_, inputs, output):
        output = output.clone()
        output[4:] *= 0.97
        return output
    module.model.layers[0].mlp.register_forward_hook(weaken)

def stale(module):
    make = module.new_cache
    def stale_cache():
        cache = make()
        update = cache.layers[0].update
        def forget(keys, values, *args, **kwargs):
            both = update(keys, values, *args, **kwargs)
            if both[0].shape[-2] > keys.shape[-2]:
                both = tuple(part.clone() for part in both)
                for part in both:
                    part[:, 0, 3] = 0
            return both
        cache.layers[0].update = forget
        return cache
    module.new_cache = stale_cache

class Planted(TorchBackend):
    def __init__(self, fault):
        super().__init__()
        self.name, self.fault = f"torch-{fault.__name__}", fault
    def load(self, model, scheme):
        session = super().load(model, scheme)
        self.fault(session._module)
        return session

def register(registry):
    for fault in (sound, digits, batch, stale):
        registry.add_backend(Planted(fault))
"""
WORDS = ("the", "sea", "was", "calm", "and", "an", "old", "boat", "lay", "near", "us")


def records():
    """Texts of a few lengths, so that some are stacked; four have digits."""
    for index in range(40):
        words = [
            WORDS[(index * 7 + i * (1 + index % 3)) % len(WORDS)] for i in range(9)
        ]
        text = " ".join(words)[:30]
        if index % 10 == 0:
            text = text[:-4] + f" {index:03d}"
        yield {"id": f"c{index}", "text": text, "tags": []}


@pytest.fixture(scope="module")
def targets(tmp_path_factory):
    """Every fault's target, by name."""
    folder = tmp_path_factory.mktemp("suites") / "tiny"
    tables = [
        f'[[target]]\nbackend = "torch-{fault}"\nscheme = "fp8_weight_only"\n'
        for fault in FAULTS
    ]
    write_tiny_suite(folder, "\n".join([SUITE, *tables]), records(), seed=5)
    (folder / "plugin.py").write_text(PLUGIN)
    plugins = [str(folder / "plugin.py")]
    with cached_in(folder):
        record([folder], plugins=plugins, allow_ci=True, allow_dirty=True)
        report = run([folder], plugins=plugins, out=folder / "run")
    return {t.backend.removeprefix("torch-"): t for t in report.targets}


def test_the_sound_backend_passes(targets):
    """So what fails below fails for its fault."""
    assert "pass" == str(targets["sound"].verdict)


@pytest.mark.parametrize("fault", FAULTS[1:])
def test_averages_do_not_move(targets, fault):
    """Mean KL and the share of unchanged tokens stay within the sound's intervals."""
    for name in ("logits.kl", "logits.top1_agreement"):
        sound = targets["sound"].measurements[name]
        own = targets[fault].measurements[name]
        assert sound.low <= own.value <= sound.high, name


@pytest.mark.parametrize(
    ("fault", "check"),
    [("digits", "explained"), ("batch", "stability"), ("stale", "stability")],
)
def test_the_suite_sees_the_fault(targets, fault, check):
    """By the check that looks there."""
    target = targets[fault]

    assert target.verdict.fails
    assert check in {c.check for c in target.checks if c.verdict.fails}
