"""llama-perplexity --kl-divergence beside the gate, on the same planted GGUF files.

    python benchmarks/selftest/kl_peer.py BIN [--seed 0]

BIN is the folder of a build of llama.cpp with llama-perplexity (docs/language-models.md
says how). Writes kl_result.json, which page.py puts into the page. Both sides are
given SmolLM2 as our llama.cpp backend writes it, with one defect of stored bytes each,
drawn by seed: llama-perplexity the file, quantharness the planting, which makes the
same file. As in the self-test the gate has 12 cases first, and all where it misses.

What llama-perplexity compares with is the F16 model, on 4 chunks of 512 tokens of
Python's own documentation. Clean runs are the same files with other threads, batches
and kernels. One thread a process otherwise.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import platform
import pydoc_data.topics
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import version
from itertools import cycle
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
from kl_gate import SUITE, Gate, file_check

from harness.backends.llama_cpp_file import Written, write_model
from harness.backends.registry import load_registry
from harness.defects import Defect, Planting, find_defect
from harness.defects.stored import STORED, plant_gguf
from harness.errors import UnsupportedError
from harness.execution.suite import load_suite
from harness.files import write_text
from harness.models.zoo import smollm2

HERE = Path(__file__).parent
RESULT = HERE / "kl_result.json"
CHUNKS, LENGTH = 4, 512
#: Scheme -> plantings.
COUNTS = {"gguf_q8_0": 8, "gguf_q4_0": 4}
#: Clean runs -> options of llama-perplexity that change nothing that should matter.
CONTROLS = {
    "as built": (),
    "not repacked": ("--no-repack",),
    "other batches": ("-b", "128", "-ub", "128"),
    "two threads": ("-t", "2"),
}
#: Clean runs of a scheme, the first so many; of those, the first so many of the gate.
CLEAN = {"gguf_q8_0": (4, 2), "gguf_q4_0": (2, 1)}
#: What it prints -> our name. Errors of the mean stand beside.
PRINTED = {
    "mean KL": r"Mean\s+KLD:\s+(\S+)",
    "99% KL": r"99\.0%\s+KLD:\s+(\S+)",
    "ln PPL ratio": r"Mean ln\(PPL\(Q\)/PPL\(base\)\)\s*:\s+(\S+)",
    "PPL ratio": r"Mean PPL\(Q\)/PPL\(base\)\s*:\s+(\S+)",
    "same top %": r"Same top p:\s+(\S+)",
}


def drawn(names: Sequence[str], seed: int) -> Iterator[tuple[Defect, Planting, str]]:
    """Severities in turn, three of four in one weight, every other one faint."""
    rng = np.random.default_rng(seed)
    by_severity: dict[str, list[Defect]] = {}
    for index in rng.permutation(len(STORED)):
        by_severity.setdefault(STORED[index].severity, []).append(STORED[index])
    order = cycle([by_severity[s] for s in ("silent", "visible", "catastrophic")])
    for number in range(8 * len(STORED)):
        queue = next(order)
        defect = queue.pop(0)
        queue.append(defect)
        level = "low" if number % 2 else "catalogue"
        one = None if number % 4 == 3 else str(rng.choice(names))
        strength = float(getattr(defect.parameter, level))
        planting = Planting(defect=defect.name, operator=one, strength=strength)
        yield defect, planting, level


def text() -> str:
    """Some of the topics that Python's `help` knows."""
    topics = pydoc_data.topics.topics
    return "\n\n".join(topics[name] for name in sorted(topics))[:40000]


class Perplexity:
    """llama-perplexity, and the base that it compares with."""

    def __init__(self, binary: Path, folder: Path, base: Path) -> None:
        self.tool = binary / "llama-perplexity"
        self.words = folder / "words.txt"
        self.words.write_text(text(), "utf-8")
        self.base = folder / "base.kld"
        self.record = self._run(base, ())

    def _run(self, file: Path, options: Sequence[str]) -> dict[str, Any]:
        command = [str(self.tool), "-m", str(file), "-f", str(self.words)]
        command += ["-c", str(LENGTH), "--chunks", str(CHUNKS)]
        command += ["--kl-divergence-base", str(self.base)]
        if "-t" not in options:
            command += ["-t", "1"]
        start, before = time.perf_counter(), os.times()
        done = subprocess.run(
            [*command, *options], capture_output=True, text=True, check=False
        )
        used = os.times()
        return {
            "rc": done.returncode,
            "seconds": time.perf_counter() - start,
            "cpu": used.children_user
            + used.children_system
            - before.children_user
            - before.children_system,
            "printed": done.stdout + done.stderr,
        }

    def measure(self, file: Path, options: Sequence[str] = ()) -> dict[str, Any]:
        """Its statistics of a file; None where it prints none or NaN."""
        ran = self._run(file, ("--kl-divergence", *options))
        values: dict[str, float | None] = {}
        for name, pattern in PRINTED.items():
            found = re.search(pattern, ran["printed"])
            number = float(found[1].rstrip("%")) if found else float("nan")
            values[name] = number if np.isfinite(number) else None
        if ran["rc"] == 0 and not re.search(PRINTED["mean KL"], ran["printed"]):
            sys.exit(f"{self.tool}: prints no mean KL: {ran['printed'][-2000:]}")
        return {"rc": ran["rc"], "values": values, **_times(ran)}


def _times(ran: dict[str, Any]) -> dict[str, float]:
    return {"seconds": round(ran["seconds"], 1), "cpu": round(ran["cpu"], 1)}


class Results:
    """Rows that are kept as they are measured; what is there is not measured again."""

    def __init__(self, out: Path, head: dict[str, Any]) -> None:
        self.out = out
        self.result: dict[str, Any] = {**head, "rows": []}
        self.known = json.loads(out.read_text("utf-8")) if out.exists() else {}

    def add(
        self, row: dict[str, Any], tools: dict[str, Callable[[], dict[str, Any]]]
    ) -> None:
        """Measure a file with the tools that have not measured it."""
        same = [
            known["tools"]
            for known in self.known.get("rows", ())
            if {**known, "tools": 0} == {**row, "tools": 0}
        ]
        found = dict(same[0]) if same else {}
        for name, measure in tools.items():
            if name not in found:
                found[name] = measure()
        self.result["rows"].append({**row, "tools": found})
        write_text(self.out, json.dumps(self.result, indent=1) + "\n")
        print(json.dumps(self.result["rows"][-1]), flush=True)


def collected(
    binary: Path, seed: int, out: Path, schemes: Sequence[str], gated: int
) -> None:
    """Every file with what each tool measured of it."""
    model = smollm2()
    suite = load_suite(SUITE / "suite.toml", load_registry(()))
    targets = {t.scheme.name: t for t in suite.targets if t.backend == "llama.cpp"}
    with tempfile.TemporaryDirectory(prefix="kl-peer-") as name:
        folder = Path(name)
        theirs = Perplexity(binary, folder, write_model(model, None, "fp16").file)
        gate = Gate(folder) if gated else None
        results = Results(
            out,
            {
                "date": datetime.now(UTC).date().isoformat(),
                "seed": seed,
                "chunks": CHUNKS,
                "length": LENGTH,
                "record": _times(theirs.record),
                "base_bytes": theirs.base.stat().st_size,
                "environment": _environment(),
            },
        )
        for key in schemes:
            scheme = targets[key].scheme
            written = write_model(model, scheme, "fp16")
            most, judged = CLEAN[key]
            for number, control in enumerate(list(CONTROLS)[:most]):
                options = CONTROLS[control]
                tools = {
                    "llama-perplexity": partial(theirs.measure, written.file, options)
                }
                if not number:
                    tools["file check"] = partial(file_check, written, scheme, model)
                if gate is not None and number < judged:
                    tools["quantharness"] = partial(gate.control, key, control)
                results.add({"scheme": key, "control": control}, tools)
            for number, (row, planting, file) in enumerate(
                _files(written, key, seed, folder / "planted.gguf")
            ):
                copy = dataclasses.replace(written, file=file)
                tools = {
                    "llama-perplexity": partial(theirs.measure, file),
                    "file check": partial(file_check, copy, scheme, model),
                }
                if gate is not None and number < gated:
                    tools["quantharness"] = partial(gate.measure, key, planting)
                results.add(row, tools)
        if gate is not None:
            gate.worker.close()


def _files(
    written: Written, scheme: str, seed: int, file: Path
) -> Iterator[tuple[dict[str, Any], Planting, Path]]:
    """As many planted files of a scheme as are wanted, one after another."""
    left = COUNTS[scheme]
    for defect, planting, level in drawn(sorted(written.names), seed):
        if not left:
            return
        try:
            _plant(written, file, planting)
        except UnsupportedError:
            continue
        left -= 1
        row = {
            "scheme": scheme,
            "defect": defect.name,
            "planted_in": planting.operator or "all",
            "strength": planting.strength,
            "severity": defect.severity,
            "level": level,
        }
        yield row, planting, file


def _plant(written: Written, file: Path, planting: Planting) -> None:
    """The file that the planted backend loads, byte by byte."""
    names = written.names
    one = planting.operator
    theirs = dataclasses.replace(planting, operator=names[one] if one else None)
    among = set(names.values()) - {names.get("lm_head")}
    defect = find_defect(planting.defect)
    plant_gguf(written.file, file, defect, theirs, among=among)


def _environment() -> dict[str, Any]:
    lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
    cpu = [line.split(":")[1].strip() for line in lines if "model name" in line]
    return {
        "cpu": cpu[0] if cpu else platform.processor(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "xllamacpp": version("xllamacpp"),
        "llama-perplexity": "llama-cpp-python 0.3.36",
    }


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("binary", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=RESULT)
    parser.add_argument("--scheme", action="append", choices=list(COUNTS))
    parser.add_argument(
        "--gate", type=int, default=99, help="planted files that the gate is given too"
    )
    options = parser.parse_args()
    schemes = options.scheme or list(COUNTS)
    collected(options.binary, options.seed, options.out, schemes, options.gate)


if __name__ == "__main__":
    main()
