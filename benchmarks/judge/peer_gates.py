"""Gates of other projects on two scores, decided as each project decides.

A gate sees the reference's and the candidate's share of right answers over n cases.
Read in the projects' own test code in 2026; names of files in the docstrings.
"""

# ruff: noqa: ARG001 - all gates and draws have one signature

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy.special import ndtri

#: (reference share, candidate share, cases) -> whether the gate fails.
Gate = Callable[[np.ndarray, np.ndarray, int], np.ndarray]


def tensorrt_llm(reference, candidate, cases):
    """One-sided two-sample z, alpha 0.05, sigma 50 on a scale of 100.

    tests/integration/defs/accuracy/accuracy_core.py
    """
    scale = np.sqrt(2 * 50.0**2 / cases)
    return 100 * candidate < 100 * reference + ndtri(0.05) * scale


def vllm_lm_eval(reference, candidate, cases):
    """numpy.isclose with rtol 0.08, both directions.

    .buildkite/lm-eval-harness/test_lm_eval_correctness.py
    """
    return ~np.isclose(reference, candidate, rtol=0.08)


def vllm_gsm8k(reference, candidate, cases):
    """At most 0.08 below the expected share.

    tests/evals/gsm8k/test_gsm8k_correctness.py
    """
    return candidate < reference - 0.08


def sglang(reference, candidate, cases):
    """The observed mean less five points, as thresholds are set by convention."""
    return candidate < reference - 0.05


def llm_compressor(reference, candidate, cases):
    """Recovery rounded to two decimals, at least 0.95.

    tests/lmeval/test_lmeval.py
    """
    recovery = candidate / np.maximum(reference, 1e-300)
    return np.round(recovery, 2) < 0.95


def modelopt(reference, candidate, cases):
    """A drop of more than 0.01 of the scale.

    plugins/modelopt/skills/day0-release/gate_compare.py
    """
    return reference - candidate > 0.01 + 1e-12


PEERS: dict[str, Gate] = {
    "TensorRT-LLM": tensorrt_llm,
    "vLLM rtol .08": vllm_lm_eval,
    "vLLM abs .08": vllm_gsm8k,
    "SGLang mean-5": sglang,
    "llm-compressor": llm_compressor,
    "ModelOpt 1 pt": modelopt,
}
