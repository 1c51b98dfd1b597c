"""llama.cpp's KL base file (`llama-perplexity --kl-divergence-base`), read.

So that whoever has one can switch without running the reference again. Layout, as
`tools/perplexity/perplexity.cpp` writes it, little-endian: the magic `_logits_`, then
context length, vocabulary and number of chunks (int32 each), the tokens of all chunks
(int32), then for each scored token a float32 scale, a float32 minimum and one uint16
code a token of the vocabulary (padded to an even number): log p = scale * code +
minimum. The second half of each chunk is scored.

The file cuts probabilities off 16 nats below the largest and its codes do not sum to
one; log-softmax makes them a distribution again. That floor of the KL, about 2e-4, is
in the file and stays in what is made of it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from harness.errors import UsageError
from harness.golden.compact import CompactOutput, compact

Array = np.ndarray[Any, np.dtype[Any]]

_MAGIC: Final = b"_logits_"
#: Larger than any vocabulary or context: beyond it the header is not one.
_LARGEST: Final = 1 << 24


@dataclass(frozen=True, eq=False)
class KlBase:
    """A base file, opened; rows are read when asked for."""

    path: Path
    context: int
    vocabulary: int
    chunks: int
    #: (chunks, context) int32.
    tokens: Array
    #: Byte at which the rows begin.
    start: int

    @property
    def first(self) -> int:
        """First scored position of a chunk."""
        return self.context // 2

    @property
    def rows(self) -> int:
        """Scored positions of a chunk."""
        return self.context - 1 - self.first

    def labels(self, chunk: int) -> Array:
        """(rows,) the token that follows each scored position: the right one."""
        found: Array = self.tokens[chunk, self.first + 1 :]
        return found

    def log_probabilities(self, chunk: int) -> Array:
        """(rows, vocabulary) float32, as coded: they do not quite sum to one.

        Raises:
            UsageError: there is no such chunk.
        """
        if not 0 <= chunk < self.chunks:
            raise UsageError(f"{self.path}: chunk {chunk} of {self.chunks}")
        width = _row_words(self.vocabulary)
        data = np.memmap(
            self.path,
            np.dtype("<u2"),
            "r",
            offset=self.start + chunk * self.rows * width * 2,
            shape=(self.rows, width),
        )
        head = np.ascontiguousarray(data[:, :4]).view("<f4")
        codes = data[:, 4 : 4 + self.vocabulary].astype(np.float32)
        found: Array = codes * head[:, :1] + head[:, 1:]
        return found

    def outputs(self) -> Iterator[tuple[str, CompactOutput]]:
        """Each chunk as a case, its logits in the form that a golden keeps."""
        for chunk in range(self.chunks):
            yield (
                f"chunk-{chunk:04d}",
                compact(
                    self.log_probabilities(chunk),
                    kind="logits",
                    labels=self.labels(chunk),
                ),
            )


def read_kl_base(path: Path) -> KlBase:
    """Open a base file and check that it is whole.

    Raises:
        UsageError: not such a file, or truncated; says by how much.
    """
    size = os.stat(path).st_size  # noqa: PTH116 - raises for what is not there
    with path.open("rb") as file:
        if file.read(8) != _MAGIC:
            raise UsageError(f"{path}: not a KL base file of llama.cpp (no _logits_)")
        head = file.read(12)
        header = np.frombuffer(head[: len(head) // 4 * 4], "<i4")
        if len(header) < 3 or not all(0 < n < _LARGEST for n in header.tolist()):
            raise UsageError(f"{path}: its header is damaged or truncated")
        context, vocabulary, chunks = header.tolist()
        start = 20 + 4 * context * chunks
        rows = chunks * (context - 1 - context // 2)
        wanted = start + rows * _row_words(vocabulary) * 2
        if size != wanted:
            what = "truncated" if size < wanted else "too long"
            raise UsageError(f"{path}: {what}: {size} bytes, but should be {wanted}")
        tokens = np.frombuffer(file.read(4 * context * chunks), "<i4")
    return KlBase(
        path, context, vocabulary, chunks, tokens.reshape(chunks, context), start
    )


def _row_words(vocabulary: int) -> int:
    """uint16 words of one row."""
    return 2 * ((vocabulary + 1) // 2) + 4
