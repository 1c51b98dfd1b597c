"""Where IREE does not compute what its graph says: repros that need only IREE.

Each test states what the ONNX specification and its evaluator say and is expected to
fail. One that passes fails the suite (strict): then the compiler has been mended, and
the entry in docs/deviations.md goes. Measured with 3.13.0 for llvm-cpu.
"""

from __future__ import annotations

import io

import numpy as np
import onnx.reference
import onnx.shape_inference
import pytest
from onnx import helper, numpy_helper

pytest.importorskip("iree.compiler", reason="in its own environment")

#: A compilation each.
pytestmark = pytest.mark.quant_slow

node = helper.make_node


def deviates(reason, raises=AssertionError):
    """A test of what should be, on an engine of which it is known that it is not."""
    return pytest.mark.xfail(
        strict=True, raises=raises, reason=f"iree 3.13.0: {reason}"
    )


class DoesNotCompileError(Exception):
    """The compiler's own error."""


class DoesNotRunError(Exception):
    """The runtime's own error."""


def run(nodes, tensors, *inputs, axes=None):
    """A bare graph from `x0`, `x1`, ... to `y`, by IREE and by the specification."""
    import iree.runtime as rt
    from iree.compiler import CompilerToolError, compile_str
    from iree.compiler.extras import onnx_importer
    from iree.compiler.ir import Context

    ends = [
        helper.make_tensor_value_info(
            f"x{i}", helper.np_dtype_to_tensor_dtype(x.dtype), axes or x.shape
        )
        for i, x in enumerate(inputs)
    ]
    kept = [numpy_helper.from_array(np.asarray(v), k) for k, v in tensors.items()]
    end = helper.make_tensor_value_info("y", 1, None)
    graph = helper.make_graph(nodes, "main", ends, [end], kept)
    opset = [helper.make_opsetid("", 21)]
    model = helper.make_model(graph, opset_imports=opset, ir_version=10)
    feeds = {f"x{i}": x for i, x in enumerate(inputs)}
    wanted = onnx.reference.ReferenceEvaluator(model).run(None, feeds)[0]
    inferred = onnx.shape_inference.infer_shapes(model, data_prop=True)
    info = onnx_importer.ModelInfo(inferred)
    module = info.create_module(context=Context()).operation
    onnx_importer.NodeImporter.define_function(info.main_graph, module).import_all()
    buffer = io.BytesIO()
    module.write_bytecode(buffer)
    try:
        data = compile_str(
            buffer.getvalue(), target_backends=["llvm-cpu"], input_type="onnx"
        )
    except CompilerToolError as error:
        raise DoesNotCompileError(str(error)[-500:]) from None
    config = rt.Config("local-sync")
    loaded = rt.VmModule.copy_buffer(config.vm_instance, data)
    hal = rt.create_hal_module(config.vm_instance, config.device)
    context = rt.SystemContext(vm_modules=[hal, loaded], config=config)
    function = context.modules[loaded.name]["main"]
    try:
        found = np.array(function(*inputs).to_host())
    except (ValueError, RuntimeError) as error:
        raise DoesNotRunError(str(error)) from None
    return found, wanted


def nan():
    """NaN among numbers."""
    return np.float32([[np.nan, 1, -2]])


def reflected(padding):
    """(found, wanted) of 100 numbers with some reflected at the end."""
    pads = {"p": np.array([0, 0, 0, padding])}
    x = np.arange(100, dtype=np.float32)[None]
    return run([node("Pad", ["x0", "p"], ["y"], mode="reflect")], pads, x)


def strided(length):
    """(found, wanted) of a Conv with kernel 3, stride 2 and padding 1."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((1, 4, length)).astype(np.float32)
    w = rng.standard_normal((4, 4, 3)).astype(np.float32)
    conv = node("Conv", ["x0", "w"], ["y"], pads=[1, 1], strides=[2])
    return run([conv], {"w": w}, x)


def test_what_is_not_found_fault_with():
    """Abs of NaN is NaN, few numbers are reflected, three are convolved."""
    assert np.array_equal(*run([node("Abs", ["x0"], ["y"])], {}, nan()), equal_nan=True)
    assert np.array_equal(*reflected(4))
    assert np.allclose(*strided(3), atol=1e-5)


@deviates("Min and Max of NaN and a number are the number")
@pytest.mark.parametrize("kind", ["Min", "Max"])
def test_the_smaller_of_nan_and_a_number_is_nan(kind):
    """As in NumPy, by which the specification's evaluator computes them."""
    found, wanted = run([node(kind, ["x0", "c"], ["y"])], {"c": np.float32(6)}, nan())

    assert np.array_equal(found, wanted, equal_nan=True)


@deviates("Sign of NaN is 0")
def test_the_sign_of_nan_is_nan():
    """As in NumPy."""
    assert np.array_equal(
        *run([node("Sign", ["x0"], ["y"])], {}, nan()), equal_nan=True
    )


@deviates("float32 numbers below 2^-126 are 0")
def test_small_constants_are_kept():
    """A constant of 1e-40 times 100 is 1e-38."""
    x = np.full((1, 8), 100, np.float32)

    found, wanted = run(
        [node("Mul", ["x0", "c"], ["y"])], {"c": np.full(8, 1e-40, np.float32)}, x
    )

    assert np.array_equal(found, wanted)


@deviates("a Pad that reflects 64 numbers does not compile", DoesNotCompileError)
def test_many_numbers_are_reflected():
    """Silero VAD's first operator."""
    assert np.array_equal(*reflected(64))


@deviates("a Conv of two numbers with stride 2 does not compile", DoesNotCompileError)
def test_two_numbers_are_convolved_with_a_stride():
    """Silero VAD's third convolution."""
    assert np.allclose(*strided(2), atol=1e-5)


@deviates("Expand of an axis whose length is only known when it runs", DoesNotRunError)
def test_an_axis_of_length_one_is_expanded():
    """MiniLM's position ids, (1, tokens) to (sentences, tokens)."""
    nodes = [
        node("Shape", ["x0"], ["s"]),
        node("Expand", ["x1", "s"], ["y"]),
    ]
    one = np.arange(3, dtype=np.float32)[None]
    found, wanted = run(nodes, {}, np.zeros((2, 3), np.float32), one, axes=["n", "t"])

    assert np.array_equal(found, wanted)
