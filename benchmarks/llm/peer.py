"""llama-perplexity --kl-divergence beside us: time, memory, bytes, on the same engine.

    python benchmarks/llm/peer.py BIN --out benchmarks/llm/peer.json

BIN is the folder of a build of llama.cpp with llama-perplexity and libllama.so (docs/
language-models.md says how). Both sides run the same two GGUF files, SmolLM2 in F16 and
in Q8_0, on the same tokens with the same library and one thread: four chunks of 512
tokens of Python's own documentation, of which the second halves are scored. Each side
is a process of its own; its peak memory is the system's.
"""

from __future__ import annotations

import argparse
import json
import os
import pydoc_data.topics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

CHUNKS, LENGTH, BLOCK = 4, 512, 32
ASK = {"format": "int8", "granularity": "block", "block": 32, "rule": "ggml"}


def text() -> str:
    """Some of the topics that Python's `help` knows."""
    topics = pydoc_data.topics.topics
    return "\n\n".join(topics[name] for name in sorted(topics))[:40000]


def files() -> dict[str, Path]:
    """The two GGUF files, written by us."""
    from harness.backends.llama_cpp_file import write_model
    from harness.models.zoo import smollm2
    from harness.schemes.catalogue import scheme_from_table

    table = {"weights": ASK, "activations": ASK, "keep": ["lm_head"]}
    model = smollm2()
    scheme = scheme_from_table("gguf_q8_0", table)
    return {
        "f16": write_model(model, None, "fp16").file,
        "q8_0": write_model(model, scheme, "fp16").file,
    }


def measured(command: list[str], **environment: str) -> dict[str, Any]:
    """Wall and processor seconds and peak megabytes of a process, what it printed."""
    start = time.perf_counter()
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        process = subprocess.Popen(
            command, stdout=out, stderr=err, env={**os.environ, **environment}
        )
        _, status, used = os.wait4(process.pid, 0)
        wall = time.perf_counter() - start
        out.seek(0)
        err.seek(0)
        printed = out.read()
        if status:
            sys.exit(f"{command[0]} failed: {err.read()[-2000:]}")
    return {
        "wall_s": round(wall, 2),
        "cpu_s": round(used.ru_utime + used.ru_stime, 2),
        "peak_mb": round(used.ru_maxrss / 1024, 1),
        "printed": printed,
    }


def theirs(binary: Path, models: dict[str, Path], base: Path, words: Path) -> Any:
    """The base file recorded, and a quantized model held against it."""
    shared = ["-f", str(words), "-c", str(LENGTH), "--chunks", str(CHUNKS), "-t", "1"]
    tool, kept = str(binary / "llama-perplexity"), ["--kl-divergence-base", str(base)]
    record = measured([tool, "-m", str(models["f16"]), *shared, *kept])
    score = [tool, "-m", str(models["q8_0"]), *shared, *kept, "--kl-divergence"]
    evaluate = measured(score)
    return {"record": record, "evaluate": evaluate, "bytes": base.stat().st_size}


def ours(binary: Path, models: dict[str, Path], base: Path, golden: Path) -> Any:
    """The same: a golden recorded, a quantized model held against it; and nothing."""
    found = {}
    for step, model in (("record", "f16"), ("evaluate", "q8_0"), ("bare", "q8_0")):
        command = [sys.executable, __file__, str(binary), "--step", step]
        command += ["--model", str(models[model]), "--base", str(base)]
        found[step] = measured([*command, "--golden", str(golden)])
        found[step] |= json.loads(found[step].pop("printed"))
    return {**found, "bytes": golden.stat().st_size}


def one_step(options: argparse.Namespace) -> None:
    """A process of ours: prints its own seconds, without Python's start."""
    import numpy as np

    from harness.backends import llama_cpp_library
    from harness.backends.llama_cpp_engine import Context, LoadedModel
    from harness.compare.logits import compare_logits
    from harness.golden.compact import compact
    from harness.golden.interchange import read_kl_base

    llama_cpp_library.library_file = lambda: options.binary / "libllama.so"
    base = read_kl_base(options.base)
    kept = _read(options.golden) if options.step == "evaluate" else {}
    model = LoadedModel(options.model)
    context = Context(model, sequences=1, length=LENGTH, outputs=LENGTH // 2)
    wanted = np.arange(LENGTH) >= LENGTH // 2
    wanted[-1] = False
    start, parts, written = time.perf_counter(), [], {}
    owner, places = np.zeros(LENGTH, int), np.arange(LENGTH)
    for chunk, tokens in enumerate(base.tokens):
        context.clear()
        # Rows of logits come a few at a time: memory does not grow with the text.
        blocks = context.stream(tokens, places, owner, wanted, rows=BLOCK)
        labels = base.labels(chunk)
        for index, logits in enumerate(blocks):
            name = f"{chunk}-{index}"
            if options.step == "record":
                right = labels[index * BLOCK :][: len(logits)]
                entry = compact(logits, kind="logits", labels=right)
                kept_too = {**entry.tensors, "shape": np.array(entry.shape)}
                written |= {f"{name}.{key}": a for key, a in kept_too.items()}
            elif options.step == "evaluate":
                parts.append(compare_logits(kept[name], logits))
    seconds = time.perf_counter() - start
    if options.step == "record":
        np.savez(options.golden, **written)
    rows = [value for part in parts for value in part.kl_rows]
    print(
        json.dumps(
            {
                "seconds": round(seconds, 2),
                "kl": float(np.mean(rows)) if rows else None,
            }
        )
    )


def _read(path: Path) -> dict[str, Any]:
    """The golden, block by block."""
    import numpy as np

    from harness.golden.compact import CompactOutput

    stored = np.load(path, allow_pickle=False)
    found: dict[str, dict[str, Any]] = {}
    for key in stored.files:
        name, _, role = key.partition(".")
        found.setdefault(name, {})[role] = stored[key]
    return {
        name: CompactOutput(
            "logits", tuple(tensors.pop("shape").tolist()), "float32", tensors
        )
        for name, tensors in found.items()
    }


def without_text(found: Any) -> Any:
    """The numbers, and of what llama-perplexity printed the mean KL."""
    if isinstance(found, dict):
        lines = found.pop("printed", "").splitlines()
        means = [line.split()[2] for line in lines if line.startswith("Mean    KLD")]
        found |= {"kl": float(means[0])} if means else {}
        return {key: without_text(value) for key, value in found.items()}
    return found


def main() -> None:
    """Measure both sides three times."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("binary", type=Path)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--step", choices=["files", "record", "evaluate", "bare"])
    for name in ("model", "base", "golden"):
        parser.add_argument(f"--{name}", type=Path)
    options = parser.parse_args()
    if options.step == "files":
        print(json.dumps({name: str(file) for name, file in files().items()}))
        return
    if options.step:
        one_step(options)
        return
    os.environ.update(QUANTHARNESS_THREADS="1", OMP_NUM_THREADS="1")
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    # In a process of its own: what this one held would count as its children's peak.
    command = [sys.executable, __file__, str(options.binary), "--step", "files"]
    printed = measured(command)["printed"]
    models = {name: Path(file) for name, file in json.loads(printed).items()}
    runs = []
    with tempfile.TemporaryDirectory() as folder:
        base, golden = Path(folder) / "base.kld", Path(folder) / "golden.npz"
        words = Path(folder) / "text.txt"
        words.write_text(text(), encoding="utf-8")
        for _ in range(3):
            both = {
                "llama_perplexity": theirs(options.binary, models, base, words),
                "quantharness": ours(options.binary, models, base, golden),
            }
            runs.append(without_text(both))
    result = {
        "what": "SmolLM2-135M, Q8_0 against F16, 4 x 512 tokens, 1020 scored, "
        "one thread; three runs",
        "load": os.getloadavg(),
        "runs": runs,
    }
    shown = json.dumps(result, indent=1)
    if options.out:
        options.out.write_text(shown + "\n")
    print(shown)


if __name__ == "__main__":
    main()
