"""Processes of their own against one database: ``python -m tests.gateway.processes TASK URL ...``."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from pathlib import Path

from backdrop_server.gateway import ledger
from backdrop_server.gateway.database import Database
from backdrop_server.gateway.errors import InsufficientCreditsError

ROOT = Path(__file__).parents[2]


def start(task: str, *arguments: object) -> subprocess.Popen[str]:
    """Start ``task`` in a process; it waits for a line on its standard input where it says so."""
    command = [sys.executable, "-m", "tests.gateway.processes", task, *map(str, arguments)]
    return subprocess.Popen(
        command, cwd=ROOT, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )


def reserve_many(database: Database, key_id: int, amount: Decimal, tries: int) -> int:
    """Reserve ``tries`` times from as many threads; how many succeeded."""

    def reserve(_: int) -> bool:
        with contextlib.suppress(InsufficientCreditsError), database.writing() as connection:
            ledger.reserve(connection, key_id, uuid.uuid4().hex, amount)
            return True
        return False

    with ThreadPoolExecutor(tries) as threads:
        return sum(threads.map(reserve, range(tries)))


def main(task: str, url: str, *arguments: str) -> None:
    """Do one task, tell its result on standard output."""
    with contextlib.closing(Database(url)) as database:
        print("ready", flush=True)
        if task == "migrate":
            sys.stdin.readline()
            database.migrate()
        elif task == "secret":
            sys.stdin.readline()
            print(database.secret("links").hex())
        elif task == "reserve":
            sys.stdin.readline()
            key_id, amount, tries = arguments
            print(reserve_many(database, int(key_id), Decimal(amount), int(tries)))
        elif task == "hold":  # reserves, commits nothing, and waits to be killed
            key_id, job_id, amount = arguments
            with database.writing() as connection:
                ledger.reserve(connection, int(key_id), job_id, Decimal(amount))
                print("reserved", flush=True)
                time.sleep(600)
        elif task == "commit":  # waits to be killed after a commit
            key_id, job_id, amount = arguments
            with database.writing() as connection:
                ledger.reserve(connection, int(key_id), job_id, Decimal(amount))
            print("reserved", flush=True)
            time.sleep(600)
        else:
            raise ValueError(task)


if __name__ == "__main__":
    main(*sys.argv[1:])
