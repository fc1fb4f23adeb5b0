"""What a training run shows: bars for the pictures and steps, the loss beside them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from typing import Any

import rich.console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from backdrop_export.training.loop import worker


class Console:
    """Bars on a terminal; elsewhere a line now and then; ``quiet`` shows nothing."""

    def __init__(self, quiet: bool = False, every: int = 100) -> None:
        self._console = rich.console.Console(quiet=quiet, highlight=False)
        self._every = every
        self._name, self._total = "", 0

    def track(self, items: Iterable[Any], name: str, total: int) -> Iterable[Any]:
        """The items, with a bar."""
        with self._bar() as bar:
            yield from bar.track(items, total=total, description=name)

    def _bar(self) -> Progress:
        return Progress(
            TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(),
            TimeRemainingColumn(), console=self._console,
        )  # fmt: skip

    @contextlib.contextmanager
    def progress(self, name: str, total: int) -> Iterator[None]:
        """Steps that are told inside the block belong to ``name``."""
        self._name, self._total = name, total
        yield

    def step(self, done: int, loss: float) -> None:
        """Tell of a step; only the first of the processes that train together does."""
        if worker() == 0 and (done % self._every == 0 or done == self._total):
            self._console.print(f"{self._name} {done}/{self._total}: loss {loss:.4f}")
