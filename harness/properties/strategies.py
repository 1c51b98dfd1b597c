"""Hypothesis strategies for tensors that break quantizers, and running a property."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from harness.numerics.formats import Format
from harness.properties.checks import Property
from harness.properties.quantizer import Array, Quantizer

#: Magnitudes that stay clear of what no float32 scale can hold, products included.
_LIMIT: Final = float(np.float32(2.0**100))
#: In "moderate" tensors: far from the ends of E8M0, within reach of an E4M3 scale.
_MODERATE: Final = (2.0**-4, 2.0**4)


def load_profiles() -> None:
    """Register the profiles `gate` (derandomised), `dev`, `nightly`; no deadlines."""
    common: dict[str, Any] = {
        "deadline": None,
        "suppress_health_check": [HealthCheck.too_slow, HealthCheck.data_too_large],
        "print_blob": True,
    }
    settings.register_profile("gate", derandomize=True, max_examples=60, **common)
    settings.register_profile("dev", max_examples=200, **common)
    settings.register_profile("nightly", max_examples=5000, **common)


def _pool(fmt: Format) -> list[float]:
    """Values, ties and their neighbours, simplest first: where shrinking ends."""
    table = fmt.decoded[np.isfinite(fmt.decoded)].astype(np.float64)
    values = np.unique(np.abs(table))[-24:]
    ties = (values[1:] + values[:-1]) / 2
    narrow = ties.astype(np.float32)
    around = np.concatenate(
        [
            narrow,
            np.nextafter(narrow, np.float32(0)),
            np.nextafter(narrow, np.float32(np.inf)),
        ]
    )
    positive = np.unique(np.concatenate([values, around])).tolist()
    ordered = [0.0, 1.0, *positive]
    return [*ordered, *(-v for v in ordered)]


def numbers(fmt: Format, needs: str) -> st.SearchStrategy[float]:
    """One float32: the format's values and ties, or any bits."""
    if needs == "moderate":
        low, high = _MODERATE
        sized = st.floats(low, high, width=32)
        return st.one_of(
            st.sampled_from([1.0, 1.5, 2.0, 3.0, 1.25, 1.75]),
            sized,
            sized.map(lambda v: -v),
        )
    return st.one_of(
        st.sampled_from(_pool(fmt)),
        st.floats(-_LIMIT, _LIMIT, width=32, allow_subnormal=True),
    )


def _family(name: str, shape: tuple[int, int], seed: int, fmt: Format) -> Array:
    """A seeded tensor of an adversarial family."""
    generator = np.random.default_rng(seed)
    x = generator.standard_normal(shape)
    if name == "outlier":
        x[:, :: max(fmt.block, 16)] *= 1000.0
    elif name == "mixed":
        x *= np.exp2(generator.integers(-20, 20, shape))
    elif name == "subnormal":
        x *= 2.0**-130
    elif name == "constant":
        x[:] = x[0, 0]
    elif name == "power":
        x = np.clip(x, -1, 1)
        x[:, :: max(fmt.block, 16)] = 2.0 ** float(generator.integers(-9, 9))
    elif name == "ties":
        pool = np.array(_pool(fmt))
        x = pool[generator.integers(0, pool.size, shape)]
    elif name == "negative":
        x = -np.abs(x)
    return np.clip(x, -_LIMIT, _LIMIT).astype(np.float32)


FAMILIES: Final = (
    "normal",
    "outlier",
    "ties",
    "power",
    "constant",
    "negative",
    "mixed",
    "subnormal",
)
#: Those whose scales lie where "moderate" properties hold.
_TAME: Final = ("normal", "constant", "negative")


@st.composite
def small_tensors(
    draw: st.DrawFn, quantizer: Quantizer, needs: str = "finite"
) -> Array:
    """float32 (1, n) of at most a block of values, each as simple as can be.

    "grid" puts them beside the border of two blocks of zeros, or across it.

    Args:
        draw: given by Hypothesis.
        quantizer: whose format and block size matter.
        needs: see `Property`.
    """
    size = quantizer.size or 8
    element = numbers(quantizer.element, needs)
    values = draw(st.lists(element, min_size=1, max_size=size))
    if needs != "grid":
        return np.array([values], np.float32)
    x = np.zeros((1, 2 * size), np.float32)
    at = size - draw(st.integers(0, len(values)))
    x[0, at : at + len(values)] = values
    return x


@st.composite
def family_tensors(
    draw: st.DrawFn, quantizer: Quantizer, needs: str = "finite"
) -> Array:
    """float32 (rows, n) of a seeded adversarial family, blocks and a tail.

    Args:
        draw: given by Hypothesis.
        quantizer: whose format and block size matter.
        needs: see `Property`.
    """
    size = quantizer.size or 8
    name = draw(st.sampled_from(_TAME if needs == "moderate" else FAMILIES))
    rows = draw(st.integers(1, 3))
    n = draw(st.integers(2 * size if needs == "grid" else 1, 3 * size + 1))
    x = _family(name, (rows, n), draw(st.integers(0, 2**16)), quantizer.fmt)
    if needs == "moderate":
        x = np.copysign(np.clip(np.abs(x), *_MODERATE), x).astype(np.float32)
    return x


def tensors(quantizer: Quantizer, needs: str = "finite") -> st.SearchStrategy[Array]:
    """Small tensors, and those of the families."""
    return st.one_of(small_tensors(quantizer, needs), family_tensors(quantizer, needs))


def check(quantizer: Quantizer, entry: Property, *, profile: str = "gate") -> None:
    """Run a property.

    Args:
        quantizer: what is under test.
        entry: the property.
        profile: "gate" (the same examples every time), "dev" or "nightly".

    Raises:
        AssertionError: with the smallest example that was found.
    """
    load_profiles()

    def holds(x: Array) -> None:
        with np.errstate(all="ignore"):
            entry.check(quantizer, x)

    base = settings(
        settings.get_profile(profile),
        phases=[Phase.generate, Phase.shrink],
        report_multiple_bugs=False,
    )
    # Small ones first, alone: what fails there shrinks to a few numbers, which a seeded
    # tensor cannot.
    for source in (small_tensors, family_tensors):
        base(given(source(quantizer, entry.needs))(holds))()
