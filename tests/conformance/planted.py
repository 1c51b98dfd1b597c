"""A backend that is right, and the ways in which it can be made wrong.

`--plugin tests/conformance/planted.py` registers `planted` (right) and one backend
for each fault.
"""

from __future__ import annotations

import os

import numpy as np

from harness.backends.protocol import (
    Arithmetic,
    Artifact,
    Availability,
    QuantizedTensor,
    Support,
)
from harness.errors import BackendError
from harness.schemes.apply import plan_one, quantize_activation, quantize_weight
from harness.schemes.linear_algebra import add_bias, product

FAULTS = (
    "truncates",
    "wraps",
    "per_tensor",
    "fp16_sums",
    "noisy",
    "view",
    "silent",
    "lies",
    "batch",
    "nan",
    "crash",
)


class Planted:
    """Runs a model of one operator in NumPy."""

    def __init__(self, fault=""):
        self.name = f"planted-{fault}" if fault else "planted"
        self.fault = fault

    def probe(self):
        return Availability(available=True, version="1", device="cpu")

    def supports(self, model, scheme):  # noqa: ARG002
        return Support(supported=True)

    def load(self, model, scheme):
        return PlantedSession(model, scheme, self.fault)


class PlantedSession:
    """One operator, quantized exactly, and one fault."""

    def __init__(self, model, scheme, fault):
        self.operator = model.operators()[0]
        self.scheme = scheme
        self.fault = fault
        self.plan = plan_one(scheme, self.operator)
        self.quantized = quantize_weight(self.operator, scheme)
        self.weight = self.operator.weight
        if self.plan.weights:
            self.weight = self.quantized.dequantize()
        self.open = True
        self.buffer = None
        self.calls = 0

    def _activation(self, x):
        if not self.plan.activations:
            return x
        if self.fault == "per_tensor" and self.operator.kind == "linear":
            # One scale for all samples, though the scheme says one a row.
            factor = np.float32(np.abs(x).max())
            entry = quantize_activation(self.operator, x.reshape(1, -1), self.scheme)
            return entry.dequantize().reshape(x.shape) if factor else x
        entry = quantize_activation(self.operator, x, self.scheme)
        y = entry.dequantize()
        if self.fault == "truncates":
            # Round towards zero: one code too small wherever the nearest is above.
            y = np.where(np.abs(y) > np.abs(x), y * np.float32(1 - 2**-3), y)
        return y

    def run(self, inputs, *, capture=()):
        if not self.open and self.fault != "silent":
            raise BackendError("planted: closed, but should be open")
        if self.fault == "crash":
            os.abort()
        x = inputs["x"]
        if set(capture) - {"probe"}:
            raise BackendError(f"planted: no operators {sorted(capture)}")
        if self.fault == "wraps":
            limit = self.scheme.calibration["probe"]
            x = np.where(np.abs(x) > limit, -x, x)
        decoded = self._activation(np.asarray(x, np.float32))
        if self.fault == "nan":
            decoded = np.nan_to_num(decoded)
        wide = decoded.astype(np.float64)
        y = add_bias(
            self.operator,
            product(self.operator, wide, self.weight.astype(np.float64)),
        )
        if self.fault == "fp16_sums":
            with np.errstate(over="ignore"):
                y = y.astype(np.float16)
        y = np.asarray(y, np.float32)
        self.calls += 1
        if self.fault == "noisy":
            y = y * np.float32(1 + 2**-18 * (self.calls % 2))
        if self.fault == "batch" and len(x) > 1:
            y = y * np.float32(1.001)
        if self.fault == "view":
            if self.buffer is None or self.buffer.shape != y.shape:
                self.buffer = np.empty_like(y)
            self.buffer[...] = y
            y = self.buffer
        found = {"y": y}
        if capture:
            found |= {"probe": y, "probe/input": x}
        return found

    def close(self):
        self.open = False

    def arithmetic(self):
        return Arithmetic(execution="emulated", detail="NumPy")

    def artifact(self):
        if self.fault == "lies":
            return Artifact(activations=["probe"])
        weights = QuantizedTensor(
            format=self.quantized.format,
            stored_as="numbers",
            scales=self.quantized.scales,
            decoded=self.weight,
        )
        rounded = ["probe"] if self.scheme.activations else []
        return Artifact(weights={"probe": weights}, activations=rounded)


def register(registry):
    registry.add_backend(Planted())
    for fault in FAULTS:
        registry.add_backend(Planted(fault))
