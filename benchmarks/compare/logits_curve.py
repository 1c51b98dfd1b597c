"""Bytes a token against error, for golden logits kept in several ways.

    python benchmarks/compare/logits_curve.py FOLDER [--cases 2] [--tokens 256]

FOLDER, made by `smollm2_logits.py`, holds `reference.npy` and one `SCHEME.npy` for each
target, (cases, tokens, vocabulary), and `ids.npy`, the tokens. For each way the largest
error over schemes and cases of the mean KL of a case, relative where the exact KL is
above 0.01 and absolute below, is printed as a Markdown table.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from harness.compare.logits import compare_logits
from harness.golden.compact import CompactOutput
from harness.golden.compact_logits import encode_logits, log_softmax


def top_k(count: int) -> Callable[[Any, Any], float]:
    """KL over the k most likely tokens and the rest as one class: a lower bound."""

    def measure(reference: Any, candidate: Any) -> float:
        p, q = log_softmax(reference), log_softmax(candidate)
        kept = np.argpartition(-p, count, axis=1)[:, :count]
        a, b = (np.take_along_axis(x, kept, axis=1) for x in (p, q))
        rest = [np.log(np.maximum(1 - np.exp(x).sum(1), 1e-14)) for x in (a, b)]
        tail = np.exp(rest[0]) * (rest[0] - rest[1])
        return float(((np.exp(a) * (a - b)).sum(1) + tail).mean())

    return measure


def sampled(count: int) -> Callable[[Any, Any], float]:
    """What a golden keeps, with `count` tokens."""

    def measure(reference: Any, candidate: Any) -> float:
        tensors, bound = encode_logits(reference, entries=count)
        kept = CompactOutput("logits", reference.shape, "float32", tensors, bound)
        return compare_logits(kept, candidate).kl

    return measure


def llama_cpp(reference: Any, candidate: Any) -> float:
    """16-bit codes of the whole vocabulary, cut off 16 nats below the largest."""
    high = reference.max(axis=1, keepdims=True)
    low = np.maximum(reference.min(axis=1, keepdims=True), high - 16)
    scale = (high - low) / 65535
    codes = np.floor(np.clip((reference - low) / scale, 0, 65535))
    normal = np.log(np.exp((reference - high).astype(np.float64)).sum(1, keepdims=True))
    p = codes * scale + (low - high - normal)
    # As its own reader does, which leaves out what is no more than e**-16.
    terms = np.where(p > -16, np.exp(p) * (p - log_softmax(candidate)), 0.0)
    return float(terms.sum(axis=1).mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--cases", type=int, default=2)
    parser.add_argument("--tokens", type=int, default=256)
    arguments = parser.parse_args()
    names = sorted(
        path.stem
        for path in arguments.folder.glob("*.npy")
        if path.stem not in ("ids", "reference")
    )
    part = (slice(arguments.cases), slice(arguments.tokens))
    load = {
        name: np.load(arguments.folder / f"{name}.npy", mmap_mode="r")[part]
        for name in ["reference", *names]
    }
    width = load["reference"].shape[-1]
    ways = {
        **{f"top {k} + rest": (top_k(k), 4 * k) for k in (32, 96)},
        **{f"sampled, {k}": (sampled(k), 4 * k + 3) for k in (16, 32, 64, 96, 192)},
        "llama.cpp, whole": (llama_cpp, 2 * width + 8),
    }
    pairs = [
        (np.array(load["reference"][case]), np.array(load[name][case]))
        for name in names
        for case in range(arguments.cases)
    ]
    exact = np.array([compare_logits(*pair).kl for pair in pairs])
    large = exact > 0.01
    print(f"schemes {', '.join(names)}; KL {exact.min():.2g} to {exact.max():.2g}\n")
    print("| kept | bytes a token | error, KL > 0.01 | error, KL < 0.01 |")
    print("| --- | --- | --- | --- |")
    for name, (measure, size) in ways.items():
        found = np.array([measure(*pair) for pair in pairs])
        relative = np.abs(found / exact - 1)[large].max()
        absolute = np.abs(found - exact)[~large].max()
        print(f"| {name} | {size:,} | {relative:.2%} | {absolute:.1e} |", flush=True)


if __name__ == "__main__":
    main()
