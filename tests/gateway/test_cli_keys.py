"""``backdrop keys`` as an operator types it, each time a process's worth of command line."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import time
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner, Result

from backdrop_server.gateway import keys, ledger
from backdrop_server.gateway.cli import register
from backdrop_server.gateway.database import Database


def run(*arguments: str) -> Result:
    app = typer.Typer()
    app.callback()(lambda: None)
    register(app)
    return CliRunner().invoke(app, ["keys", *arguments])


def ask(url: str, *arguments: str) -> Any:
    result = run(*arguments, "--json", "--database", url)
    assert result.exit_code == 0, result.stderr
    return json.loads(result.stdout)


def test_a_keys_life(database_url: str) -> None:
    made = ask(
        database_url,
        *("create", "the shop", "--credits", "10", "--expires", "2127-01-31"),
        *("--requests-per-minute", "60"),
    )
    secret = made.pop("key")
    assert made["expires_at"] == "2127-01-31T23:59:59+00:00"
    assert (made["name"], made["balance"], made["requests_per_minute"]) == ("the shop", "10", 60)
    assert ask(database_url, "list") == [made]
    prefix = made["prefix"]
    assert ask(database_url, "credit", prefix, "0.000000001")["balance"] == "10.000000001"
    assert ask(database_url, "credit", prefix, "-10", "--note", "a mistake")["balance"] == (
        "0.000000001"
    )
    with contextlib.closing(Database(database_url)) as database, database.reading() as connection:
        key = keys.authenticate(connection, secret, time.time())
        assert key.prefix == prefix
        notes = [entry.note for entry in ledger.entries(connection, key.id)]
        assert notes == ["with the new key", "by hand", "a mistake"]
    revoked = ask(database_url, "revoke", prefix)
    assert revoked["revoked_at"] is not None
    assert ask(database_url, "list") == [revoked]


def test_the_key_alone_goes_to_standard_output(database_url: str) -> None:
    result = run("create", "shop", "--credits", "2.50", "--database", database_url)
    assert result.exit_code == 0
    (secret,) = result.stdout.splitlines()
    assert secret not in result.stderr
    assert f"prefix is {secret[3:11]}, it holds 2.5 credits" in result.stderr
    with contextlib.closing(Database(database_url)) as database, database.reading() as connection:
        key = keys.authenticate(connection, secret, time.time())
        assert ledger.balance(connection, key.id) == Decimal("2.5")


def test_the_table_shows_what_an_operator_needs(database_url: str) -> None:
    name = "a shop [with] brackets and a name that is long"
    made = ask(database_url, "create", name, "--credits", "10.000000001", "--expires", "2127-01-31")
    result = run("list", "--database", database_url)
    assert made["prefix"] in result.stdout
    assert " 10.000000001 " in result.stdout
    assert "2127-01-31" in result.stdout
    assert "[with]" in result.stdout
    assert made["key"] not in result.stdout
    told = run("revoke", made["prefix"], "--database", database_url).stdout
    assert told == f"Key {made['prefix']} ({name}) is revoked.\n"
    told = run("credit", made["prefix"], "5", "--database", database_url).stdout
    assert told == f"Key {made['prefix']} ({name}) holds 15.000000001 credits.\n"


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["create", "shop", "--credits", "ten"], "error: credits: 'ten' is no amount of credits"),
        (["create", "shop", "--credits", "-1"], "error: not enough credits"),
        (["create", " "], "error: name: ' ' is no name; allowed: 1 to 100 printable characters"),
        (["create", "shop", "--expires", "2001-01-31"], "error: expires: the key would have"),
        (["revoke", "nothing"], "error: key: no key has the prefix or id 'nothing'"),
        (["credit", "nothing", "5"], "error: key: no key has the prefix or id 'nothing'"),
        (["credit", "nothing", "-x"], "error: amount: '-x' is no amount of credits"),
    ],
)
def test_wrong_input_is_one_sentence(database_url: str, arguments: list[str], told: str) -> None:
    result = run(*arguments, "--database", database_url)
    assert result.exit_code == 1
    assert result.stderr.startswith(told)
    assert result.stderr.count("\n") == 1
    assert result.stdout == ""
    assert ask(database_url, "list") == []


def test_a_database_that_does_not_answer() -> None:
    url = "postgresql://me:topsecret@127.0.0.1:1/credits"
    result = run("list", "--database", url)
    assert result.exit_code == 1
    assert "check that the server runs" in result.stderr
    assert "topsecret" not in result.output


def test_the_settings_name_the_database(tmp_path: Path) -> None:
    """Through the `backdrop` command itself, as installed."""
    command = [str(Path(sys.executable).with_name("backdrop")), "keys", "create", "shop"]
    done = subprocess.run(
        command,
        cwd=tmp_path,
        env={"BACKDROP_DATA_DIR": str(tmp_path / "data")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    listed = ask(f"sqlite:///{tmp_path}/data/backdrop.db", "list")
    assert [key["prefix"] for key in listed] == [done.stdout[3:11]]
