"""Make `cases.jsonl` of the smollm2 suite from the prompts that we wrote.

    python suites/smollm2/make_cases.py

Each prompt gets the reply that the unquantized model writes to it (greedy, float32
over its FP16 weights): the logits of every target are taken over prompt and reply.
Prompts that have one already keep it, unless their text changed.

Needs the extra `llm` and the package that carries SmolLM2.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

FOLDER = Path(__file__).resolve().parent
#: Tokens of a reply that the logits are teacher-forced over.
REPLY = 24
ASKED = ("prompt", "messages", "text", "begins")
KEYS = (*ASKED, "reply", "ended")
#: Tokens of prompt and reply, by which a case is tagged.
LENGTHS = (16, 32, 64, 128, 256, 512, 1024, 2048)


def main() -> None:
    """Read the prompts, ask the model, write the cases."""
    from harness.backends.protocol import Request
    from harness.backends.torch_backend import TorchBackend
    from harness.models.zoo import smollm2

    prompts = read(FOLDER / "prompts.jsonl")
    target = FOLDER / "cases.jsonl"
    kept = {r["id"]: r for r in read(target)} if target.exists() else {}
    model = smollm2()
    requests = []
    for record in prompts:
        before = kept.get(record["id"], {})
        asked = {key: record[key] for key in ASKED if key in record}
        if "text" in record:
            continue
        if "reply" in before and all(before.get(k) == v for k, v in asked.items()):
            record |= {"reply": before["reply"], "ended": before["ended"]}
            continue
        tokens = np.array(model.prompt_tokens(asked), dtype=np.int64)
        requests.append(Request(name=record["id"], tokens=tokens, longest=REPLY))
    session = TorchBackend("fp32").load(model, None)
    by_id = {record["id"]: record for record in prompts}
    for start in range(0, len(requests), 32):
        part = requests[start : start + 32]
        for name, entry in session.generate(part, batch=16).items():
            ids = [t for t in entry.tokens.tolist() if t != model.end]
            by_id[name] |= {"reply": model.tokenizer.decode(ids), "ended": entry.ended}
        print(start + len(part), "of", len(requests), file=sys.stderr)
        write(target, [record for record in prompts if answered(record)])
    for record in prompts:
        ids = model.prepare({k: record[k] for k in record if k in KEYS}, "")
        length = ids["input_ids"].size
        limit = next(limit for limit in LENGTHS if length <= limit)
        record["tags"] = [*record["tags"], f"tokens<={limit}"]
    write(target, prompts)


def answered(record: dict[str, Any]) -> bool:
    """Whether a record needs no reply any more."""
    return "text" in record or "reply" in record


def write(path: Path, records: list[dict[str, Any]]) -> None:
    """A line a record."""
    lines = [json.dumps(record, ensure_ascii=False) for record in records]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def read(path: Path) -> list[dict[str, Any]]:
    """The records of a file of lines."""
    lines = path.read_text(encoding="utf-8").split("\n")
    return [json.loads(line) for line in lines if line.strip()]


if __name__ == "__main__":
    main()
