"""TensorRT-LLM through its LLM API: quantized checkpoints as it loads them.

Written against the documentation of 1.x: a checkpoint that ModelOpt exported (or
compressed-tensors, or FP8 of Transformers) says itself how it is quantized, so a scheme
is a `checkpoint`. Prompts go in as token ids; their logits are the request's context
logits, and a reply's probabilities come of its generation logits. **Run on no GPU so
far**: tested against that protocol with a stand-in.

It shows neither its weights nor what its operators get: its targets are judged by their
outputs. Reuse of cached prefixes and chunked prefill are off, because context logits
are those of the tokens that are computed anew.
"""

from __future__ import annotations

import importlib
import importlib.util
import time
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Final

import numpy as np

from harness.backends.protocol import (
    Arithmetic,
    Availability,
    Generated,
    Outputs,
    Request,
    Support,
)
from harness.errors import BackendError, UnsupportedError
from harness.models.types import Model
from harness.schemes.checkpoint import is_onnx_file
from harness.schemes.types import Scheme

Array = np.ndarray[Any, np.dtype[Any]]

#: Our names of precisions -> its `dtype`.
_DTYPES: Final = {"fp16": "float16", "bf16": "bfloat16"}
_INPUTS: Final = ("input_ids", "attention_mask", "positions")


class TensorRtLlmBackend:
    """TensorRT-LLM on one GPU.

    Args:
        precision: of an unquantized model: "fp16" or "bf16".
        name: registered under it.
    """

    def __init__(self, precision: str = "fp16", *, name: str = "tensorrt-llm") -> None:
        self.name = name
        self.precision = precision

    def probe(self) -> Availability:
        """Whether tensorrt_llm is installed, and a GPU there."""
        if importlib.util.find_spec("tensorrt_llm") is None:
            return Availability(
                available=False,
                reason="tensorrt_llm is not installed: NVIDIA's container has it, or "
                "NVIDIA's own package index; it needs a GPU",
            )
        try:
            import torch

            if not torch.cuda.is_available():
                return Availability(available=False, reason="no GPU that CUDA can use")
            library = importlib.import_module("tensorrt_llm")
            version = str(library.__version__)
            device = f"cuda {torch.cuda.get_device_name()}"
        except Exception as error:  # noqa: BLE001 - a broken install must not raise here
            return Availability(available=False, reason=f"does not import: {error}")
        return Availability(available=True, version=version, device=device)

    def supports(self, model: Model, scheme: Scheme) -> Support:
        """Whether it is a language model's quantized checkpoint."""
        reason = ""
        if not hasattr(model, "tokenizer"):
            reason = f"{model.name} is no language model"
        elif not scheme.checkpoint or is_onnx_file(scheme.checkpoint):
            reason = (
                "it runs checkpoints that are quantized already: give the scheme "
                "`checkpoint`, a folder as ModelOpt exports it"
            )
        elif scheme.kv_cache is not None or scheme.outputs is not None:
            reason = "a checkpoint says all that is quantized: no `kv_cache`, `outputs`"
        if reason:
            return Support(supported=False, reason=f"tensorrt-llm: {reason}")
        return Support(supported=True)

    def load(self, model: Model, scheme: Scheme | None) -> TensorRtLlmSession:
        """Load the checkpoint, or the model's own folder; prove where logits stand.

        Raises:
            UnsupportedError: a precision that is not there.
            BackendError: the engine does not come up, or its logits are others than
                those that its tokens are chosen by.
        """
        if scheme is None and self.precision not in _DTYPES:
            raise UnsupportedError(
                f"tensorrt-llm does not run models in {self.precision}"
            )
        folder = scheme.checkpoint if scheme else str(getattr(model, "folder", ""))
        library = importlib.import_module("tensorrt_llm")
        llmapi = importlib.import_module("tensorrt_llm.llmapi")
        try:
            engine = library.LLM(
                model=folder,
                skip_tokenizer_init=True,
                dtype="auto" if scheme else _DTYPES[self.precision],
                enable_chunked_prefill=False,
                kv_cache_config=llmapi.KvCacheConfig(enable_block_reuse=False),
            )
        except Exception as error:  # noqa: BLE001 - its classes have no common base
            raise BackendError(
                f"tensorrt-llm does not load {folder}: {_line(error)}"
            ) from None
        ends = tuple(int(end) for end in getattr(model, "ends", ()))
        session = TensorRtLlmSession(engine, library.SamplingParams, scheme, ends)
        try:
            session.prove_alignment()
        except BaseException:
            session.close()
            raise
        return session


class TensorRtLlmSession:
    """A loaded engine.

    Args:
        engine: `tensorrt_llm.LLM`.
        sampling: `tensorrt_llm.SamplingParams`.
        scheme: None for the reference.
        ends: tokens that end a reply.
    """

    def __init__(
        self, engine: Any, sampling: Any, scheme: Scheme | None, ends: tuple[int, ...]
    ) -> None:
        self._engine = engine
        self._sampling = sampling
        self._scheme = scheme
        self._ends = ends

    def run(
        self, inputs: Mapping[str, Array], *, capture: Collection[str] = ()
    ) -> Outputs:
        """Logits at the `positions` of each row; nothing is captured.

        Raises:
            BackendError: closed, an input is missing, or the engine fails.
        """
        del capture  # It shows no operator's output.
        missing = [name for name in _INPUTS if name not in inputs]
        if missing:
            raise BackendError(
                f"tensorrt-llm: inputs missing={missing}, but should be {_INPUTS}"
            )
        rows = [
            np.asarray(ids)[np.flatnonzero(mask)].tolist()
            for ids, mask in zip(
                inputs["input_ids"], inputs["attention_mask"], strict=True
            )
        ]
        start = time.perf_counter()
        found = self._generate(
            rows,
            [self._greedy(1, context=True) for _ in rows],
        )
        seconds = time.perf_counter() - start
        logits = []
        for ids, mask, wanted, result in zip(
            rows, inputs["attention_mask"], inputs["positions"], found, strict=True
        ):
            places = np.searchsorted(np.flatnonzero(mask), wanted)
            logits.append(_context_logits(result, len(ids))[places])
        return Outputs({"logits": np.stack(logits)}, {"run": seconds})

    def generate(
        self, requests: Sequence[Request], *, batch: int
    ) -> dict[str, Generated]:
        """Continue prompts by the engine's own decoding, at most `batch` at a time.

        Above temperature 0 draws are the engine's own, from the request's seed.
        """
        found = {}
        for first in range(0, len(requests), batch):
            group = requests[first : first + batch]
            results = self._generate(
                [request.tokens.tolist() for request in group],
                [self._sampled(request) for request in group],
            )
            for request, result in zip(group, results, strict=True):
                found[request.name] = self._reply(request, result)
        return found

    def prove_alignment(self) -> None:
        """The last context logits are those that the next token was chosen by.

        Raises:
            BackendError: they are not: of other tokens, shifted, or of another model.
        """
        prompt = list(range(1, 9))
        (result,) = self._generate([prompt], [self._greedy(1, context=True)])
        logits = _context_logits(result, len(prompt))
        chosen = int(result.outputs[0].token_ids[0])
        if logits[-1, chosen] < logits[-1].max():
            raise BackendError(
                f"tensorrt-llm: the token after a prompt is {chosen}, but its last "
                f"context logits are largest at {int(logits[-1].argmax())}: they are "
                "not those that it decodes by"
            )

    def close(self) -> None:
        """Shut the engine down; closing twice does nothing."""
        if self._engine is not None:
            self._engine.shutdown()
            self._engine = None

    def arithmetic(self) -> Arithmetic:
        """What is known of its kernels: sums on tensor cores, results in 16 bits."""
        inputs = self._scheme.activations if self._scheme else None
        eight = inputs is not None and inputs.format == "fp8_e4m3"
        return Arithmetic(
            accumulate="fp8_tensor_core" if eight else "fp32",
            operands="fp16",
            output="fp16",
            execution="native",
            determinism="run-to-run",
            detail="TensorRT-LLM's own kernels; shows neither weights nor operators",
        )

    def _greedy(self, longest: int, *, context: bool = False) -> Any:
        return self._sampling(
            max_tokens=longest,
            temperature=0.0,
            # Nothing ends it before its length: there is no tokenizer to ask.
            end_id=-1,
            pad_id=0,
            detokenize=False,
            return_context_logits=context,
        )

    def _sampled(self, request: Request) -> Any:
        options: dict[str, Any] = {"temperature": 0.0}
        if request.temperature > 0:
            options = {"temperature": request.temperature, "seed": request.seed}
        return self._sampling(
            max_tokens=request.longest,
            end_id=self._ends[0] if self._ends else -1,
            stop_token_ids=list(self._ends[1:]) or None,
            pad_id=0,
            detokenize=False,
            return_generation_logits=True,
            **options,
        )

    def _generate(self, prompts: list[list[int]], sampling: list[Any]) -> list[Any]:
        if self._engine is None:
            raise BackendError(
                "tensorrt-llm: the session is closed, but should be open"
            )
        inputs = [{"prompt_token_ids": tokens} for tokens in prompts]
        try:
            found: list[Any] = self._engine.generate(inputs, sampling, use_tqdm=False)
        except Exception as error:  # noqa: BLE001 - its classes have no common base
            raise BackendError(
                f"tensorrt-llm failed while it ran: {_line(error)}"
            ) from None
        return found

    def _reply(self, request: Request, result: Any) -> Generated:
        output = result.outputs[0]
        tokens = [int(token) for token in output.token_ids]
        ended = output.finish_reason == "stop"
        if output.generation_logits is None:
            raise BackendError(
                f"tensorrt-llm: {request.name}: no generation logits, which were asked "
                "for"
            )
        logits = _numpy(output.generation_logits).reshape(-1, _width(output))
        if ended and len(logits) == len(tokens) + 1 and self._ends:
            # Some versions leave the token out that ended the reply.
            tokens.append(int(logits[-1][list(self._ends)].argmax()))
            tokens[-1] = self._ends[tokens[-1]]
        if len(logits) < len(tokens):
            raise BackendError(
                f"tensorrt-llm: {request.name}: {len(logits)} rows of generation "
                f"logits, but {len(tokens)} tokens"
            )
        chosen = np.array(tokens, np.int64)
        return Generated(
            tokens=chosen,
            probabilities=_probabilities(logits[: len(tokens)], chosen),
            ended=ended,
        )


def _context_logits(result: Any, length: int) -> Array:
    """float32 (length, vocabulary) of a request's prompt.

    Raises:
        BackendError: there are none, or those of fewer tokens.
    """
    if result.context_logits is None:
        raise BackendError("tensorrt-llm: no context logits, which were asked for")
    logits = _numpy(result.context_logits)
    if logits.ndim != 2 or len(logits) != length:
        raise BackendError(
            f"tensorrt-llm: context logits have shape={logits.shape}, but should have "
            f"{length} rows, one a token of the prompt"
        )
    return logits


def _width(output: Any) -> int:
    return int(output.generation_logits.shape[-1])


def _probabilities(logits: Array, tokens: Array) -> Array:
    """float32 probability of each token at temperature 1."""
    wide = logits.astype(np.float64)
    wide = np.exp(wide - wide.max(axis=-1, keepdims=True))
    share = wide[np.arange(len(tokens)), tokens] / wide.sum(axis=-1)
    found: Array = share.astype(np.float32)
    return found


def _numpy(tensor: Any) -> Array:
    """float32 copy of a torch tensor, wherever it lies."""
    array: Array = tensor.detach().float().cpu().numpy()
    return array


def _line(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
