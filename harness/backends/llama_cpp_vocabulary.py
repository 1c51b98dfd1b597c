"""A Hugging Face tokenizer in GGUF's terms: byte-level BPE as llama.cpp knows it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from harness.errors import UnsupportedError

_NORMAL, _CONTROL, _USER, _UNUSED = 1, 3, 4, 5
#: How a tokenizer cuts texts, as `tokenizer.json` says it -> llama.cpp's name.
_CUTS: Final[Mapping[tuple[str, ...], str]] = {
    ("Digits", "ByteLevel"): "smollm",
    ("ByteLevel",): "gpt-2",
}


@dataclass(frozen=True)
class Vocabulary:
    """Tokens by id with their types, merges, how texts are cut, the chat template."""

    tokens: list[str]
    types: list[int]
    merges: list[str]
    cut: str
    template: str


def read_vocabulary(folder: Path) -> Vocabulary:
    """What `tokenizer.json` says, in GGUF's terms.

    Raises:
        UnsupportedError: no byte-level BPE, or one that cuts texts in another way.
    """
    file = folder / "tokenizer.json"
    made = json.loads(file.read_text(encoding="utf-8"))
    before = made.get("pre_tokenizer") or {}
    parts = before.get("pretokenizers", [before])
    cut = tuple(str(part.get("type")) for part in parts)
    if made["model"].get("type") != "BPE" or cut not in _CUTS:
        raise UnsupportedError(
            f"{file}: a {made['model'].get('type')} tokenizer that cuts texts by {cut} "
            "is not known to be one of llama.cpp's"
        )
    ids: dict[str, int] = made["model"]["vocab"]
    added = {entry["id"]: entry for entry in made.get("added_tokens", ())}
    size = max([*ids.values(), *added]) + 1
    tokens = [f"[UNUSED{index}]" for index in range(size)]
    types = [_UNUSED] * size
    for token, index in ids.items():
        tokens[index], types[index] = token, _NORMAL
    for index, entry in added.items():
        tokens[index] = entry["content"]
        types[index] = _CONTROL if entry.get("special") else _USER
    merges = [m if isinstance(m, str) else " ".join(m) for m in made["model"]["merges"]]
    template = folder / "chat_template.jinja"
    text = template.read_text(encoding="utf-8") if template.is_file() else ""
    return Vocabulary(tokens, types, merges, _CUTS[cut], text)


def write_vocabulary(
    writer: Any, config: Mapping[str, Any], vocabulary: Vocabulary
) -> None:
    """Into a GGUF file, filled up to the model's size.

    Raises:
        UnsupportedError: the tokenizer has more tokens than the model.
    """
    size = int(config["vocab_size"])
    missing = size - len(vocabulary.tokens)
    if missing < 0:
        raise UnsupportedError(
            f"the tokenizer has {len(vocabulary.tokens)} tokens, but the model "
            f"vocab_size={size}"
        )
    more = [f"[PAD{index}]" for index in range(missing)]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(vocabulary.cut)
    writer.add_token_list([*vocabulary.tokens, *more])
    writer.add_token_types([*vocabulary.types, *[_UNUSED] * missing])
    writer.add_token_merges(vocabulary.merges)
    for key in ("bos", "eos"):
        value = config.get(f"{key}_token_id")
        if isinstance(value, int):
            getattr(writer, f"add_{key}_token_id")(value)
    if vocabulary.template:
        writer.add_chat_template(vocabulary.template)
