"""`backdrop doctor`: what is missing on this machine, and how to get it."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import socket
from collections.abc import Callable
from functools import partial
from pathlib import Path

from sqlalchemy.exc import DBAPIError

from backdrop_server.errors import BackdropError, SetupError
from backdrop_server.gateway import keys
from backdrop_server.gateway.database import Database
from backdrop_server.gateway.store import Store
from backdrop_server.gateway.tritons import HttpTriton
from backdrop_server.settings import Settings
from backdrop_server.triton.install import find_tritonserver


@dataclasses.dataclass(frozen=True)
class Finding:
    """One thing that was looked at; ``text`` says what is there, or what is wrong and what helps."""

    name: str
    is_well: bool
    text: str


def examine(
    settings: Settings, repository: Path | None, tritonserver: Path | None
) -> list[Finding]:
    """Look at everything that serving needs; changes nothing but a test file in the store."""
    checks: list[tuple[str, Callable[[], str]]] = []
    if settings.triton_url:
        checks += [(f"Triton at {url}", partial(_triton, url)) for url in settings.triton_url]
    else:
        checks.append(("tritonserver", lambda: _own_triton(tritonserver)))
        checks.append(("model repository", lambda: _repository(repository)))
    checks += [
        ("port", lambda: _port(settings)),
        ("database", lambda: _database(settings)),
        ("store", lambda: _store(settings)),
    ]
    return [_look(name, check) for name, check in checks]


def _look(name: str, check: Callable[[], str]) -> Finding:
    try:
        return Finding(name, True, check())
    except BackdropError as error:
        return Finding(name, False, str(error))


def _own_triton(tritonserver: Path | None) -> str:
    return str(find_tritonserver(tritonserver).binary)


def _repository(repository: Path | None) -> str:
    if repository is None:
        raise SetupError("none was named; --repository names one, `make repository` builds one")
    if not (repository / "replace_background" / "config.pbtxt").is_file():
        raise SetupError(
            f"{repository} is not a built model repository; "
            "make one with: backdrop-export repository"
        )
    return str(repository)


def _triton(url: str) -> str:
    async def ask() -> bool:
        triton = HttpTriton(url)
        try:
            await triton.probe()
            return triton.is_up
        finally:
            await triton.close()

    if not asyncio.run(ask()):
        raise SetupError("it does not answer there as a Backdrop; start it, or set triton_url")
    return "it makes pictures"


def _port(settings: Settings) -> str:
    with socket.socket(socket.AF_INET6 if ":" in settings.host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((settings.host, settings.port))
        except OSError as error:
            reason = error.strerror or error
            raise SetupError(
                f"cannot listen on {settings.host}:{settings.port} ({reason}); set port or host"
            ) from None
    return f"{settings.host}:{settings.port} is free"


def _database(settings: Settings) -> str:
    with contextlib.closing(Database(settings.database_url)) as database:
        try:
            database.migrate()
            with database.reading() as connection:
                count = len(keys.list_keys(connection))
        except DBAPIError as error:
            raise SetupError(f"it refuses: {type(error.orig).__name__}") from None
    return f"{count} keys" if count else "no key yet; `backdrop serve` makes one"


def _store(settings: Settings) -> str:
    store = Store(settings.store_url, settings.store_options)
    asyncio.run(store.check())
    return "it can be written and read"
