"""Where IBM's aihwkit does otherwise than one would think: repros that need only it.

Each test states what should be and is expected to fail. One that passes fails the suite
(strict): then it has been mended, and the entry in docs/deviations.md goes. Measured
with 1.2.0, the torch tile on the CPU.
"""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("aihwkit", reason="in its own environment")


def deviates(reason, raises=AssertionError):
    """A test of what should be, on an engine of which it is known that it is not."""
    return pytest.mark.xfail(
        strict=True, raises=raises, reason=f"aihwkit 1.2.0: {reason}"
    )


def crossbar(layer, **noise):
    """A layer on a crossbar with converters that are exact, columns scaled alone."""
    from aihwkit.inference import GlobalDriftCompensation, PCMLikeNoiseModel
    from aihwkit.nn.conversion import convert_to_analog
    from aihwkit.simulator.configs import TorchInferenceRPUConfig

    made = TorchInferenceRPUConfig()
    made.forward.is_perfect = True
    made.mapping.weight_scaling_omega = 1.0
    made.mapping.weight_scaling_columnwise = True
    made.noise_model = PCMLikeNoiseModel(g_max=25.0, **noise)
    made.drift_compensation = GlobalDriftCompensation()
    return convert_to_analog(layer, made).eval()


@deviates("it is scaled by 1, whatever the others are")
def test_a_column_of_zeros_is_no_noisier_than_the_others():
    """Its noise is that of weights as large as 1."""
    torch.manual_seed(1)
    layer = torch.nn.Linear(64, 3, bias=False)
    with torch.no_grad():
        layer.weight.mul_(0.01)
        layer.weight[1] = 0
        x = torch.randn(500, 64)
        exact = layer(x)
        analog = crossbar(layer)
        analog.program_analog_weights()
        error = (analog(x) - exact).std(dim=0)
    assert error[1] < 2 * error[0]


def _module_error():
    from aihwkit.exceptions import ModuleError

    return ModuleError


@deviates("it needs an index that the torch tile has not", _module_error())
def test_a_convolution_along_one_axis_runs():
    """It is converted without a word and fails when it runs."""
    analog = crossbar(torch.nn.Conv1d(4, 8, 3))
    with torch.no_grad():
        assert analog(torch.randn(2, 4, 16)).shape == (2, 8, 14)


@deviates("the largest programmed weight becomes the largest conductance")
def test_one_weight_does_not_decide_how_the_others_are_read():
    """A weight's noise of reading is of its own conductance."""
    from aihwkit.inference import PCMLikeNoiseModel

    noise = PCMLikeNoiseModel(g_max=25.0, prog_noise_scale=0.0, drift_scale=0.0)
    spread = []
    for largest in (1.0, 1.5):
        torch.manual_seed(2)
        programmed = torch.full((10_000,), 0.5)
        programmed[0] = largest
        _, exponents = noise.apply_programming_noise(programmed)
        later = noise.apply_drift_noise(programmed, exponents, 86400.0)
        spread.append((later - programmed)[1:].std())
    assert torch.isclose(*spread, rtol=0.05)
