"""torch.compile: the torch backend's quantized module, compiled by inductor.

Inductor fuses what stands between the products and generates C++ for it (Triton on a
GPU), so roundings may be merged, dropped or computed in another precision than the
module says. What is watched is compiled too: captured tensors are further outputs of
the compiled function.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar, Final

from harness.backends.protocol import Arithmetic, Availability, Variant
from harness.backends.torch_backend import TorchBackend
from harness.backends.torch_session import TorchSession
from harness.errors import BackendError, UnsupportedError
from harness.models.types import Model
from harness.schemes.types import Scheme

if TYPE_CHECKING:
    import torch


#: Sets of shapes that a layer is compiled for: torch's own limit of a function.
_SHAPES: Final = 8


class CompiledSession(TorchSession):
    """A module whose call is compiled as users do it, once a set of shapes.

    What inductor cannot trace runs eagerly between two compiled graphs. A session in
    which nothing was compiled at all raises, and so does one with more shapes than
    torch compiles for: neither passes for compiled.
    """

    compiled: ClassVar[bool] = True

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        import torch

        self._compiled = torch.compile(super()._call)
        # Where a graph breaks, layers are compiled one by one, and those of one class
        # share torch's count.
        self._limit = _SHAPES * sum(1 for _ in self.module.modules())
        self._proved = False

    def _call(self, feeds: Mapping[str, torch.Tensor]) -> Any:
        import torch
        from torch._dynamo import config
        from torch._dynamo.exc import BackendCompilerFailed
        from torch._dynamo.utils import counters

        before = _graphs(counters)
        limits = {
            "recompile_limit": self._limit,
            "accumulated_recompile_limit": max(
                self._limit, config.accumulated_recompile_limit
            ),
        }
        try:
            with config.patch(fail_on_recompile_limit_hit=True, **limits):
                found = self._compiled(feeds)
        except BackendCompilerFailed as error:
            # Its lines after the first are inductor's graph.
            reason = str(error).partition("\n")[0]
            raise UnsupportedError(
                f"torch {torch.__version__} does not compile the model: {reason}"
            ) from error
        self._proved |= _graphs(counters) > before
        if not self._proved:
            raise BackendError(
                "torch-compile: graphs compiled=0, but should be at least 1 [all "
                "ran eagerly]"
            )
        return found

    def close(self) -> None:
        """Drop the module and what was compiled: torch counts it for all sessions."""
        import torch

        super().close()
        torch.compiler.reset()

    def arithmetic(self) -> Arithmetic:
        """The module's, in code that inductor generated.

        Not exact: when a second shape comes, torch compiles for any length, and what
        the first gave by code of its own is from then on another in its last bits.
        """
        found = super().arithmetic()
        detail = f"compiled by inductor: {found.detail}"
        return replace(found, determinism="run-to-run", detail=detail)


def _graphs(counters: Mapping[str, Mapping[str, int]]) -> int:
    """Graphs that this process has compiled so far."""
    return counters["stats"]["unique_graphs"]


class TorchCompileBackend(TorchBackend):
    """The torch backend with its session compiled by inductor.

    Args:
        precision: of an unquantized model.
        device: None: CUDA when there is a device, else the CPU.
        name: registered under it.
        gathered: spread scales of blocks over their elements by an index. What is
            repeated and cut within a block, inductor computes wrongly.
    """

    session: ClassVar[type[TorchSession]] = CompiledSession
    #: Inductor generates its own vector code: see `torch@avx2` for other instructions.
    variants: ClassVar = {
        "gathered": Variant(
            summary="scales of blocks spread by an index, not repeated and cut",
            options={"gathered": True},
        )
    }

    def __init__(
        self,
        precision: str = "fp16",
        device: str | None = None,
        *,
        name: str = "torch-compile",
        gathered: bool = False,
    ) -> None:
        super().__init__(precision, device, name=name)
        self.gathered = gathered

    def load(self, model: Model, scheme: Scheme | None) -> TorchSession:
        """As the torch backend, compiled when it is first called."""
        from harness.backends.torch_layers import StoredWeight

        session = super().load(model, scheme)
        for layer in session.module.modules():
            if isinstance(layer, StoredWeight):
                layer.gathered = self.gathered
        return session

    def probe(self) -> Availability:
        """Whether torch is installed, and a C++ compiler for what inductor writes."""
        found = super().probe()
        compiler = os.environ.get("CXX") or "g++"
        if found.available and shutil.which(compiler) is None:
            reason = f"inductor needs a C++ compiler, but there is no {compiler}"
            return replace(found, available=False, reason=reason)
        return found
