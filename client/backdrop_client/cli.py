"""The ``backdrop`` command: the client's own; those of the server join through entry points."""

from __future__ import annotations

import sys
from importlib.metadata import EntryPoint, entry_points

import typer

from backdrop_client import cli_bench, cli_replace

_OWN = (["replace"], ["credits"], ["bench"])
app = typer.Typer(
    help="Backdrop: replace the background of product photos.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)


def main() -> None:
    """Run the command line."""
    cli_replace.register(app)
    cli_bench.register(app)
    if sys.argv[1:2] not in _OWN:  # the server's parts take seconds to load
        for entry in entry_points(group="backdrop.commands"):
            _add(entry)
    app()


def _add(entry: EntryPoint) -> None:
    """Add the subcommands of ``entry``, unless what they need is not installed (an extra)."""
    try:
        register = entry.load()
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("backdrop"):
            raise
        return
    register(app)
