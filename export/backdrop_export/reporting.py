"""What an export tells its user: steps with a spinner, and the table of differences."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table


class Report:
    """Lines, spinners and a table on a console; ``quiet`` drops them all."""

    def __init__(self, quiet: bool = False) -> None:
        self._console = Console(quiet=quiet, highlight=False)
        self._rows: list[Mapping[str, Any]] = []

    def say(self, line: str) -> None:
        """Print one line."""
        self._console.print(line)

    @contextlib.contextmanager
    def step(self, title: str) -> Iterator[None]:
        """A spinner while the block runs, then its title and seconds."""
        started = time.perf_counter()
        with self._console.status(f"{title} ..."):
            yield
        self._console.print(f"{title}: {time.perf_counter() - started:.1f} s")

    def differences(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Keep rows (fields of ``Difference``) for the table."""
        self._rows += rows

    def print_differences(self) -> None:
        """Print the largest of the differences kept so far, by engine and output, over all sizes."""
        worst: dict[tuple[str, str, str], Mapping[str, Any]] = {}
        for row in self._rows:
            place = (row["graph"], row["engine"], row["output"])
            if place not in worst or row["absolute"] > worst[place]["absolute"]:
                worst[place] = row
        if not worst:
            return
        table = Table(title="Largest difference from the original")
        for column in ("graph", "engine", "output"):
            table.add_column(column, overflow="fold")
        table.add_column("absolute", justify="right")
        table.add_column("relative", justify="right")
        for place, row in worst.items():
            levels = row["levels"]
            absolute = f"{row['absolute']:.0f} of 255" if levels else f"{row['absolute']:.1e}"
            table.add_row(*place, absolute, "" if levels else f"{row['relative']:.1e}")
        self._console.print(table)
