"""PyTorch: native low-precision kernels where this machine has them, else emulation."""

from __future__ import annotations

from importlib.metadata import version
from typing import TYPE_CHECKING, ClassVar, Final

from harness.backends import installed
from harness.backends.protocol import Availability, Finding, Support, Variant
from harness.backends.threads import threads
from harness.backends.torch_session import TorchSession, instruction_set
from harness.errors import BackendError, UnsupportedError
from harness.models.types import Model, Operator
from harness.schemes.apply import OperatorPlan, plan
from harness.schemes.checkpoint import is_onnx_file
from harness.schemes.types import Scheme

if TYPE_CHECKING:
    import torch

    from harness.backends.torch_layers import QuantizedLayer

_INPUTS: Final = frozenset(
    {"fp8_e4m3", "fp8_e5m2", "fp8_e4m3fnuz", "fp8_e5m2fnuz", "int8", "int4"}
    | {"mxfp8_e4m3", "mxfp8_e5m2", "mxfp4", "nvfp4", "bfp16"}
)
_WEIGHTS: Final = _INPUTS | {"nf4"}


class TorchBackend:
    """Runs modules, and ONNX graphs as modules, on the CPU or on CUDA.

    Args:
        precision: of an unquantized model: "fp16", "fp32" or "fp64".
        device: None: CUDA when there is a device, else the CPU.
        name: registered under it; another configuration needs another name.
        capability: instruction set that torch must have chosen, e.g. "AVX2"; None:
            whichever it chose.
    """

    variants: ClassVar = {
        "avx2": Variant(
            summary="the CPU's kernels limited to AVX2",
            environment={"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2"},
            options={"device": "cpu", "capability": "AVX2"},
        )
    }

    #: What a loaded module becomes.
    session: ClassVar[type[TorchSession]] = TorchSession

    def __init__(
        self,
        precision: str = "fp16",
        device: str | None = None,
        *,
        name: str = "torch",
        capability: str | None = None,
    ) -> None:
        self.name = name
        self.precision = precision
        self.device = device
        self.capability = capability

    def probe(self) -> Availability:
        """Whether torch is installed, and on what it would run."""
        reason = installed.reason_against("torch", "torch")
        if reason:
            return Availability(available=False, reason=reason)
        try:
            return Availability(
                available=True, version=version("torch"), device=self._describe()
            )
        except Exception as error:  # noqa: BLE001 - a broken install must not raise here
            return Availability(available=False, reason=f"does not import: {error}")

    def _describe(self) -> str:
        import torch

        device = self._device()
        if device == "cpu":
            return "cpu"
        return f"{device} {torch.cuda.get_device_name(device)}"

    def _device(self) -> str:
        import torch

        if self.device is not None:
            return self.device
        return "cuda:0" if torch.cuda.is_available() else "cpu"

    def supports(self, model: Model, scheme: Scheme) -> Support:
        """Whether every format of the scheme is stored and rounded here."""
        if is_onnx_file(scheme.checkpoint):
            reason = f"{scheme.checkpoint} runs as it is, on engines of ONNX"
            return Support(supported=False, reason=reason)
        for tensor, known, done in (
            (scheme.weights, _WEIGHTS, "stored"),
            (scheme.activations, _INPUTS, "rounded to"),
        ):
            if tensor is not None and tensor.format not in known:
                reason = f"{tensor.format} is not {done} by the torch backend"
                names = {operator.name: reason for operator in model.operators()}
                return Support(supported=False, reason=reason, operators=names)
        return Support(supported=True)

    def preflight(self, model: Model) -> list[Finding]:
        """Operators of an ONNX graph that are not run by torch here."""
        if model.source != "onnx":
            return []
        from harness.backends.onnx_preflight import census
        from harness.models.graph_ops import OPS

        return [
            Finding("missing", kind.title, count, "not among harness.models.graph_ops")
            for kind, count in census(model.onnx()).items()
            if kind.domain or kind.name not in OPS
        ]

    def load(self, model: Model, scheme: Scheme | None) -> TorchSession:
        """Build the module, quantize its layers, move it to the device.

        Raises:
            UnsupportedError: a format or rule that is not computed here.
            BackendError: torch chose another instruction set than this variant's.
        """
        import torch

        self._check_capability()
        count = threads()
        if count:
            torch.set_num_threads(count)
        device = self._device()
        module = model.module().eval()
        if scheme is None:
            dtypes = {
                "fp16": torch.float16,
                "fp32": torch.float32,
                "fp64": torch.float64,
            }
            if self.precision not in dtypes:
                raise UnsupportedError(f"torch does not run models in {self.precision}")
            module = module.to(device=device, dtype=dtypes[self.precision])
            names = [operator.name for operator in model.operators()]
            return self.session(module, device, dtypes[self.precision], names)
        return self._quantized(model, scheme, module, device)

    def _check_capability(self) -> None:
        found = instruction_set()
        if self.capability not in (None, found):
            raise BackendError(
                f"{self.name}: torch computes with {found}, but should with "
                f"{self.capability}; its process must be started with "
                f"ATEN_CPU_CAPABILITY={self.capability.lower()}, as `run` does"
            )

    def _quantized(
        self, model: Model, scheme: Scheme, module: torch.nn.Module, device: str
    ) -> TorchSession:
        import torch

        operators = model.operators()
        plans = plan(scheme, operators)
        if scheme.kv_cache is not None:
            from harness.backends.torch_kv import cache_rounding

            if not hasattr(module, "step"):
                raise UnsupportedError(
                    f"{scheme.name} quantizes keys and values, which {model.name} "
                    "does not keep: it is no language model"
                )
            module.rounding = cache_rounding(scheme.kv_cache)
        for operator in operators:
            entry = plans[operator.name]
            if not entry.weights:
                continue
            layer = module.get_submodule(operator.name)
            quantized = self.quantized_layer(layer, operator, scheme, entry)
            if device == "cpu" and hasattr(module, "step"):
                quantized.avoid_slow_kernels()
            module.set_submodule(operator.name, quantized)
        names = [operator.name for operator in operators]
        return self.session(module.to(device), device, torch.float32, names, scheme)

    def quantized_layer(
        self,
        layer: torch.nn.Module,
        operator: Operator,
        scheme: Scheme,
        plan: OperatorPlan,
    ) -> QuantizedLayer:
        """What a layer becomes under a scheme."""
        from harness.backends.torch_layers import QuantizedLayer

        return QuantizedLayer(layer, operator, scheme, plan)
