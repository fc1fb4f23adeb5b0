"""The gateway as a process: its socket, its first key, uvicorn."""

from __future__ import annotations

import errno
import socket
from decimal import Decimal

import uvicorn

from backdrop_server.errors import SetupError
from backdrop_server.gateway import keys, ledger
from backdrop_server.gateway.app import create_app
from backdrop_server.gateway.database import Database
from backdrop_server.gateway.logs import set_up_logs
from backdrop_server.gateway.protocol import BoundedProtocol
from backdrop_server.settings import Settings

FIRST_CREDITS = Decimal(10)
"""Of the key that is made at the first start."""
_GRACE = 30
"""Seconds in which open requests may end after SIGTERM."""


def run_gateway(settings: Settings) -> None:
    """Serve until SIGTERM or Ctrl-C. Raises SetupError with the reason where it cannot start."""
    if not settings.triton_url:
        raise SetupError("setting triton_url: it is empty; allowed: host:port of a Triton's HTTP")
    listener = _listen(settings)
    host, port = listener.getsockname()[:2]
    settings = settings.model_copy(update={"port": port})
    set_up_logs(settings.log_level)
    public_url = str(settings.public_url or f"http://{_in_url(host)}:{port}").rstrip("/")
    config = uvicorn.Config(
        create_app(settings, public_url),
        loop="uvloop",
        http=BoundedProtocol,
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=_GRACE,
    )
    server = uvicorn.Server(config)
    with listener:
        server.run(sockets=[listener])
    if not server.started:
        raise SetupError("the gateway did not start; its log says why")


def make_first_key(settings: Settings) -> str | None:
    """A key with some credits where there is none yet; its text, which nothing shows again."""
    database = Database(settings.database_url)
    try:
        database.migrate()
        with database.writing() as connection:
            if keys.list_keys(connection):
                return None
            key, text = keys.create(connection, "first key")
            ledger.grant(connection, key.id, FIRST_CREDITS, "first start")
            return text
    finally:
        database.close()


def _listen(settings: Settings) -> socket.socket:
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    listener = socket.socket(family)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((settings.host, settings.port))
    except OSError as error:
        listener.close()
        if error.errno == errno.EADDRINUSE:
            raise SetupError(f"port {settings.port} is taken; choose another one") from None
        reason = error.strerror or error
        raise SetupError(f"cannot listen on {settings.host}: {reason}") from None
    return listener


def _in_url(host: str) -> str:
    shown = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 (compared, not bound)
    return f"[{shown}]" if ":" in shown else shown
