"""Our statistics of two KL base files are those that llama.cpp's own tool prints.

`llama_perplexity/` holds two base files of a random model of a few thousand weights
(F16 and Q4_0, `tests/models/tiny_gguf.py`, seed 5), and what `llama-perplexity
--kl-divergence` of llama.cpp (ggml 0.25.3, built from llama-cpp-python 0.3.36) printed
of the second against the first.
"""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import numpy as np
import pytest

from harness.compare.logits import compare_logits
from harness.errors import UsageError
from harness.golden.interchange import kl_statistics, read_kl_base

FOLDER = Path(__file__).parent / "llama_perplexity"
#: Half of the last digit that is printed, and half a code of the candidate's 16 bits:
#: its log-probabilities span at most 16 nats.
HALF_CODE = 16 / 65535 / 2
THREE_DIGITS = 5e-4


@pytest.fixture(scope="module")
def sides():
    return [read_kl_base(FOLDER / f"{side}.kld") for side in ("base", "candidate")]


@pytest.fixture(scope="module")
def found(sides):
    return kl_statistics(*sides)


def printed():
    """Name -> number as printed, in natural units."""
    values = {}
    section = ""
    for line in (FOLDER / "printed.txt").read_text().splitlines():
        section = "delta_p" if "Token probability" in line else section
        match = re.match(r"\s*(.+?)\s*:\s*(-?\d+\.\d+)", line)
        if match is None:
            continue
        scale = 100 if line.rstrip().endswith("%") else 1
        values[" ".join(match[1].split())] = float(match[2]) / scale
    return values


def pairs(found):
    """What was printed beside what we compute."""
    names = {
        "Mean PPL(Q)": found.perplexity,
        "Mean PPL(base)": found.base_perplexity,
        "Cor(ln(PPL(Q)), ln(PPL(base)))": found.correlation,
        "Mean ln(PPL(Q)/PPL(base))": found.log_ratio,
        "Mean PPL(Q)/PPL(base)": found.ratio,
        "Mean PPL(Q)-PPL(base)": found.difference,
        "Mean KLD": found.kl,
        "Maximum KLD": found.kl_max,
        "Median KLD": found.kl_median,
        "Minimum KLD": found.kl_min,
        "Mean Δp": found.delta_p,
        "Maximum Δp": found.delta_p_max,
        "Median Δp": found.delta_p_median,
        "Minimum Δp": found.delta_p_min,
        "RMS Δp": found.delta_p_rms,
        "Same top p": found.same_top,
    }
    names |= {f"{100 * s:.1f}% KLD": v for s, v in found.kl_percentiles.items()}
    return names | {
        f"{100 * s:.1f}% Δp": v for s, v in found.delta_p_percentiles.items()
    }


def test_every_printed_number_is_ours_to_three_digits(found):
    """Perplexities, KL, its percentiles, the change of probability, same top."""
    numbers, ours = printed(), pairs(found)

    assert set(numbers) == set(ours)
    for name, number in numbers.items():
        # Perplexities have six decimals, percentages three: 5e-6 of a share.
        last = 5e-6 if "p" in name.split()[-1] else 5e-7
        assert abs(ours[name] - number) <= THREE_DIGITS * abs(number) + last + (
            HALF_CODE if "KLD" in name and abs(number) < 0.05 else 0
        ), name


def test_another_candidate_does_not_agree(sides, found):
    """The check can fail: the base against itself prints other numbers."""
    other = pairs(kl_statistics(sides[0], sides[0]))

    assert abs(other["Mean KLD"] - printed()["Mean KLD"]) > 0.01
    assert other["Same top p"] == 1.0


def test_a_true_distribution_is_near_by(sides, found):
    """Without its habits the mean KL is the same but for what 16 bits leave out."""
    base, candidate = sides
    parts = [
        compare_logits(*(s.log_probabilities(chunk) for s in (base, candidate)))
        for chunk in range(base.chunks)
    ]
    mean = np.mean([part.kl for part in parts])

    assert abs(mean - found.kl) < 1e-3 * found.kl + 2 * HALF_CODE


def test_files_of_other_texts_are_refused(sides):
    """Tokens differ: the message names both files."""
    base, candidate = sides
    tokens = candidate.tokens.copy()
    tokens[0, 0] += 1

    with pytest.raises(UsageError, match=r"candidate\.kld.*base\.kld"):
        kl_statistics(base, dataclasses.replace(candidate, tokens=tokens))
