"""A small network for backends that compute in analog cells, and samples of it."""

from __future__ import annotations

import numpy as np

from harness.models.torch_model import TorchModel


def network(**deep):
    """Model: x (N, 4, 6, 6) -> Conv2d, Relu, Conv1d, Relu, mean, Linear -> (N, 16).

    All float32; its operators are "flat", "deep" and "fc".

    Args:
        deep: options of the Conv1d, of 12 channels to 8, 3 wide and dilated by 2.
    """

    def make():
        import torch

        torch.manual_seed(4)

        class Small(torch.nn.Module):
            def __init__(self):
                super().__init__()
                self.flat = torch.nn.Conv2d(4, 12, 3, padding=1, stride=2)
                self.deep = torch.nn.Conv1d(12, 8, 3, dilation=2, **deep)
                self.fc = torch.nn.Linear(8, 16)

            def forward(self, x):
                y = torch.relu(self.flat(x)).flatten(2)
                return self.fc(torch.relu(self.deep(y)).mean(dim=2))

        return Small()

    return TorchModel("small", make, example={"x": samples()})


def samples():
    """Two of them, standard normal: float32 (2, 4, 6, 6)."""
    return np.random.default_rng(6).standard_normal((2, 4, 6, 6)).astype(np.float32)


def output(session, x):
    """What a run gives under its first name."""
    return next(iter(session.run({"x": x}).values()))
