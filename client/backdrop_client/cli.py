"""The ``backdrop`` command; server and export add their subcommands through entry points."""

from __future__ import annotations

from importlib.metadata import EntryPoint, entry_points

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
