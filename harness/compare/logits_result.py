"""The result of comparing logits: divergences by row and over all rows."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]

#: Quantiles over rows of KL and of the change of probability.
ROW_QUANTILES: Final = (0.01, 0.1, 0.5, 0.9, 0.99, 0.999)


@dataclass(frozen=True, kw_only=True, eq=False)
class LogitsComparison:
    """Divergences in nats, by row and over all rows.

    Where there is a `problem` every distance has its worst value.
    """

    problem: str = ""
    rows: int = 0
    #: Mean over rows of KL(reference || target), KL(target || reference) and JS.
    kl: float = math.inf
    reverse_kl: float = math.inf
    js: float = math.inf
    #: Standard error of `kl` from what the golden left out; 0 on full logits.
    kl_standard_error: float = 0.0
    kl_quantiles: Mapping[float, float] = field(default_factory=dict)
    kl_max: float = math.inf
    #: Share of rows with the same most likely token.
    top1_agreement: float = 0.0
    #: Mean share of the reference's five most likely tokens among the target's five.
    top5_agreement: float = 0.0
    #: Rows whose most likely token is another one, and the first of them.
    flips: int = 0
    first_divergence: int | None = None
    #: Rows with a right token; the change of its probability (target - reference).
    labelled: int = 0
    delta_p: float = 0.0
    delta_p_rms: float = math.inf
    delta_p_max: float = math.inf
    delta_p_quantiles: Mapping[float, float] = field(default_factory=dict)
    #: exp(mean(log p - log q)) of the right tokens; None without right tokens.
    perplexity: float | None = None
    perplexity_ratio: float | None = None
    #: KL of each row, for tests that pair or cluster rows; the flips likewise.
    kl_rows: Array = field(default_factory=lambda: np.zeros(0))
    flip_rows: Array = field(default_factory=lambda: np.zeros(0, bool))
    delta_p_rows: Array = field(default_factory=lambda: np.zeros(0))

    def as_dict(self) -> dict[str, Any]:
        """Plain values, without the rows."""
        found = {
            name: getattr(self, name)
            for name in self.__dataclass_fields__
            if not name.endswith("_rows")
        }
        for name in ("kl_quantiles", "delta_p_quantiles"):
            found[name] = {str(q): value for q, value in found[name].items()}
        return found
