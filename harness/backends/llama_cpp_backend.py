"""llama.cpp on the CPU: GGUF files that we write, run by the real engine.

Its kernels quantize the input of every quantized weight to INT8 in blocks of 32, or of
256 where the weight is in super-blocks, which no file says. A scheme that leaves inputs
alone is therefore not what it computes.
"""

from __future__ import annotations

from importlib.metadata import version
from typing import TYPE_CHECKING, ClassVar

from harness.backends.llama_cpp_file import Written, gguf_kind, inputs_of, write_model
from harness.backends.llama_cpp_library import library, library_file
from harness.backends.protocol import Availability, Support, Variant
from harness.errors import HarnessError, UnsupportedError
from harness.models.types import Model
from harness.numerics.layouts.gguf import GGUF_TYPES
from harness.schemes.apply import plan_one
from harness.schemes.types import Scheme, TensorScheme

if TYPE_CHECKING:
    from harness.backends.llama_cpp_session import LlamaCppSession


class LlamaCppBackend:
    """llama.cpp's CPU kernels, out of the package `xllamacpp`.

    Args:
        precision: of an unquantized model: "fp16" or "fp32".
        name: registered under it.
        extra_buffers: let llama.cpp repack weights for this processor, its default.
        fused: whether attention is one fused operator; None: llama.cpp decides.
    """

    variants: ClassVar = {
        "plain": Variant(
            summary="weights as the file has them, not repacked for the processor",
            options={"extra_buffers": False},
        ),
        "unfused": Variant(
            summary="attention written out instead of fused (`--flash-attn off`)",
            options={"fused": False},
        ),
    }

    def __init__(
        self,
        precision: str = "fp16",
        *,
        name: str = "llama.cpp",
        extra_buffers: bool = True,
        fused: bool | None = None,
    ) -> None:
        self.name = name
        self.precision = precision
        self.extra_buffers = extra_buffers
        self.fused = fused

    def probe(self) -> Availability:
        """Whether xllamacpp is installed, and its C interface the one that is known."""
        try:
            library_file()
            found = library()
        except HarnessError as error:
            return Availability(available=False, reason=str(error))
        return Availability(
            available=True,
            version=version("xllamacpp"),
            device=f"cpu, llama.cpp {found.version}",
        )

    def supports(self, model: Model, scheme: Scheme) -> Support:
        """Whether a GGUF type holds the scheme's weights."""
        try:
            if not hasattr(model, "tokenizer"):
                raise UnsupportedError(
                    f"{model.name} is no language model: llama.cpp runs those"
                )
            more = scheme.kv_cache is not None or scheme.outputs is not None
            if scheme.weights is None or more:
                raise UnsupportedError(
                    f"{scheme.name}: only schemes of weights are expressed in GGUF"
                )
            kind = gguf_kind(scheme.weights)
            inputs = scheme.activations
            own = inputs_of(kind)
            if inputs not in (None, own):
                raise UnsupportedError(
                    f"llama.cpp multiplies {kind} with inputs as {_toml(own)}: give "
                    f"{scheme.name} these activations"
                )
        except UnsupportedError as error:
            return Support(supported=False, reason=str(error))
        size = GGUF_TYPES[kind].block if kind in GGUF_TYPES else 1
        broken = {
            operator.name: f"rows of {operator.weight.shape[-1]}, no blocks of {size}"
            for operator in model.operators()
            if plan_one(scheme, operator).weights and operator.weight.shape[-1] % size
        }
        if broken:
            name, why = next(iter(broken.items()))
            reason = (
                f"{kind} does not hold {name}: {why} [{len(broken)} operators]; name "
                "them in `keep`"
            )
            return Support(supported=False, reason=reason, operators=broken)
        return Support(supported=True)

    def load(self, model: Model, scheme: Scheme | None) -> LlamaCppSession:
        """Write the file where it is not in the cache, load it, prove what it is.

        Raises:
            UnsupportedError: a model or format that is not written as GGUF.
            BackendError: llama.cpp refuses the file, or is not what it should be.
        """
        return self.open_written(model, scheme, self.write(model, scheme))

    def write(self, model: Model, scheme: Scheme | None) -> Written:
        """The file that is loaded, written where it is not in the cache.

        Raises:
            UnsupportedError: a model or format that is not written as GGUF.
        """
        return write_model(model, scheme, self.precision)

    def open_written(
        self, model: Model, scheme: Scheme | None, written: Written
    ) -> LlamaCppSession:
        """Load a file of that model, and prove what it is.

        Args:
            model: what is under test.
            scheme: of the file's weights; None: the reference.
            written: the file; what is in it is judged, not who wrote it.

        Raises:
            BackendError: llama.cpp refuses the file, or is not what it should be.
        """
        from harness.backends.llama_cpp_engine import LoadedModel
        from harness.backends.llama_cpp_handshake import shake_hands
        from harness.backends.llama_cpp_session import LlamaCppSession

        loaded = LoadedModel(written.file, extra_buffers=self.extra_buffers)
        try:
            found = shake_hands(loaded, model, written, fused=self.fused)
        except BaseException:
            loaded.close()
            raise
        return LlamaCppSession(
            loaded,
            written,
            found,
            scheme=scheme,
            precision=self.precision,
            fused=self.fused,
        )


def _toml(tensor: TensorScheme) -> str:
    """As a suite writes it."""
    block = f", block = {tensor.block}" if tensor.block else ""
    rule = f', rule = "{tensor.rule}"' if tensor.rule else ""
    return (
        f'{{ format = "{tensor.format}", granularity = "{tensor.granularity}"'
        f"{block}{rule} }}"
    )
