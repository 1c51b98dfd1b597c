"""Prompts and replies as tokens, by a folder's own tokenizer and chat template."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import numpy as np

from harness.errors import CasesError, MissingExtraError, ModelError

Array = np.ndarray[Any, np.dtype[Any]]

_ROLES: Final = ("system", "user", "assistant")


def check_unicode(text: str) -> None:
    """Whether a text is one of whole characters.

    Raises:
        CasesError: half of a surrogate pair, which JSON can hold and UTF-8 cannot.
    """
    try:
        text.encode()
    except UnicodeEncodeError as error:
        half = text[error.start]
        raise CasesError(
            f"character {error.start} of a text is {half!r}, half of a surrogate pair: "
            "no tokenizer takes it; write the whole character"
        ) from None


class ChatTokenizer:
    """The tokenizer of a Hugging Face folder, with its chat template.

    Args:
        folder: holds `tokenizer.json`, and the template in `chat_template.jinja` or in
            `tokenizer_config.json`.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @cached_property
    def _tokenizer(self) -> Any:
        try:
            from tokenizers import Tokenizer
        except ImportError:
            raise MissingExtraError("tokenizers", "huggingface") from None
        file = self.folder / "tokenizer.json"
        try:
            found = Tokenizer.from_file(str(file))
        except Exception as error:  # noqa: BLE001 - it raises bare Exception
            raise ModelError(f"{file}: not a tokenizer: {error}") from None
        found.no_padding()
        found.no_truncation()
        return found

    @cached_property
    def template(self) -> str:
        """The chat template; "" where the folder has none."""
        file = self.folder / "chat_template.jinja"
        if file.is_file():
            return file.read_text(encoding="utf-8")
        settings = self.folder / "tokenizer_config.json"
        if settings.is_file():
            found = json.loads(settings.read_text(encoding="utf-8"))
            template = found.get("chat_template")
            if isinstance(template, str):
                return template
        return ""

    def encode(self, text: str) -> list[int]:
        """Token ids, special tokens recognised, none added.

        Raises:
            CasesError: half of a surrogate pair, which JSON can hold and UTF-8 cannot.
        """
        check_unicode(text)
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=False).ids
        return ids

    def decode(self, ids: Sequence[int]) -> str:
        """Text, special tokens shown; bytes that are no UTF-8 become U+FFFD."""
        text: str = self._tokenizer.decode(list(ids), skip_special_tokens=False)
        return text

    def render(self, messages: Sequence[Mapping[str, str]]) -> str:
        """The conversation as the model is asked it, up to where its answer starts.

        Raises:
            CasesError: a message is malformed, or the folder has no template.
        """
        for message in messages:
            if (
                not isinstance(message, Mapping)
                or set(message) != {"role", "content"}
                or message["role"] not in _ROLES
                or not isinstance(message["content"], str)
            ):
                raise CasesError(
                    f'message {message!r}, but should be {{"role": one of '
                    f'{", ".join(_ROLES)}, "content": text}}'
                )
        if not self.template:
            raise CasesError(
                f"{self.folder} has no chat template: give `text` instead of `prompt`"
            )
        from jinja2 import TemplateError
        from jinja2.sandbox import ImmutableSandboxedEnvironment

        environment = ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, autoescape=False
        )
        try:
            return environment.from_string(self.template).render(
                messages=list(messages), add_generation_prompt=True
            )
        except TemplateError as error:
            raise CasesError(f"the chat template refuses: {error}") from None
