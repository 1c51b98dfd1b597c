"""Sums over a pair of tensors, gathered tile by tile in one pass.

A tile is a rectangle of the tensors seen as rows of the last axis. Tiles depend on
the shape alone and their sums are added exactly (Shewchuk's `math.fsum`), so the
result does not depend on how the work is cut up.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np

from harness.compare.ulp import ulp_distance

Array = np.ndarray[Any, np.dtype[Any]]

#: Elements of a tile: its float64 temporaries fit a second-level cache.
TILE: Final = 1 << 16
#: Columns of a tile are cut at multiples of this, the widest block that is reported.
WIDEST_BLOCK: Final = 128
#: Longest axis whose profile is kept, so that memory stays bounded.
LONGEST_PROFILE: Final = 1 << 18
#: Widths of the blocks that formats scale together.
BLOCKS: Final = (16, 32, 128)
#: Buckets of |error|: sign-less float32 bits without the 16 lowest of the mantissa.
BUCKETS: Final = 1 << 15


@dataclass(frozen=True)
class Tile:
    """Rows [row, row + rows), columns [column, column + columns)."""

    row: int
    rows: int
    column: int
    columns: int


def tiles(rows: int, columns: int) -> Iterator[Tile]:
    """Tiles of at most `TILE` elements that cover the matrix in order."""
    if columns <= TILE:
        step = max(1, TILE // max(columns, 1))
        for row in range(0, rows, step):
            yield Tile(row, min(step, rows - row), 0, columns)
        return
    for row in range(rows):
        for column in range(0, columns, TILE):
            yield Tile(row, 1, column, min(TILE, columns - column))


@dataclass
class Largest:
    """The largest value seen and where: the first place of equal ones."""

    value: float = 0.0
    place: int = 0

    def see(self, value: float, place: int) -> None:
        """Keep the larger; of equal ones the one that comes first."""
        if value > self.value or (value == self.value and place < self.place):
            self.value, self.place = value, place


@dataclass
class NonFiniteCounts:
    """NaN and infinities of both sides, and places where they do not agree."""

    reference_nan: int = 0
    reference_inf: int = 0
    candidate_nan: int = 0
    candidate_inf: int = 0
    #: One is not finite and the other is not the same infinity; NaN always counts.
    mismatched: int = 0
    first: int = -1


@dataclass
class Moments:
    """What one pass gathers; `rows` x `columns` is the shape seen as a matrix."""

    rows: int
    columns: int
    #: Values are multiplied by this power of two before they are squared.
    scale: float = 1.0
    elements: int = 0
    differing: int = 0
    max_ulp: int = 0
    max_abs: Largest = field(default_factory=Largest)
    max_rel: Largest = field(default_factory=Largest)
    nonfinite: NonFiniteCounts = field(default_factory=NonFiniteCounts)
    error: list[float] = field(default_factory=list)
    error_sq: list[float] = field(default_factory=list)
    reference_sq: list[float] = field(default_factory=list)
    candidate_sq: list[float] = field(default_factory=list)
    product: list[float] = field(default_factory=list)
    histogram: Array = field(default_factory=lambda: np.zeros(BUCKETS, np.int64))
    #: |error| of a tensor of one tile, from which quantiles are exact.
    small: Array | None = None
    #: Error and reference energy by column and by row; None beyond the longest.
    by_column: Array | None = None
    by_row: Array | None = None
    #: Width -> (largest error energy of one block, row, first column).
    worst_blocks: dict[int, tuple[float, int, int]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.columns <= LONGEST_PROFILE:
            self.by_column = np.zeros((2, self.columns))
        if self.rows <= LONGEST_PROFILE:
            self.by_row = np.zeros((2, self.rows))

    def add(self, tile: Tile, reference: Array, candidate: Array) -> None:
        """Take in one tile, both sides of shape (rows, columns) of the tile."""
        r = reference.astype(np.float64)
        c = candidate.astype(np.float64)
        origin = tile.row * self.columns + tile.column
        mask = self._mask_nonfinite(tile, r, c)
        if mask is None:
            ulp = ulp_distance(reference, candidate)
        else:
            ulp = np.where(mask, 0, ulp_distance(reference, candidate))
        self.max_ulp = max(self.max_ulp, int(ulp.max()))
        with np.errstate(over="ignore"):
            e = c - r
        a = np.abs(e)
        self.add_extremes(origin, r, a)
        self._add_buckets(tile, a)
        if self.scale != 1.0:
            r, c = r * self.scale, c * self.scale
            e = c - r
        error_sq, reference_sq = np.square(e), np.square(r)
        # NumPy's pairwise sum: unlike BLAS it does not depend on the threads.
        self.error.append(float(e.sum()))
        self.error_sq.append(float(error_sq.sum()))
        self.reference_sq.append(float(reference_sq.sum()))
        self.candidate_sq.append(float(np.square(c).sum()))
        self.product.append(float((r * c).sum()))
        self._add_profiles(tile, error_sq, reference_sq)
        self.elements += r.size
        self.differing += int(np.count_nonzero(a))

    def _mask_nonfinite(self, tile: Tile, r: Array, c: Array) -> Array | None:
        """Count what is not finite, and set it to zero on both sides."""
        if np.isfinite(r).all() and np.isfinite(c).all():
            return None
        counts = self.nonfinite
        mask = ~(np.isfinite(r) & np.isfinite(c))
        counts.reference_nan += int(np.isnan(r).sum())
        counts.candidate_nan += int(np.isnan(c).sum())
        counts.reference_inf += int(np.isinf(r).sum())
        counts.candidate_inf += int(np.isinf(c).sum())
        wrong = mask & (r != c)
        if wrong.any():
            counts.mismatched += int(wrong.sum())
            place = self._place(tile, int(np.flatnonzero(wrong)[0]))
            counts.first = place if counts.first < 0 else min(counts.first, place)
        r[mask] = 0.0
        c[mask] = 0.0
        return mask

    def _place(self, tile: Tile, index: int) -> int:
        """Flat index in the whole tensor of a flat index in the tile."""
        row, column = divmod(index, tile.columns)
        return (tile.row + row) * self.columns + tile.column + column

    def add_extremes(self, origin: int, r: Array, a: Array) -> None:
        """See the largest |error| and |error| / |reference| of one tile."""
        worst = int(a.argmax())
        # Whole rows are contiguous, so the place is an offset.
        self.max_abs.see(float(a.flat[worst]), origin + worst)
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            relative = a / np.abs(r)
        # 0 / 0: equal zeros are no error.
        worst = int(np.nanargmax(relative)) if a.any() else 0
        self.max_rel.see(
            float(relative.flat[worst]) if a.any() else 0.0, origin + worst
        )

    def _add_buckets(self, tile: Tile, a: Array) -> None:
        if self.rows * self.columns <= TILE and tile.rows == self.rows:
            self.small = a.ravel()
        with np.errstate(over="ignore", under="ignore"):
            narrow = a.astype(np.float32)
        index = narrow.ravel().view(np.uint32) >> np.uint32(16)
        self.histogram += np.bincount(index, minlength=BUCKETS)[:BUCKETS]

    def _add_profiles(self, tile: Tile, error: Array, signal: Array) -> None:
        if self.by_column is not None:
            part = slice(tile.column, tile.column + tile.columns)
            self.by_column[0, part] += error.sum(axis=0)
            self.by_column[1, part] += signal.sum(axis=0)
        if self.by_row is not None:
            part = slice(tile.row, tile.row + tile.rows)
            self.by_row[0, part] += error.sum(axis=1)
            self.by_row[1, part] += signal.sum(axis=1)
        energy, width = error, 1
        for block in BLOCKS:
            if self.columns % block:
                continue
            energy = energy.reshape(tile.rows, -1, block // width).sum(axis=2)
            width = block
            worst = int(energy.argmax())
            row, column = divmod(worst, energy.shape[1])
            value = float(energy.flat[worst])
            if value > self.worst_blocks.get(block, (0.0, 0, 0))[0]:
                place = (tile.row + row, tile.column + column * block)
                self.worst_blocks[block] = (value, *place)

    def total(self, name: str) -> float:
        """Exact sum of the tiles' sums named `name`."""
        return math.fsum(getattr(self, name))


def bucket_edges() -> Array:
    """Upper edge of each bucket: at most 2**-7 above anything in it."""
    last = np.uint64(0xFFFF)
    bits = (np.arange(BUCKETS, dtype=np.uint64) << np.uint64(16)) | last
    edges = bits.astype(np.uint32).view(np.float32)
    # Buckets from infinity's on hold what float32 has no number for.
    edges[np.isnan(edges)] = np.inf
    return edges.astype(np.float64)
