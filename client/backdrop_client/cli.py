"""The ``backdrop`` command; server and export add their subcommands through entry points."""

from __future__ import annotations

from importlib.metadata import entry_points

import typer

app = typer.Typer(
    help="Backdrop: replace the background of product photos.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)


@app.callback()
def _root() -> None:
    """Keep subcommands even when only one is installed."""


def main() -> None:
    """Run the command line."""
    for entry in entry_points(group="backdrop.commands"):
        entry.load()(app)
    app()
