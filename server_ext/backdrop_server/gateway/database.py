"""The gateway's database: SQLite in a file, or PostgreSQL where several gateways share it.

Everything here blocks, so the gateway calls it in worker threads.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sqlalchemy import URL, Connection, Engine, create_engine, event, select, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from backdrop_server.errors import SetupError, UnavailableError
from backdrop_server.gateway.database_urls import (
    advise,
    describe,
    read_database_url,
    without_password,
)
from backdrop_server.gateway.tables import secrets as secrets_table

WAIT = 30
"""Seconds that a transaction waits for its turn or a connection."""

_MIGRATION_LOCK = 4_268_251_109_337
"""PostgreSQL's advisory lock while tables are made; any number that others don't use."""

_INSERT_SECRET = text(
    "INSERT INTO secrets (name, value) VALUES (:name, :value) ON CONFLICT (name) DO NOTHING"
)


class Database:
    """Connections to the database that ``url`` names. Opens none before the first is needed.

    Raises:
        SetupError: ``url`` names no database that Backdrop can use.
    """

    def __init__(self, url: str) -> None:
        self.url: URL = read_database_url(url)
        self._sqlite = self.url.get_backend_name() == "sqlite"
        engine = _sqlite_engine(self.url) if self._sqlite else _postgresql_engine(self.url)
        self._writer = engine.execution_options(backdrop_writes=True)
        self._reader = engine.execution_options(postgresql_readonly=True)
        # SQLite's own waiting is a poll without order: threads of one process queue up here instead.
        self._turn = threading.RLock() if self._sqlite else contextlib.nullcontext()

    @contextlib.contextmanager
    def writing(self) -> Iterator[Connection]:
        """A transaction that is committed at the end of the block, rolled back on an error.

        On SQLite it has the whole database from its start. On PostgreSQL it is READ COMMITTED:
        lock what you read in order to write it. Not to be nested.

        Raises:
            SetupError: the database can't be reached.
            UnavailableError: it was not this transaction's turn within ``WAIT`` seconds.
        """
        with self._turn, self._transaction(self._writer) as connection:
            yield connection

    @contextlib.contextmanager
    def reading(self) -> Iterator[Connection]:
        """A transaction that can't write; otherwise like ``writing``. It never waits for writers."""
        with self._transaction(self._reader) as connection:
            yield connection

    def migrate(self) -> None:
        """Make the tables, or bring them up to date. Several processes may do it at once."""
        if self._sqlite:
            with _alone_in_its_folder(self.url), self.writing() as connection:
                _upgrade(connection)
        else:
            with self.writing() as connection:
                lock = text("SELECT pg_advisory_xact_lock(:lock)")
                connection.execute(lock, {"lock": _MIGRATION_LOCK})
                _upgrade(connection)

    def secret(self, name: str) -> bytes:
        """32 random bytes, made at the first call and the same for every gateway ever after."""
        query = select(secrets_table.c.value).where(secrets_table.c.name == name)
        with self.reading() as connection:
            value = connection.execute(query).scalar()
        if value is None:
            with self.writing() as connection:
                connection.execute(_INSERT_SECRET, {"name": name, "value": secrets.token_bytes(32)})
                value = connection.execute(query).scalar_one()  # perhaps another gateway's
        return bytes(value)

    def close(self) -> None:
        """Close the connections that are not in use."""
        self._writer.dispose()

    @contextlib.contextmanager
    def _transaction(self, engine: Engine) -> Iterator[Connection]:
        with contextlib.ExitStack() as stack:
            with self._clear_errors():
                connection = stack.enter_context(engine.begin())
            yield connection

    @contextlib.contextmanager
    def _clear_errors(self) -> Iterator[None]:
        """Errors in getting a connection, in one sentence; their own text may hold the password."""
        try:
            yield
        except PoolTimeoutError:
            raise UnavailableError("every connection to the database is in use") from None
        except DBAPIError as error:
            reason = without_password(str(error.orig), self.url)
            if reason == "database is locked":
                raise UnavailableError("the database is busy") from None
            raise SetupError(
                f"{describe(self.url)} can't be used: {reason}; {advise(self.url)}"
            ) from None


def _upgrade(connection: Connection) -> None:
    """Run the packaged migrations; here alembic neither prints nor touches logging."""
    # Imported here: no other command has to wait for it.
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", "backdrop_server.gateway:migrations")
    config.attributes["connection"] = connection
    command.upgrade(config, "head")


def _postgresql_engine(url: URL) -> Engine:
    return create_engine(
        url,
        isolation_level="READ COMMITTED",
        pool_size=10,
        max_overflow=10,
        pool_timeout=WAIT,
        pool_pre_ping=True,
        hide_parameters=True,
    )


def _sqlite_engine(url: URL) -> Engine:
    engine = create_engine(
        url, connect_args={"timeout": WAIT}, pool_timeout=WAIT, hide_parameters=True
    )
    event.listen(engine, "connect", _set_up_sqlite)
    event.listen(engine, "begin", _begin_sqlite)
    return engine


def _set_up_sqlite(connection: Any, _record: object) -> None:
    connection.isolation_level = None  # transactions begin as below, not as the driver guesses
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=FULL")  # a commit outlives the power as well
    connection.execute("PRAGMA foreign_keys=ON")


def _begin_sqlite(connection: Connection) -> None:
    writes = connection.get_execution_options().get("backdrop_writes", False)
    connection.exec_driver_sql(f"PRAGMA query_only={'OFF' if writes else 'ON'}")
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


@contextlib.contextmanager
def _alone_in_its_folder(url: URL) -> Iterator[None]:
    """The only process that makes a database in this folder; makes folder and file, for us alone.

    SQLite refuses two switches to WAL at once without waiting, so its own lock is not enough.
    """
    path = Path(url.database or "")
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        path.touch(mode=0o600)
        folder = os.open(path.parent, os.O_RDONLY)
    except OSError as error:
        raise SetupError(
            f"{describe(url)} can't be made: {error.strerror}; {advise(url)}"
        ) from None
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        yield
    finally:
        os.close(folder)
