"""``backdrop keys``: make, list, credit and revoke API keys."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from datetime import datetime, timezone
from decimal import Decimal
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from sqlalchemy import Connection

from backdrop_server.errors import BackdropError
from backdrop_server.gateway import keys, ledger
from backdrop_server.gateway.database import Database
from backdrop_server.gateway.keys import Key
from backdrop_server.gateway.money import parse_credits, plain
from backdrop_server.settings import load_settings

console = Console(stderr=True, highlight=False)
app = typer.Typer(help="API keys and their credits.", no_args_is_help=True)

Name = Annotated[str, typer.Argument(help="Whose key it is, or what for.")]
Credits = Annotated[str, typer.Option("--credits", help="Credits (US dollars) to begin with.")]
Expires = Annotated[
    datetime | None,
    typer.Option(formats=["%Y-%m-%d"], help="Last day (UTC) on which the key is valid."),
]
Rate = Annotated[int | None, typer.Option(help="Most requests in a minute.", min=1)]
Reference = Annotated[str, typer.Argument(metavar="PREFIX", help="The key's prefix or id.")]
Amount = Annotated[str, typer.Argument(help="Credits to add; -0.5 takes half a credit back.")]
Note = Annotated[str, typer.Option(help="Kept with the entry in the ledger.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON; amounts are strings in it.")]
DatabaseUrl = Annotated[
    str | None, typer.Option("--database", help="SQLAlchemy URL instead of the settings' own.")
]


@app.command()
def create(
    name: Name,
    initial: Credits = "0",
    expires: Expires = None,
    requests_per_minute: Rate = None,
    as_json: AsJson = False,
    database: DatabaseUrl = None,
) -> None:
    """Make a key and print it: the only time that it is shown."""
    with _writing(database) as connection:
        amount = parse_credits("credits", initial)
        key, secret = keys.create(connection, name, _end_of(expires), requests_per_minute)
        if amount:
            ledger.grant(connection, key.id, amount, "with the new key")
    if as_json:
        _print_json(_fields(key, amount) | {"key": secret})
        return
    typer.echo(secret)
    console.print(
        f"This is the only time that the key is shown. Its prefix is {key.prefix}, "
        f"it holds {plain(amount)} credits.",
        soft_wrap=True,
    )


@app.command("list")
def list_(as_json: AsJson = False, database: DatabaseUrl = None) -> None:
    """Show every key with its balance."""
    with _writing(database) as connection:
        found = keys.list_keys(connection)
    if as_json:
        _print_json([_fields(key, balance) for key, balance in found])
    else:
        Console(highlight=False).print(_table(found))


@app.command()
def revoke(prefix: Reference, as_json: AsJson = False, database: DatabaseUrl = None) -> None:
    """Refuse a key from now on. Its ledger stays."""
    with _writing(database) as connection:
        key = keys.revoke(connection, prefix)
        balance = ledger.balance(connection, key.id)
    if as_json:
        _print_json(_fields(key, balance))
    else:
        typer.echo(f"Key {key.prefix} ({key.name}) is revoked.")


# An unknown option may be a negative amount.
@app.command(context_settings={"ignore_unknown_options": True})
def credit(
    prefix: Reference,
    amount: Amount,
    note: Note = "by hand",
    as_json: AsJson = False,
    database: DatabaseUrl = None,
) -> None:
    """Add credits to a key."""
    with _writing(database) as connection:
        keys.credit(connection, prefix, parse_credits("amount", amount), note)
        key = keys.find(connection, prefix)
        balance = ledger.balance(connection, key.id)
    if as_json:
        _print_json(_fields(key, balance))
    else:
        typer.echo(f"Key {key.prefix} ({key.name}) holds {plain(balance)} credits.")


@contextlib.contextmanager
def _writing(url: str | None) -> Iterator[Connection]:
    """A transaction on a database that is up to date; what fails is one sentence and status 1."""
    try:
        with contextlib.closing(
            Database(load_settings({"database": url}).database_url)
        ) as database:
            database.migrate()
            with database.writing() as connection:
                yield connection
    except BackdropError as error:
        console.print(f"[red]error:[/] {escape(str(error))}", soft_wrap=True)
        raise typer.Exit(1) from None


def _end_of(day: datetime | None) -> float | None:
    """The last second of ``day`` in UTC."""
    if day is None:
        return None
    return day.replace(hour=23, minute=59, second=59, tzinfo=timezone.utc).timestamp()


def _fields(key: Key, balance: Decimal) -> dict[str, Any]:
    times = {name: _iso(getattr(key, name)) for name in ("created_at", "expires_at", "revoked_at")}
    return vars(key) | times | {"balance": plain(balance)}


def _iso(seconds: float | None) -> str | None:
    if seconds is None:
        return None
    return datetime.fromtimestamp(seconds, timezone.utc).isoformat(timespec="seconds")


def _table(found: list[tuple[Key, Decimal]]) -> Table:
    table = Table(box=None)
    for title in ("id", "prefix", "name", "credits", "a minute", "expires", "revoked"):
        table.add_column(title, no_wrap=title != "name", overflow="fold")
    for key, balance in found:
        rate = "" if key.requests_per_minute is None else str(key.requests_per_minute)
        days = ((_iso(at) or "").partition("T")[0] for at in (key.expires_at, key.revoked_at))
        table.add_row(str(key.id), key.prefix, escape(key.name), plain(balance), rate, *days)
    return table


def _print_json(value: object) -> None:
    typer.echo(json.dumps(value, indent=2))
