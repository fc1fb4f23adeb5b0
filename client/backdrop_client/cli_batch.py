"""``backdrop replace`` on a folder or a CSV file: the bar while it runs, the table at its end."""

from __future__ import annotations

import collections
import contextlib
import json
import sys
from collections.abc import Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from backdrop_client.batch import Batch, Outcome, Submit
from backdrop_client.cli_console import FAILED, exit_status_of, progress_bar
from backdrop_client.errors import BackdropError, InvalidInput
from backdrop_client.journal import Journal
from backdrop_client.rows import Row

_SHOWN_FAILURES = 20


def run_batch(
    submit: Submit, rows: Sequence[Row], folder: Path, concurrency: int, *, as_json: bool
) -> int:
    """Make what is not there yet, print what came of it; the exit status."""
    with Journal(folder) as journal:
        outcomes = _run_all(Batch(submit, folder, journal), rows, concurrency)
    if as_json:
        sys.stdout.write(json.dumps([_fields(outcome) for outcome in outcomes]) + "\n")
    else:
        Console(highlight=False).print(_table(outcomes, folder))
    return _exit_status([outcome.error for outcome in outcomes if outcome.error is not None])


def _run_all(batch: Batch, rows: Sequence[Row], concurrency: int) -> list[Outcome]:
    outcomes = []
    with progress_bar() as bar, contextlib.closing(batch.run(rows, concurrency)) as running:
        task = bar.add_task("pictures", total=len(rows))
        for outcome in running:
            outcomes.append(outcome)
            bar.advance(task)
    order = {row.name: number for number, row in enumerate(rows)}
    return sorted(outcomes, key=lambda outcome: order[outcome.name])


def _exit_status(errors: Sequence[BackdropError]) -> int:
    """0 without errors; what all errors say if they say the same; of the one that stopped it all."""
    statuses = {exit_status_of(error) for error in errors}
    stopping = statuses - {FAILED, exit_status_of(InvalidInput(""))}
    if stopping:
        return max(stopping)
    return statuses.pop() if len(statuses) == 1 else FAILED if statuses else 0


def _table(outcomes: Sequence[Outcome], folder: Path) -> Table:
    counts = collections.Counter(outcome.state for outcome in outcomes)
    costs = [outcome.cost for outcome in outcomes if outcome.cost is not None]
    table = Table("", "", box=None, show_header=False, title=str(folder), title_justify="left")
    words = {
        "made": "made",
        "there": "there from before",
        "failed": "failed",
        "left": "left for the next start",
    }
    for state, word in words.items():
        if counts[state]:
            table.add_row(word, str(counts[state]))
    if costs:
        table.add_row("credits", format(sum(costs, Decimal(0)), "f"))
    failures = [outcome for outcome in outcomes if outcome.error is not None]
    for outcome in failures[:_SHOWN_FAILURES]:
        table.add_row(f"[red]{escape(outcome.name)}[/]", escape(str(outcome.error)))
    if len(failures) > _SHOWN_FAILURES:
        table.add_row("", f"and {len(failures) - _SHOWN_FAILURES} more")
    return table


def _fields(outcome: Outcome) -> dict[str, Any]:
    return {
        "name": outcome.name,
        "state": outcome.state,
        "files": outcome.files,
        "seeds": outcome.seeds,
        "cost": None if outcome.cost is None else format(outcome.cost, "f"),
        "error": None if outcome.error is None else str(outcome.error),
    }
