"""Does the exported graph compute what the module computes, at other sizes too?

Tracing writes down what one run did: a branch or a size that depended on the example is
frozen without a word. Running both on inputs of other sizes shows it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from typing import TYPE_CHECKING, Final

import numpy as np

from harness.errors import UnsupportedError

if TYPE_CHECKING:
    import onnx
    import torch

#: Of the largest output. Another summation order moves float32 outputs by 1e-6 or so;
#: a frozen size or branch gives other numbers altogether, or none.
TOLERANCE: Final = 1e-2


def check_export(
    proto: onnx.ModelProto,
    module: torch.nn.Module,
    example: Mapping[str, torch.Tensor],
    name: str,
) -> None:
    """Compare the graph, run by ONNX Runtime, with the module; silent when they agree.

    Sizes that the module itself does not take are left out. Without ONNX Runtime
    nothing is compared: nobody can run the graph then.

    Raises:
        UnsupportedError: they disagree, or the graph does not run.
    """
    if find_spec("onnxruntime") is None:
        return
    import onnxruntime
    import torch

    quiet = onnxruntime.SessionOptions()
    quiet.log_severity_level = 4
    session = onnxruntime.InferenceSession(
        proto.SerializeToString(), quiet, providers=["CPUExecutionProvider"]
    )
    names = [output.name for output in session.get_outputs()]
    for feeds in variations(example):
        sizes = {key: tuple(tensor.shape) for key, tensor in feeds.items()}
        try:
            with torch.inference_mode():
                wanted = module(**feeds)
        except (RuntimeError, IndexError, ValueError):
            continue
        try:
            arrays = {key: tensor.numpy() for key, tensor in feeds.items()}
            found = dict(zip(names, session.run(None, arrays), strict=True))
        except Exception as error:
            text = " ".join(str(error).split())[:200]
            raise UnsupportedError(
                f"{name}: the exported graph does not run at {sizes}: {text}"
            ) from error
        for key, tensor in wanted.items():
            _agree(found[key], tensor.numpy(), f"{name}: output {key!r} at {sizes}")


def variations(
    example: Mapping[str, torch.Tensor],
) -> Iterator[dict[str, torch.Tensor]]:
    """The example; three of its first entry; and token ids of half the length."""
    import torch

    yield dict(example)
    yield {key: torch.cat([t[:1]] * 3) for key, t in example.items() if t.ndim}
    tokens = [not t.is_floating_point() and t.ndim == 2 for t in example.values()]
    if all(tokens):
        yield {key: t[:, : t.shape[1] // 2 + 1] for key, t in example.items()}


def _agree(
    found: np.ndarray[tuple[int, ...], np.dtype[np.float32]],
    wanted: np.ndarray[tuple[int, ...], np.dtype[np.float32]],
    what: str,
) -> None:
    if found.shape != wanted.shape:
        raise UnsupportedError(
            f"{what} is {found.shape} in the exported graph, but {wanted.shape} in "
            "the module: the exporter froze a size"
        )
    if not found.size:
        return
    largest = float(np.abs(wanted.astype(np.float64)).max())
    off = float(np.abs(found.astype(np.float64) - wanted.astype(np.float64)).max())
    if not off <= TOLERANCE * max(largest, 1e-30):
        raise UnsupportedError(
            f"{what} differs by {off:.3g} (largest value {largest:.3g}) between the "
            "exported graph and the module: the exporter froze a branch or a size"
        )
