"""The language model of `tiny_gguf` as tests use it: loaded, or in a suite."""

from __future__ import annotations

import json
from contextlib import contextmanager

import pytest

from harness.models.load import load_model

from .tiny_gguf import write_gguf

#: How `suite.toml` begins; more keys of its `[suite]` may follow.
HEAD = """\
[suite]
name = "tiny"
model = "tiny.gguf"
cases = "cases.jsonl"
reference = { backend = "torch", precision = "fp32" }
"""


@contextmanager
def cached_in(folder, *, threads=None):
    """The folder, whose `cache` is the harness's cache meanwhile.

    Args:
        folder: where `cache` is made.
        threads: how many are used, a text; None: as many as the environment says.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("QUANTHARNESS_CACHE", str(folder / "cache"))
        if threads is not None:
            patch.setenv("QUANTHARNESS_THREADS", threads)
        yield folder


@contextmanager
def tiny_language(folder, *, threads=None, **options):
    """A model of a few thousand weights, float16 and float32, with its own cache.

    Args:
        folder: where `tiny.gguf` and `cache` are made.
        threads: as `cached_in` takes them.
        options: what `write_gguf` takes, such as `seed`.
    """
    with cached_in(folder, threads=threads):
        write_gguf(folder / "tiny.gguf", **options)
        yield load_model("tiny.gguf", folder)


def write_tiny_suite(folder, text, cases, **options):
    """Write a suite's files: `tiny.gguf`, `suite.toml` and `cases.jsonl`.

    Args:
        folder: the suite's, made where it is not there.
        text: what follows HEAD in `suite.toml`.
        cases: records, one a line.
        options: what `write_gguf` takes, such as `seed`.
    """
    folder.mkdir(exist_ok=True)
    write_gguf(folder / "tiny.gguf", **options)
    (folder / "suite.toml").write_text(HEAD + text)
    lines = [json.dumps(case) for case in cases]
    (folder / "cases.jsonl").write_text("\n".join(lines))
