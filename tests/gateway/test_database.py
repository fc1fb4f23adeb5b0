"""Tables, transactions, migrations and secrets, on both databases; and what a wrong URL tells."""

from __future__ import annotations

import contextlib
import logging
import sqlite3
import stat
import subprocess
import threading
import time
import traceback
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import URL, create_engine, delete, func, insert, inspect, select, text, update
from sqlalchemy.exc import DBAPIError, IntegrityError

from backdrop_server.errors import SetupError, UnavailableError
from backdrop_server.gateway import database as database_module
from backdrop_server.gateway.database import Database
from backdrop_server.gateway.tables import jobs, metadata, secrets
from tests.gateway import processes

JOB = {
    "id": "0" * 32,
    "kind": "wait",
    "status": "QUEUED",
    "created_at": 1.5,
    "request": "{}",
    "evaluations": 49,
    "reserved": Decimal("0.0135"),
}


def job(**values: Any) -> dict[str, Any]:
    return JOB | values


def test_the_migrations_make_the_tables_of_the_code(database: Database) -> None:
    with database.reading() as connection:
        assert compare_metadata(MigrationContext.configure(connection), metadata) == []


def test_the_checks_of_the_code_are_those_of_the_migration(sqlite_database: Database) -> None:
    """Alembic's comparison leaves checks out."""
    with sqlite_database.reading() as migrated, create_engine("sqlite://").begin() as made:
        metadata.create_all(made)
        for table in metadata.tables:
            expected = inspect(made).get_check_constraints(table)
            assert inspect(migrated).get_check_constraints(table) == expected
        assert inspect(made).get_check_constraints("ledger") != []


def test_migrating_again_changes_nothing(database: Database, key_id: int) -> None:
    secret = database.secret("links")
    database.migrate()
    assert database.secret("links") == secret


def test_two_processes_migrate_at_once(database_url: str) -> None:
    started = [processes.start("migrate", database_url) for _ in range(3)]
    assert go(started) == [""] * 3
    with contextlib.closing(Database(database_url)) as database, database.reading() as connection:
        versions = connection.execute(text("SELECT version_num FROM alembic_version")).all()
        assert [tuple(row) for row in versions] == [("0001",)]
        assert connection.execute(select(func.count()).select_from(jobs)).scalar() == 0


def test_processes_agree_on_a_secret(database: Database, database_url: str) -> None:
    started = [processes.start("secret", database_url) for _ in range(3)]
    told = {line.strip() for line in go(started)}
    assert told == {database.secret("links").hex()}
    assert len(database.secret("links")) == 32
    assert database.secret("links") != database.secret("webhooks")


def go(started: list[subprocess.Popen[str]]) -> list[str]:
    """Let processes that wait for a line go on at once; what they told after that."""
    for process in started:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in started:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    told = [process.communicate(timeout=60)[0] for process in started]
    assert [process.returncode for process in started] == [0] * len(started)
    return told


def test_migrating_prints_nothing_and_leaves_logging_alone(
    database_url: str, capfd: pytest.CaptureFixture[str]
) -> None:
    before = (logging.root.handlers[:], logging.root.level, logging.getLogger("alembic").level)
    ours = logging.getLogger("backdrop_server.before")
    with contextlib.closing(Database(database_url)) as database:
        database.migrate()
    after = (logging.root.handlers[:], logging.root.level, logging.getLogger("alembic").level)
    assert after == before
    assert not ours.disabled
    assert capfd.readouterr() == ("", "")


def test_a_failed_block_leaves_nothing(database: Database) -> None:
    with pytest.raises(RuntimeError, match="no"), database.writing() as connection:
        connection.execute(insert(secrets).values(name="half", value=b"1"))
        raise RuntimeError("no")
    with database.reading() as connection:
        assert connection.execute(select(secrets.c.name)).all() == []


def test_a_reading_block_can_not_write(database: Database) -> None:
    with pytest.raises(DBAPIError, match=r"read-?only"), database.reading() as connection:
        connection.execute(insert(secrets).values(name="half", value=b"1"))
    with database.writing() as connection:  # the pool's next user may
        connection.execute(insert(secrets).values(name="whole", value=b"1"))


def test_readers_do_not_wait_for_a_writer(database: Database) -> None:
    with database.writing() as writer:
        writer.execute(insert(secrets).values(name="new", value=b"1"))
        with database.reading() as reader:
            assert reader.execute(select(secrets.c.name)).all() == []


@pytest.mark.parametrize(
    "values",
    [
        {"kind": "batch"},
        {"status": "DONE"},
        {"billed": Decimal("0.02")},  # above what was reserved
        {"billed": Decimal("-0.01")},
        {"reserved": Decimal("-1")},
        {"key_id": 12345},
    ],
    ids=str,
)
def test_jobs_that_can_not_be(database: Database, key_id: int, values: dict[str, Any]) -> None:
    with pytest.raises(IntegrityError), database.writing() as connection:
        connection.execute(insert(jobs).values(**job(**{"key_id": key_id} | values)))


def test_an_idempotency_key_is_taken_once_by_each_key(database: Database, key_id: int) -> None:
    with database.writing() as connection:
        for index in range(2):  # none is not one
            connection.execute(insert(jobs).values(**job(id=str(index), key_id=key_id)))
        connection.execute(insert(jobs).values(**job(id="a", key_id=key_id, idempotency_key="x")))
    with pytest.raises(IntegrityError), database.writing() as connection:
        connection.execute(insert(jobs).values(**job(id="b", key_id=key_id, idempotency_key="x")))


def test_jobs_have_their_defaults(database: Database, key_id: int) -> None:
    with database.writing() as connection:
        connection.execute(insert(jobs).values(**job(key_id=key_id)))
        connection.execute(update(jobs).values(status="PROCESSING"))
        row = connection.execute(select(jobs)).one()
    assert (row.attempt, row.created_at, row.billed) == (0, 1.5, None)
    with database.writing() as connection:
        connection.execute(delete(jobs))


@pytest.fixture
def sqlite_database(tmp_path: Path) -> Iterator[Database]:
    with contextlib.closing(Database(f"sqlite:///{tmp_path}/data/backdrop.db")) as database:
        database.migrate()
        yield database


def test_sqlite_is_set_up_to_keep_what_it_committed(
    sqlite_database: Database, tmp_path: Path
) -> None:
    for block in (sqlite_database.writing(), sqlite_database.reading()):
        with block as connection:
            settings = {
                name: connection.exec_driver_sql(f"PRAGMA {name}").scalar()
                for name in ("journal_mode", "synchronous", "foreign_keys", "busy_timeout")
            }
        assert settings == {
            "journal_mode": "wal",
            "synchronous": 2,
            "foreign_keys": 1,
            "busy_timeout": 30000,
        }
    assert stat.S_IMODE((tmp_path / "data").stat().st_mode) == 0o700
    for file in (tmp_path / "data").iterdir():
        assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_sqlite_writers_have_the_database_from_their_start(
    sqlite_database: Database, tmp_path: Path
) -> None:
    path = tmp_path / "data" / "backdrop.db"
    with (
        sqlite_database.writing(),
        contextlib.closing(sqlite3.connect(path, timeout=0)) as other,
        pytest.raises(sqlite3.OperationalError, match="locked"),
    ):
        other.execute("BEGIN IMMEDIATE")


def test_a_busy_sqlite_is_told_as_such(
    monkeypatch: pytest.MonkeyPatch, sqlite_database: Database, tmp_path: Path
) -> None:
    monkeypatch.setattr(database_module, "WAIT", 0.1)
    path = tmp_path / "data" / "backdrop.db"
    with (
        contextlib.closing(Database(f"sqlite:///{path}")) as impatient,
        contextlib.closing(sqlite3.connect(path)) as other,
    ):
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(UnavailableError, match="busy"), impatient.writing():
            pass
        other.rollback()
        with impatient.writing():
            pass


def test_sqlite_threads_take_turns(sqlite_database: Database) -> None:
    """No thread starves: each waits for those before it, not for SQLite's poll."""
    done = []

    def write(index: int) -> None:
        with sqlite_database.writing() as connection:
            connection.execute(insert(secrets).values(name=str(index), value=b"1"))
            time.sleep(0.002)
        done.append(index)

    threads = [threading.Thread(target=write, args=(index,)) for index in range(100)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert sorted(done) == list(range(100))


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("backdrop.db", "the database URL can't be read"),
        ("postgresql+psycopg://me:topsecret@host:port/x", "the database URL can't be read"),
        ("mysql://me:topsecret@host/x", "'mysql' is no database of Backdrop's"),
        ("sqlite://", "needs a database in a file"),
        ("sqlite:///:memory:", "needs a database in a file"),
        ("sqlite:///x.db?mode=ro", "needs a database in a file"),
        ("postgresql+psycopg://me:half@topsecret@host/x", "write it as %40"),
    ],
)
def test_wrong_urls(url: str, told: str) -> None:
    with pytest.raises(SetupError, match=told) as raised:
        Database(url)
    assert "topsecret" not in whole_text(raised.value)


@pytest.mark.parametrize("query", ["", "?password=topsecret&application_name=x"])
def test_a_server_that_does_not_answer(query: str) -> None:
    url = f"postgresql+psycopg://me:topsecret@127.0.0.1:1/credits{query}"
    with contextlib.closing(Database(url)) as database:
        for block in (database.reading, database.writing):
            with pytest.raises(SetupError, match="check that the server runs") as raised, block():
                pass
            assert "127.0.0.1, port 1 (database credits, user me)" in str(raised.value)
            assert "topsecret" not in whole_text(raised.value)
            assert "\n" not in str(raised.value)


def test_a_wrong_password(postgres_url: URL) -> None:
    wrong = f"postgresql+psycopg://tests:topsecret@127.0.0.1:{postgres_url.port}/postgres"
    with (
        contextlib.closing(Database(wrong)) as database,
        pytest.raises(SetupError, match="password authentication failed") as raised,
    ):
        database.migrate()
    assert "topsecret" not in whole_text(raised.value)


def whole_text(error: BaseException) -> str:
    """What a log would show of it, with what lies under it."""
    return "".join(traceback.format_exception(error)[-1:]) + repr(error) + repr(error.__cause__)


def test_files_that_are_no_database(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("not a database " * 100)
    with (
        contextlib.closing(Database(f"sqlite:///{path}")) as database,
        pytest.raises(SetupError, match="file is not a database; check that the path"),
    ):
        database.migrate()


def test_a_folder_that_can_not_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with (
        contextlib.closing(Database(f"sqlite:///{tmp_path}/file/backdrop.db")) as database,
        pytest.raises(SetupError, match=r"can't be made: .*; check that the path is right"),
    ):
        database.migrate()


def test_errors_of_statements_hide_their_values(database: Database) -> None:
    with pytest.raises(IntegrityError) as raised, database.writing() as connection:
        for _ in range(2):
            row = {"name": "the-name", "value": b"the-value"}
            connection.execute(insert(secrets).values(**row))
    assert "the-value" not in str(raised.value)
