"""A PostgreSQL of the tests' own: Debian's programs, a temporary folder, a free port of loopback."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import URL, create_engine, make_url
from sqlalchemy.exc import OperationalError


def programs() -> Path:
    """Folder of initdb and postgres, of the newest version installed."""
    found = [path.parent for path in Path("/usr/lib/postgresql").glob("*/bin/postgres")]
    if not found:
        pytest.skip("PostgreSQL is not installed; it is Debian's package `postgresql`")
    return max(found, key=lambda path: int(path.parent.name))


@contextlib.contextmanager
def running_postgres() -> Iterator[URL]:
    """A running cluster, as the URL of its superuser; stopped and deleted afterwards."""
    binaries = programs()
    with tempfile.TemporaryDirectory(prefix="backdrop-postgres-") as name:
        folder = Path(name)
        password = secrets.token_urlsafe(12)
        (folder / "password").write_text(password)
        owner = _owner(folder)
        subprocess.run(
            [
                binaries / "initdb",
                *("--pgdata", folder / "data", "--username", "tests", "--auth=scram-sha-256"),
                *("--pwfile", folder / "password", "--encoding=UTF8", "--no-locale"),
            ],
            check=True,
            capture_output=True,
            cwd=folder,
            **owner,
        )
        port = _free_port()
        options = {
            "listen_addresses": "127.0.0.1",
            "port": port,
            "unix_socket_directories": folder,
            "dynamic_shared_memory_type": "mmap",
            "shared_buffers": "32MB",
        }
        flags = [part for key, value in options.items() for part in ("-c", f"{key}={value}")]
        command = [str(binaries / "postgres"), "-D", str(folder / "data"), *flags]
        with (folder / "log").open("wb") as log:
            server: subprocess.Popen[bytes] = subprocess.Popen(
                command, cwd=folder, stderr=log, stdout=log, **owner
            )
        try:
            url = make_url(f"postgresql+psycopg://tests:{password}@127.0.0.1:{port}/postgres")
            _wait_for(url, server, folder / "log")
            yield url
        finally:
            server.send_signal(signal.SIGQUIT)  # at once: nothing of it is kept
            server.wait(30)


def make_database(url: URL) -> str:
    """The URL of a fresh, empty database in the cluster."""
    name = f"test_{secrets.token_hex(8)}"
    engine = create_engine(url, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.exec_driver_sql(f"CREATE DATABASE {name}")
    engine.dispose()
    return url.set(database=name).render_as_string(hide_password=False)


def _owner(folder: Path) -> dict[str, Any]:
    """PostgreSQL refuses to run as root: then it runs as the user of Debian's package."""
    if os.geteuid() != 0:
        return {}
    shutil.chown(folder, "postgres", "postgres")
    shutil.chown(folder / "password", "postgres", "postgres")
    return {"user": "postgres", "group": "postgres", "extra_groups": []}


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _wait_for(url: URL, server: subprocess.Popen[bytes], log: Path) -> None:
    engine = create_engine(url)
    deadline = time.monotonic() + 60
    while True:
        try:
            engine.connect().close()
            break
        except OperationalError as error:
            if server.poll() is not None or time.monotonic() > deadline:
                raise AssertionError(log.read_text()) from error
            time.sleep(0.05)
    engine.dispose()
