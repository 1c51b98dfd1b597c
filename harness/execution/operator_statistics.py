"""What a golden keeps of an operator: its input's range, tails and outliers."""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from harness.models.types import Operator

Array = np.ndarray[Any, np.dtype[Any]]

#: A channel is an outlier from this many times the median channel's largest magnitude
#: on: the threshold of LLM.int8() (arXiv 2208.07339, section 3.2), which is 6 for
#: hidden states whose other channels are about one.
OUTLIER: Final = 6.0
#: Outlier channels that are named, the largest first.
NAMED: Final = 8


class OperatorStatistics:
    """Running statistics of an operator's input over all cases.

    Channels are what the operator sums over: the last axis of a linear layer's input,
    the second of a convolution's.

    Args:
        operator: whose inputs are added.
        sample: values a call that quantiles are taken from, about; None: all. Of a
            language model's hundreds of operators they take longer than the model.
    """

    def __init__(self, operator: Operator, *, sample: int | None = None) -> None:
        self.sample = sample
        self.axis = -1 if operator.kind == "linear" else 1
        self.amax = 0.0
        self.output_amax = 0.0
        self.total = 0.0
        self.square = 0.0
        self.elements = 0
        self.quantiles: list[Array] = []
        self.channels = np.zeros(0)

    def add(self, x: Array, y: Array) -> None:
        """Take in one call's input and output; an empty one says nothing."""
        if not x.size:
            return
        if y.size:
            largest = np.abs(np.asarray(y, np.float64)).max()
            self.output_amax = max(self.output_amax, float(largest))
        wide = np.asarray(x, dtype=np.float64)
        magnitude = np.abs(wide)
        self.amax = max(self.amax, float(magnitude.max()))
        self.total += float(wide.sum())
        self.square += float(np.square(magnitude).sum())
        self.elements += x.size
        step = 1 if self.sample is None else max(1, x.size // self.sample)
        # Odd, so that it does not visit the same few channels of every row.
        seen = magnitude.ravel()[:: step | 1]
        self.quantiles.append(np.quantile(seen, [0.5, 0.99, 0.999]))
        others = tuple(i for i in range(x.ndim) if i != self.axis % x.ndim)
        largest = magnitude.max(axis=others)
        if len(self.channels) != len(largest):
            self.channels = np.zeros(len(largest))
        np.maximum(self.channels, largest, out=self.channels)

    def as_dict(self) -> dict[str, Any]:
        """Plain values.

        amax, that of the output, mean, rms, norm; medians over calls of three quantiles
        of |x|; channels, how many of them are outliers, the largest of those as
        [channel, amax] and the ratio of the largest to the median channel (0 where the
        median is 0).
        """
        count = max(self.elements, 1)
        table = np.array(self.quantiles) if self.quantiles else np.zeros((1, 3))
        median = np.median(table, axis=0)
        return {
            "amax": self.amax,
            "output_amax": self.output_amax,
            "mean": self.total / count,
            "rms": float(np.sqrt(self.square / count)),
            "norm": float(np.sqrt(self.square)),
            "abs_p50": float(median[0]),
            "abs_p99": float(median[1]),
            "abs_p999": float(median[2]),
            "elements": float(self.elements),
            **self._outliers(),
        }

    def _outliers(self) -> dict[str, Any]:
        typical = float(np.median(self.channels)) if self.channels.size else 0.0
        beyond = np.flatnonzero(self.channels >= OUTLIER * typical)
        if typical == 0:
            beyond = beyond[:0]
        order = beyond[np.argsort(-self.channels[beyond], kind="stable")][:NAMED]
        return {
            "channels": len(self.channels),
            "outliers": len(beyond),
            "outlier_channels": [[int(i), float(self.channels[i])] for i in order],
            "channel_ratio": self.amax / typical if typical else 0.0,
        }
