"""A backend that is right, and the ways in which it can be made wrong.

`--plugin tests/conformance/planted.py` registers `planted` (right) and one backend
for each fault.
"""

from __future__ import annotations

import os

import numpy as np
import onnx

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
from harness.schemes.outputs import output_grid

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
    "drops_inner",
    "drops_relu",
    "drops_result",
    "drops_inner_result",
    "truncates_result",
    "halves_second_reading",
)


class Planted:
    """Runs the models of conformance in NumPy."""

    def __init__(self, fault=""):
        self.name = f"planted-{fault}" if fault else "planted"
        self.fault = fault

    def probe(self):
        return Availability(available=True, version="1", device="cpu")

    def supports(self, model, scheme):  # noqa: ARG002
        return Support(supported=True)

    def load(self, model, scheme):
        return PlantedSession(model, scheme, self.fault)


class Layer:
    """One operator, quantized exactly, and one fault."""

    def __init__(self, operator, scheme, fault):
        self.operator = operator
        self.scheme = scheme
        self.fault = fault
        self.plan = plan_one(scheme, operator)
        self.quantized = quantize_weight(operator, scheme)
        self.weight = operator.weight
        if self.plan.weights:
            self.weight = self.quantized.dequantize()

    def _activation(self, x):
        if not self.plan.activations:
            return x
        if self.fault == "drops_inner" and self.operator.name == "second":
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

    def _result(self, y):
        grid = output_grid(self.operator, self.scheme)
        inner = self.operator.name == "first"
        if self.fault == "drops_result" or (
            self.fault == "drops_inner_result" and inner
        ):
            return y
        if self.fault == "truncates_result":
            return np.trunc(y / grid.scale) * grid.scale
        return grid.round(y)

    def __call__(self, x):
        if self.fault == "wraps":
            limit = self.scheme.calibration[self.operator.name]
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
        if self.plan.outputs:
            y = self._result(y)
        return np.asarray(y, np.float32)


class PlantedSession:
    """The nodes of a model one after another, and one fault."""

    def __init__(self, model, scheme, fault):
        self.layers = {o.name: Layer(o, scheme, fault) for o in model.operators()}
        self.nodes = list(onnx.load(model.path).graph.node)
        self.scheme = scheme
        self.fault = fault
        self.open = True
        self.buffer = None
        self.calls = 0

    def _values(self, x):
        """Every tensor by name. An operator's bias is part of it."""
        found = {"x": x}
        for node in self.nodes:
            known = [found[name] for name in node.input if name in found]
            if node.name in self.layers:
                y = self.layers[node.name](known[0])
            elif node.op_type == "Relu" and self.fault != "drops_relu":
                y = np.maximum(known[0], 0)
            else:
                y = sum(known)
            found[node.output[0]] = y
            if self.fault == "halves_second_reading" and node.op_type == "Relu":
                # What was before the Relu is read once more, if at all, by a sum.
                found[node.input[0]] = known[0] / 2
        return found

    def run(self, inputs, *, capture=()):
        if not self.open and self.fault != "silent":
            raise BackendError("planted: closed, but should be open")
        if self.fault == "crash":
            os.abort()
        x = inputs["x"]
        if set(capture) - {"probe"}:
            raise BackendError(f"planted: no operators {sorted(capture)}")
        y = self._values(np.asarray(x, np.float32))["y"]
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
        layer = self.layers["probe"]
        weights = QuantizedTensor(
            format=layer.quantized.format,
            stored_as="numbers",
            scales=layer.quantized.scales,
            decoded=layer.weight,
        )
        rounded = ["probe"] if self.scheme.activations else []
        return Artifact(weights={"probe": weights}, activations=rounded)


def register(registry):
    registry.add_backend(Planted())
    for fault in FAULTS:
        registry.add_backend(Planted(fault))
