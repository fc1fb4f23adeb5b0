"""The gateway's part of the ``backdrop`` command."""

from __future__ import annotations

import typer

from backdrop_server.gateway import cli_keys


def register(app: typer.Typer) -> None:
    """Add the gateway's commands to ``app``."""
    app.add_typer(cli_keys.app, name="keys")
