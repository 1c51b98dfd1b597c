"""Running a matrix of suites and targets: configuration, workers, runs, recording."""

from __future__ import annotations
