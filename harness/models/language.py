"""A language model: prompts through the chat template, logits at some positions.

Logits are 49,152 numbers a token here, 200 kB: of a prompt of 2,000 tokens they would
be 400 MB. A case therefore names the positions whose logits are computed at all: the
first tokens of the reply, where an answer is decided, and others spread evenly.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from harness.errors import CasesError, ModelError
from harness.models.chat import ChatTokenizer
from harness.models.huggingface import folder_fingerprint, load_module, read_config
from harness.models.torch_model import TorchModel
from harness.models.types import TensorSpec

if TYPE_CHECKING:
    import onnx
    import torch

Array = np.ndarray[Any, np.dtype[Any]]

#: Positions of a case whose logits are computed; the first half of the reply's start.
ROWS: Final = 8
_INPUTS: Final = (
    TensorSpec("input_ids", "int64", (None, None)),
    TensorSpec("attention_mask", "int64", (None, None)),
    TensorSpec("positions", "int64", (None, None)),
)
_KEYS: Final = ("prompt", "messages", "text", "begins", "reply", "ended")


class LanguageModel(TorchModel):
    """A causal language model of a Hugging Face folder.

    A record of its cases has `prompt` (one message of the user), or `messages`, or
    `text` that goes in as it stands; `begins`, how the answer begins, which the model
    is given; and `reply`, a continuation that the logits are
    teacher-forced over, with `ended` saying that the end token follows it.

    Args:
        folder: the model's files.
        name: short name; None: the folder's.
    """

    def __init__(self, folder: Path, *, name: str | None = None) -> None:
        config = read_config(folder)
        architecture = str((config.get("architectures") or [""])[0])
        if not architecture.endswith(("ForCausalLM", "LMHeadModel")):
            raise ModelError(
                f"{folder}: architecture {architecture!r} is no language model"
            )
        self.folder = folder
        self.tokenizer = ChatTokenizer(folder)
        self.longest = int(config.get("max_position_embeddings") or 0)
        self.ends = end_tokens(folder)
        #: What is taken to follow a reply that ended.
        self.end = self.ends[0] if self.ends else None
        self._form: TorchModel | None = None
        super().__init__(
            name or folder.name,
            lambda: causal_module(folder, architecture),
            inputs=_INPUTS,
            outputs=(TensorSpec("logits", "float32", (None, None, None), "logits"),),
            example=_Example(self._example_arrays),
            fingerprint=lambda: _fingerprint(folder),
            prepare=self._read,
            metadata={
                "tokenizer": str(folder),
                "end": self.end,
                "ends": list(self.ends),
                "context": self.longest,
            },
            sources=(Path(__file__),),
        )

    def onnx(self) -> onnx.ModelProto:
        """The graph with its cache among inputs and outputs, from the cache folder.

        See `harness.models.language_onnx`.

        Raises:
            UnsupportedError: the exporter refuses the module.
        """
        from harness.models.language_onnx import cached_form, described

        self._form = self._form or cached_form(self, read_config(self.folder))
        return described(self._form, ends=self.ends)

    def _example_arrays(self) -> Mapping[str, Array]:
        ids = self.tokenizer.encode("Numbers are stored in fewer bits.")
        return _arrays(ids, np.arange(2))

    def _read(self, record: Mapping[str, Any], folder: str) -> Mapping[str, Array]:  # noqa: ARG002
        prompt = self.prompt_tokens(record)
        reply = record.get("reply", "")
        if not isinstance(reply, str):
            raise CasesError(f"reply={reply!r}, but should be a text")
        ids = [*prompt, *self.tokenizer.encode(reply)]
        if record.get("ended"):
            if self.end is None:
                raise CasesError(
                    f"ended=true, but {self.name} has no end token (eos_token_id of "
                    "config.json, tokenizer.ggml.eos_token_id of a GGUF): leave "
                    "`ended` out, or give the model one"
                )
            ids.append(self.end)
        if self.longest and len(ids) > self.longest:
            raise CasesError(
                f"prompt and reply have {len(ids)} tokens, but the model's context "
                f"is {self.longest}"
            )
        return _arrays(ids, rows_of(len(prompt), len(ids)))

    def prompt_tokens(self, record: Mapping[str, Any]) -> list[int]:
        """Token ids of what the model is asked.

        Raises:
            CasesError: none or several ways to ask, an empty prompt, unknown keys.
        """
        unknown = sorted(set(record) - set(_KEYS))
        given = [key for key in ("prompt", "messages", "text") if key in record]
        if unknown or len(given) != 1:
            raise CasesError(
                f"has keys {sorted(record)}, but should have one of prompt, messages, "
                "text, and maybe begins, reply, ended"
            )
        value = record[given[0]]
        if given[0] != "text" and not self.tokenizer.template:
            raise CasesError(
                f"{self.name} has no chat template (tokenizer.chat_template of a GGUF, "
                f"chat_template.jinja of a folder), but {given[0]!r} goes through it: "
                "give `text`, as the model is to read it"
            )
        if given[0] == "messages":
            if not isinstance(value, list) or not value:
                raise CasesError("messages should be a list of at least one message")
            text = self.tokenizer.render(value)
        elif not isinstance(value, str) or not value:
            raise CasesError(f"{given[0]}={value!r}, but should be a text, not empty")
        elif given[0] == "prompt":
            text = self.tokenizer.render([{"role": "user", "content": value}])
        else:
            text = value
        begins = record.get("begins", "")
        if not isinstance(begins, str):
            raise CasesError(f"begins={begins!r}, but should be a text")
        ids = self.tokenizer.encode(text + begins)
        if not ids:
            raise CasesError(f"{given[0]} has no tokens")
        return ids


def end_tokens(folder: Path) -> tuple[int, ...]:
    """Tokens that end a reply: of `config.json`, then of `generation_config.json`.

    Chat models have several: the end of a turn, and the end of the text.

    Raises:
        ModelError: an entry that is no token id.
    """
    found: dict[int, None] = {}
    for name in ("config.json", "generation_config.json"):
        if not (folder / name).is_file():
            continue
        given = read_config(folder, name).get("eos_token_id")
        for token in given if isinstance(given, list) else [given]:
            if token is None:
                continue
            if not isinstance(token, int) or isinstance(token, bool):
                raise ModelError(
                    f"{folder / name}: eos_token_id={given!r}, but should be a token "
                    "id, or a list of them"
                )
            found[token] = None
    return tuple(found)


def rows_of(prompt: int, length: int) -> Array:
    """Positions whose logits are looked at: of a prompt's end, and spread evenly.

    Position i predicts token i + 1. The first is the prompt's last, which decides how
    an answer begins; then those after it, to half of `ROWS`; the others lie evenly
    over the whole sequence.
    """
    ends = np.arange(prompt - 1, min(prompt - 1 + ROWS // 2, length))
    others = np.setdiff1d(np.arange(length - 1), ends)
    count = min(ROWS - len(ends), len(others))
    picks = np.linspace(0, len(others) - 1, count).round().astype(int)
    found = np.concatenate([ends, np.sort(others[picks])])
    return found.astype(np.int64)


def _arrays(ids: list[int], positions: Array) -> dict[str, Array]:
    row = np.array([ids], dtype=np.int64)
    return {
        "input_ids": row,
        "attention_mask": np.ones_like(row),
        "positions": positions.astype(np.int64)[None],
    }


class _Example(dict[str, Array]):
    """Example inputs, tokenised when they are first asked for."""

    def __init__(self, make: Callable[[], Mapping[str, Array]]) -> None:
        super().__init__({spec.name: np.zeros((0, 0)) for spec in _INPUTS})
        self._make = make

    def __getitem__(self, key: str) -> Array:
        return self._make()[key]

    def items(self) -> Any:
        """As of any mapping."""
        return list(self._make().items())


def _fingerprint(folder: Path) -> str:
    """Of the weights, the configuration and the chat template."""
    weights = folder_fingerprint(folder)
    template = ChatTokenizer(folder).template
    if not template:
        return weights
    kind, _, digest = weights.rpartition(":")
    both = hashlib.sha256(f"{digest}\n{template}".encode()).hexdigest()
    return f"{kind}:{both}" if kind else both


def causal_module(folder: Path, architecture: str) -> torch.nn.Module:
    """The body and the head of a causal language model.

    Called with `input_ids`, `attention_mask`, `positions` (batch, rows); returns the
    logits at those positions (batch, rows, vocabulary).
    """
    import torch

    from harness.models.kv_cache import Rounding, new_cache, positions_of

    class CausalLanguageModel(torch.nn.Module):  # type: ignore[misc]  # torch is untyped
        """Hidden states at some positions, through the head."""

        #: How keys and values are stored; None: as they are.
        rounding: Rounding | None = None

        def __init__(self) -> None:
            super().__init__()
            loaded = load_module(folder, headed=architecture, attention="sdpa")
            self.model = loaded.base_model
            self.lm_head = loaded.get_output_embeddings()
            self.ends = end_tokens(folder)

        def forward(
            self,
            input_ids: torch.Tensor,
            attention_mask: torch.Tensor,
            positions: torch.Tensor,
        ) -> torch.Tensor:
            cache = None if self.rounding is None else self.new_cache()
            hidden = self.model(
                input_ids,
                attention_mask=attention_mask,
                position_ids=positions_of(attention_mask),
                past_key_values=cache,
            )[0]
            rows = positions.unsqueeze(-1).expand(-1, -1, hidden.shape[-1])
            logits: torch.Tensor = self.lm_head(hidden.gather(1, rows))
            return logits

        def in_pieces(
            self,
            input_ids: torch.Tensor,
            attention_mask: torch.Tensor,
            positions: torch.Tensor,
            size: int,
        ) -> torch.Tensor:
            """The same logits, the tokens read `size` at a time through a cache."""
            cache, parts = self.new_cache(), []
            where = positions_of(attention_mask)
            for start in range(0, input_ids.shape[1], size):
                part = slice(start, start + size)
                parts.append(
                    self.model(
                        input_ids[:, part],
                        attention_mask=attention_mask[:, : start + size],
                        position_ids=where[:, part],
                        past_key_values=cache,
                        use_cache=True,
                    )[0]
                )
            hidden = torch.cat(parts, dim=1)
            rows = positions.unsqueeze(-1).expand(-1, -1, hidden.shape[-1])
            logits: torch.Tensor = self.lm_head(hidden.gather(1, rows))
            return logits

        def new_cache(self) -> Any:
            """An empty cache, which stores as `rounding` says."""
            return new_cache(self.model.config.num_hidden_layers, self.rounding)

        def step(
            self, input_ids: torch.Tensor, attention_mask: torch.Tensor, cache: Any
        ) -> torch.Tensor:
            """Logits after the last token (batch, vocabulary); the cache grows.

            Args:
                input_ids: (batch, tokens) that follow what the cache holds.
                attention_mask: (batch, all tokens), 0 for padding on the left.
                cache: of `new_cache`.
            """
            positions = positions_of(attention_mask)[:, -input_ids.shape[1] :]
            hidden = self.model(
                input_ids,
                attention_mask=attention_mask,
                position_ids=positions,
                past_key_values=cache,
                use_cache=True,
            )[0]
            logits: torch.Tensor = self.lm_head(hidden[:, -1])
            return logits

    return CausalLanguageModel()
