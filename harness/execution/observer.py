"""What a caller can watch of a run."""

from __future__ import annotations

from typing import Protocol

from harness.judge.types import Judgement


class Observer(Protocol):
    """Told of a run's course; every method may be called from another thread."""

    def on_start(self, total: int, title: str) -> None:
        """`total` targets will be run."""

    def on_target(self, name: str) -> None:
        """A target has started."""

    def on_progress(self, name: str, done: int, total: int) -> None:
        """`done` of `total` cases of the target have run."""

    def on_done(self, judgement: Judgement) -> None:
        """A target has its verdict."""

    def on_step(self) -> None:
        """One of the total is done, and it is no target."""

    def on_message(self, text: str) -> None:
        """Something worth one line."""

    def on_finish(self) -> None:
        """Nothing more will come."""


class Silent:
    """Watches nothing."""

    def on_start(self, total: int, title: str) -> None:
        """Nothing to show."""

    def on_target(self, name: str) -> None:
        """Nothing to show."""

    def on_progress(self, name: str, done: int, total: int) -> None:
        """Nothing to show."""

    def on_done(self, judgement: Judgement) -> None:
        """Nothing to show."""

    def on_step(self) -> None:
        """Nothing to show."""

    def on_message(self, text: str) -> None:
        """Nothing to show."""

    def on_finish(self) -> None:
        """Nothing to show."""
