"""The gate beside other tools on the same planted ONNX models, in one run.

    python benchmarks/selftest/run.py [--without-peers] [--only vad] [--seed 0]

Writes result.json; page.py makes docs/selftest-against-peers.md of it. Tools take turns
on every model, so that what else the machine does hits all alike; one thread each.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import platform
import tempfile
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import score
import thresholds
from ours import Ours
from planted import Bench, Counter, Specimen, controls, drawn, open_bench

from harness.files import write_text

HERE = Path(__file__).parent
SCHEMES = {
    "vad": ("int8", "fp8_e4m3", "mxfp8", "nvfp4"),
    "minilm": ("int8", "fp8_e4m3", "nvfp4"),
}
#: Plantings drawn for each scheme.
COUNTS = {"vad": 9, "minilm": 4}
PACKAGES = ("onnxruntime", "onnx", "polygraphy", "onnx-graphsurgeon", "numpy", "torch")


class Tools:
    """Every tool that is at hand, ready for a suite."""

    def __init__(self, bench: Bench, ours: Ours | None, *, peers: bool) -> None:
        self.bench = bench
        self.ours = ours
        self.right = {
            size: bench.outputs(bench.reference, Counter(), control)
            for size, control in ((bench.suite.batch, ""), (1, "batch"))
        }
        self.polygraphy: Any = None
        if peers:
            from polygraphy_peer import Polygraphy
            from qdq_peer import QdqLossDebug

            self.polygraphy = Polygraphy(bench)
            self.qdq = QdqLossDebug(bench)

    def measure(self, specimen: Specimen) -> dict[str, Any]:
        """Tool -> what it measured, how many runs, wall seconds."""
        right = self.right[self.bench.size(specimen.control)]
        taken = {
            "plain threshold": lambda: thresholds.measure(self.bench, specimen, right)
        }
        if self.ours is not None:
            told = self.ours
            taken["quantharness"] = lambda: told.measure(specimen)
        # One case a call changes what the statistics of a call mean: not these two.
        if self.polygraphy is not None and specimen.control != "batch":
            for layers, name in ((False, ""), (True, ", all operators")):
                taken[f"polygraphy run{name}"] = lambda layers=layers: (
                    self.polygraphy.measure(specimen, layers=layers)
                )
            if not specimen.control:
                taken["qdq_loss_debug"] = lambda: self.qdq.measure(specimen)
        found = {}
        for tool, function in taken.items():
            start = time.perf_counter()
            measured = function()
            seconds = time.perf_counter() - start
            found[tool] = {"seconds": seconds, **measured}
        return found


def collected(
    suites: Sequence[str],
    *,
    counts: dict[str, int],
    schemes: dict[str, tuple[str, ...]],
    seed: int = 0,
    peers: bool = True,
    with_ours: bool = True,
    reduce: int = 0,
    cases: int = 0,
) -> dict[str, Any]:
    """Every specimen with what every tool measured of it."""
    rows: list[dict[str, Any]] = []
    operators = {}
    reduced: list[dict[str, Any]] = []
    start = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="selftest-") as folder:
        for name in suites:
            bench = open_bench(name, schemes[name], cases)
            operators[name] = bench.tensors
            told = Ours(bench, Path(folder)) if with_ours else None
            tools = Tools(bench, told, peers=peers)
            for scheme in schemes[name]:
                taken = [*controls(bench, scheme)]
                taken += drawn(bench, scheme, counts[name], seed)
                for specimen in taken:
                    row = {**specimen.as_dict(), "tools": tools.measure(specimen)}
                    rows.append(row)
                    _tell(row, time.perf_counter() - start)
                if peers and name == "vad" and len(reduced) < reduce:
                    reduced += _reduced(bench, scheme, taken)
            if told is not None:
                told.__exit__(None, None, None)
    return {
        "seconds": round(time.perf_counter() - start),
        "rows": rows,
        "operators": operators,
        "reduce": reduced,
    }


def scored(found: dict[str, Any], *, peers: bool, with_ours: bool) -> dict[str, Any]:
    """What `collected` found, as it is written: the table, without the distances."""
    rows, operators = score.with_both(found["rows"]), found["operators"]
    return {
        "seconds": found["seconds"],
        "table": _table(rows, operators, peers=peers, with_ours=with_ours),
        "reduce": found["reduce"],
        "not_as_it_should": score.missed(rows),
        "specimens": _listed(rows),
    }


def _table(rows: Any, operators: Any, *, peers: bool, with_ours: bool) -> list[Any]:
    lines = [score.ours(rows)] if with_ours else []
    lines += [score.judged(rows, s, operators) for s in score.settings(peers)]
    return lines


def _listed(rows: Any) -> list[dict[str, Any]]:
    """What was planted; without the distances, which are many."""
    found = []
    for row in rows:
        entry = {k: v for k, v in row.items() if k != "tools" and v not in ("", None)}
        told = row["tools"].get("quantharness")
        if told is not None:
            entry["quantharness"] = told["verdict"] or f"unfit: {told['unfit']}"
        found.append(entry)
    return found


def _reduced(bench: Bench, scheme: str, taken: Any) -> list[dict[str, Any]]:
    """Polygraphy's `debug reduce` on a scheme's first defect of one operator."""
    from reduce_peer import Reduce

    single = [
        s
        for s in taken
        if s.planting and s.planting.operator and s.level == "catalogue"
    ]
    peer = Reduce(bench, scheme)
    return [{**s.as_dict(), **peer.measure(s)} for s in single[:1]]


def _tell(row: dict[str, Any], seconds: float) -> None:
    tools = {name: round(t["seconds"], 1) for name, t in row["tools"].items()}
    told = row["tools"].get("quantharness", {})
    shown = [row["suite"], row["scheme"], row["defect"] or f"clean {row['control']}"]
    shown += [row["planted_in"], row["level"], told.get("verdict", "")]
    print(round(seconds), *shown, tools, flush=True)


def environment() -> dict[str, Any]:
    """The machine and what is installed on it."""
    lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
    model = next(line.split(":")[1].strip() for line in lines if "model name" in line)
    versions = {}
    for name in PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return {
        "cpu": model,
        "cores": len(os.sched_getaffinity(0)),
        "python": platform.python_version(),
        "versions": versions,
    }


def _compact(result: dict[str, Any]) -> str:
    """JSON with a line for every entry of its lists."""
    parts = []
    for key, value in result.items():
        if isinstance(value, list):
            entries = ",\n  ".join(json.dumps(entry) for entry in value)
            parts.append(f'"{key}": [\n  {entries}\n ]' if value else f'"{key}": []')
        else:
            parts.append(f'"{key}": {json.dumps(value)}')
    return "{\n " + ",\n ".join(parts) + "\n}\n"


def main() -> None:
    """Measure, and write result.json."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="", help="one suite")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--count", type=int, default=0, help="plantings a scheme")
    parser.add_argument("--reduce", type=int, default=2, help="defects of vad")
    parser.add_argument("--without-peers", action="store_true")
    parser.add_argument("--rows", type=Path, help="also write all distances there")
    parser.add_argument("--again", type=Path, help="score what --rows wrote anew")
    parser.add_argument("--out", type=Path, default=HERE / "result.json")
    arguments = parser.parse_args()
    peers = not arguments.without_peers
    if peers and importlib.util.find_spec("polygraphy") is None:
        parser.error(
            "polygraphy is not installed: pip install polygraphy onnx-graphsurgeon, or "
            "--without-peers"
        )
    suites = [name for name in SCHEMES if arguments.only in ("", name)]
    counts = {name: arguments.count or COUNTS[name] for name in suites}
    if arguments.again is not None:
        found = json.loads(arguments.again.read_text("utf-8"))
    else:
        found = collected(
            suites,
            counts=counts,
            schemes=SCHEMES,
            seed=arguments.seed,
            peers=peers,
            reduce=arguments.reduce,
        )
    if arguments.rows is not None:
        arguments.rows.write_text(json.dumps(found), "utf-8")
    result = {
        "date": datetime.now(UTC).date().isoformat(),
        "seed": arguments.seed,
        "counts": counts,
        "schemes": {name: SCHEMES[name] for name in suites},
        "environment": environment(),
        **scored(found, peers=peers, with_ours=True),
    }
    write_text(arguments.out, _compact(result))


if __name__ == "__main__":
    main()
