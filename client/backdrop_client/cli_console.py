"""What a command shows on stderr: a bar, and where it fails one sentence with its exit status."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from typing import NoReturn

from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from backdrop_client.errors import (
    BackdropError,
    InvalidInput,
    MissingExtra,
    NotEnoughCredits,
    ServerUnreachable,
    Unauthorized,
)

FAILED, BAD_INPUT, REFUSED, UNREACHABLE, INTERRUPTED = 1, 2, 3, 4, 130
EXITS = "Exit status: 0 done, 1 failed, 2 wrong input, 3 no credits or wrong key, 4 no server."
console = Console(stderr=True, highlight=False)
_STATUSES: tuple[tuple[type[BackdropError], int], ...] = (
    (InvalidInput, BAD_INPUT),
    (MissingExtra, BAD_INPUT),
    (Unauthorized, REFUSED),
    (NotEnoughCredits, REFUSED),
    (ServerUnreachable, UNREACHABLE),
)


def exit_status_of(error: BackdropError) -> int:
    """The exit status that an error ends with."""
    return next((status for kind, status in _STATUSES if isinstance(error, kind)), FAILED)


def progress_bar() -> Progress:
    """On a terminal; elsewhere nothing is shown."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    times = (TimeElapsedColumn(), TimeRemainingColumn())
    hidden = not console.is_terminal
    return Progress(*columns, *times, console=console, transient=True, disable=hidden)


def fail(sentence: str, status: int) -> NoReturn:
    """Say it and exit."""
    console.print(f"[red]error:[/] {escape(sentence)}", soft_wrap=True)
    sys.exit(status)


@contextlib.contextmanager
def one_sentence(interrupted: str) -> Iterator[None]:
    """Errors within the block end the program; ``interrupted``: what Ctrl-C is answered with."""
    try:
        yield
    except BackdropError as error:
        fail(str(error), exit_status_of(error))
    except OSError as error:
        fail(f"{error.filename or 'output'}: {error.strerror or error}", FAILED)
    except KeyboardInterrupt:
        fail(interrupted, INTERRUPTED)
