"""Every test of the database runs on SQLite and on PostgreSQL."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import httpx
import hypothesis
import pytest
from sqlalchemy import URL

from backdrop_server.gateway import keys
from backdrop_server.gateway.database import Database
from backdrop_server.triton.launcher import TritonServer
from tests.gateway.postgres import make_database, running_postgres
from tests.gateway.servers import GatewayProcess, gateway_process

# A machine shared with other tests is slow now and then.
hypothesis.settings.register_profile("backdrop", deadline=None)
hypothesis.settings.load_profile("backdrop")


@pytest.fixture(scope="session")
def postgres_url() -> Iterator[URL]:
    """The superuser of a PostgreSQL cluster that only this run uses."""
    with running_postgres() as url:
        yield url


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A database that does not exist yet, or is empty."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/data/backdrop.db"
    return make_database(request.getfixturevalue("postgres_url"))


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    """The same, with its tables."""
    with contextlib.closing(Database(database_url)) as made:
        made.migrate()
        yield made


@pytest.fixture
def key_id(database: Database) -> int:
    """A key without credits."""
    with database.writing() as connection:
        return keys.create(connection, "a test")[0].id


@pytest.fixture(scope="session")
def gateway(
    server: TritonServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[GatewayProcess]:
    """A gateway before a real tritonserver, for all tests that leave it as they found it."""
    with gateway_process(tmp_path_factory.mktemp("gateway"), server.http_url) as running:
        yield running


@pytest.fixture
def client(gateway: GatewayProcess) -> Iterator[httpx.Client]:
    """A client with a key of its own that has plenty of credits."""
    with gateway.client(gateway.make_key()) as opened:
        yield opened
