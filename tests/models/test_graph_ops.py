"""Every operator of the table gives what the ONNX standard's own cases say."""

from __future__ import annotations

import functools
import warnings
from collections import defaultdict

import numpy as np
import onnx
import pytest
import torch

from harness.errors import UnsupportedError
from harness.models.graph_module import GraphModule
from harness.models.graph_ops import OPS
from harness.models.onnx_normalize import normalize

#: What torch says it does not run, and the words in which it says so.
REFUSED = {
    "AveragePool": ("dilated", "unequal pads"),
    "Cast": ("Cast to ONNX type",),
    "ConvTranspose": ("output_shape",),
    "MaxPool": ("indices", "ceil_mode"),
    "QuantizeLinear": ("to no integer",),
    "Resize": ("coordinate_transformation_mode", "with align_corners"),
}
#: Element types of tensors that NumPy or torch do not compute with.
FOREIGN = frozenset(
    {onnx.TensorProto.STRING, onnx.TensorProto.UINT4, onnx.TensorProto.INT4}
    | {onnx.TensorProto.UINT2, onnx.TensorProto.INT2, onnx.TensorProto.FLOAT4E2M1}
    | {onnx.TensorProto.UINT16, onnx.TensorProto.UINT32, onnx.TensorProto.UINT64}
    | set(range(17, 21))
    | {24}
)


@functools.cache
def standard_cases() -> dict[str, list]:
    """The ONNX standard's single-node cases by operator; seven seconds, once."""
    from onnx.backend.test.loader import load_model_tests

    found = defaultdict(list)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for case in load_model_tests(kind="node"):
            if len(case.model.graph.node) == 1:
                found[case.model.graph.node[0].op_type].append(case)
    return found


def runnable(case) -> bool:
    """Whether all tensors are of types that NumPy and torch compute with."""
    graph = case.model.graph
    values = [*graph.input, *graph.output]
    kinds = {v.type.tensor_type.elem_type for v in values}
    typed = all(v.type.HasField("tensor_type") for v in values)
    training = any(
        a.name == "training_mode" and a.i for n in graph.node for a in n.attribute
    )
    named = case.name
    return typed and not kinds & FOREIGN and not training and "training" not in named


def array(value) -> np.ndarray:
    """A value of a case as an array; bfloat16 as float32."""
    if isinstance(value, onnx.TensorProto):
        value = onnx.numpy_helper.to_array(value)
    value = np.asarray(value)
    return value.astype(np.float32) if value.dtype.name == "bfloat16" else value


def roundoff(case) -> float:
    """Half the distance of neighbours in the narrowest type of the case."""
    kinds = {v.type.tensor_type.elem_type for v in case.model.graph.output}
    return 2**-8 if onnx.TensorProto.BFLOAT16 in kinds else 2**-11


def run_case(case, edit=None) -> list[str]:
    """What differs between torch and the case; nothing when all is well."""
    model = case.model
    double = any(
        v.type.tensor_type.elem_type == onnx.TensorProto.DOUBLE
        for v in [*model.graph.input, *model.graph.output]
    )
    module = GraphModule(normalize(model))
    module = module.double() if double else module
    names = [v.name for v in model.graph.input]
    present = [n for n in model.graph.node[0].output if n]
    faults = []
    for inputs, outputs in case.data_sets:
        feeds = {
            n: torch.from_numpy(array(v).copy())
            for n, v in zip(names, inputs, strict=True)
        }
        with torch.inference_mode():
            result = module(**feeds)
        for name, wanted in zip(present, map(array, outputs), strict=True):
            found = result[name].numpy()
            found = found + edit if edit is not None else found
            if found.dtype.kind != wanted.dtype.kind or found.shape != wanted.shape:
                faults.append(f"{name}: {found.dtype} {found.shape}")
            elif not np.allclose(
                found.astype(np.float64),
                wanted.astype(np.float64),
                rtol=max(case.rtol, roundoff(case)),
                atol=max(case.atol, 1e-6),
                equal_nan=True,
            ):
                faults.append(f"{name}: values")
    return faults


@pytest.mark.quant_slow
@pytest.mark.parametrize("op", sorted(OPS))
def test_operator_equals_the_standard(op):
    """Each case of the standard is met, or refused in the words that say why."""
    cases = [case for case in standard_cases()[op] if runnable(case)]
    met, wrong = 0, {}
    for case in cases:
        try:
            faults = run_case(case)
        except UnsupportedError as error:
            if not any(words in str(error) for words in REFUSED.get(op, ())):
                wrong[case.name] = str(error)
            continue
        except Exception as error:  # noqa: BLE001 - every case is reported at once
            faults = [f"{type(error).__name__}: {error}"]
        if faults:
            wrong[case.name] = faults
        met += not faults

    assert not wrong
    assert met, "no case of the standard was run"


@pytest.mark.quant_slow
def test_a_wrong_value_is_seen():
    """The comparison above fails when every element is off by a hundredth."""
    case = next(c for c in standard_cases()["Relu"] if c.name == "test_relu")

    assert run_case(case) == []
    assert run_case(case, edit=0.01) == ["y: values"]
