"""The reader under mutated files: never a crash, never a wrong acceptance."""

from __future__ import annotations

import os
import resource

import numpy as np
import pytest

from harness.errors import GoldenError
from harness.golden.store import Golden, compact, read_golden, write_golden

#: Mutated files a run; QUANTHARNESS_FUZZ asks for more (100,000 take some minutes).
COUNT = int(os.environ.get("QUANTHARNESS_FUZZ", "500"))


def mutate(data, other, rng):
    """One of the ways in which files get damaged."""
    out = bytearray(data)
    place, length = int(rng.integers(len(out))), int(rng.integers(1, 64))
    match rng.integers(10):
        case 0:
            out[place] ^= 1 << int(rng.integers(8))
        case 1:
            out[place] = int(rng.integers(256))
        case 2:
            del out[place:]
        case 3:
            del out[place : place + length]
        case 4:
            out[place:place] = rng.bytes(length)
        case 5:
            out[place:place] = out[place : place + length]
        case 6:
            out[place : place + length] = bytes(min(length, len(out) - place))
        case 7:
            start = int(rng.integers(len(other)))
            out[place : place + length] = other[start : start + length]
        case 8:
            # A number becomes another one: sizes, offsets, shapes.
            digits = [i for i, c in enumerate(out) if 48 <= c < 58]
            out[digits[int(rng.integers(len(digits)))]] = int(rng.integers(48, 58))
        case _:
            for _ in range(int(rng.integers(2, 20))):
                out[int(rng.integers(len(out)))] = int(rng.integers(256))
    return bytes(out)


@pytest.fixture
def folder(tmp_path):
    """Two small goldens; on a memory disk where there is one."""
    for suite in ("mine", "other"):
        rng = np.random.default_rng(len(suite))
        outputs = {
            f"case-{n}": {
                "y": compact(rng.standard_normal((1, 3)).astype(np.float16)),
                "p": compact(
                    rng.dirichlet(np.ones(40), 1).astype(np.float32),
                    kind="distribution",
                ),
            }
            for n in range(2)
        }
        golden = Golden(
            suite=suite,
            model_fingerprint="m",
            cases_fingerprint="c",
            outputs=outputs,
            noise_floor={"repeat": 0.0},
        )
        write_golden(golden, tmp_path / suite)
    return tmp_path


def test_mutated_files(folder):
    """Every mutation is refused with a GoldenError, or changed nothing that counts."""
    before = read_golden(folder / "mine")
    kept = {p.name: p.read_bytes() for p in (folder / "mine").iterdir()}
    others = [p.read_bytes() for p in (folder / "other").iterdir()]
    rng = np.random.default_rng(20261123)
    accepted = 0
    start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for number in range(COUNT):
        name = sorted(kept)[number % len(kept)]
        damaged = mutate(kept[name], others[int(rng.integers(len(others)))], rng)
        path = folder / "mine" / name
        path.write_bytes(damaged)
        try:
            found = read_golden(folder / "mine", suite="mine")
        except GoldenError:
            pass
        else:
            accepted += 1
            assert found.digest == before.digest, damaged
            for case, outputs in before.outputs.items():
                for output, entry in outputs.items():
                    other = found.outputs[case][output]
                    assert entry.array.tobytes() == other.array.tobytes(), damaged
        path.write_bytes(kept[name])
    # Only white space and the order of keys do not count.
    assert accepted <= 0.1 * COUNT
    # Kilobytes: no mutation makes the reader ask for much more than the files have.
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - start < 64 << 10
