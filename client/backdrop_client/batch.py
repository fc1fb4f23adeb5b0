"""Many requests at once, each made once, however often the batch is killed and started again."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
import threading
from collections.abc import Callable, Generator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from decimal import Decimal
from pathlib import Path
from typing import Any, Protocol

from backdrop_client.errors import (
    BackdropError,
    InvalidInput,
    JobFailed,
    NotEnoughCredits,
    NotFound,
    ServerUnreachable,
    TimedOut,
    Unauthorized,
)
from backdrop_client.fields import loaded, suffix_of
from backdrop_client.journal import Journal
from backdrop_client.results import Result
from backdrop_client.rows import Row, names_of

_FINAL = (JobFailed, InvalidInput, NotFound)
"""Errors with which a request has ended; after others the same request may still be running."""
_HOPELESS = (Unauthorized, NotEnoughCredits, ServerUnreachable)
"""Errors that every other request would meet as well."""

_LOOK_UP = 2.0
"""Seconds after which a thread that waits for a job sees that the batch was stopped."""


class Waiting(Protocol):
    """A submitted job, over REST or Triton."""

    def wait(self, timeout: float | None = None) -> Result:
        """Wait for the pictures."""
        ...


Submit = Callable[[Mapping[str, Any], str], Waiting]
"""Sends fields with an idempotency key."""


@dataclasses.dataclass(frozen=True)
class Outcome:
    """How a row came out. ``state``: made, there (from an earlier start), failed, or left."""

    name: str
    state: str
    files: tuple[str, ...] = ()
    seeds: tuple[int, ...] = ()
    cost: Decimal | None = None
    error: BackdropError | None = None


class _StoppedError(BackdropError):
    """The batch was interrupted; what is submitted goes on, and is fetched by the next start."""


class Batch:
    """The requests of one output folder, which holds the pictures and the journal."""

    def __init__(self, submit: Submit, folder: Path, journal: Journal) -> None:
        self._submit = submit
        self._folder = folder
        self._journal = journal
        self._stop = threading.Event()

    def run(self, rows: Sequence[Row], concurrency: int) -> Generator[Outcome]:
        """Each row's outcome as it comes. An error that all would meet leaves the rest undone."""
        with ThreadPoolExecutor(concurrency) as pool:
            futures = [pool.submit(self._run_row, row) for row in rows]
            try:
                for future in as_completed(futures):
                    yield future.result()
            finally:
                self._stop.set()
                pool.shutdown(cancel_futures=True)

    def _run_row(self, row: Row) -> Outcome:
        if self._stop.is_set():
            return Outcome(row.name, "left")
        try:
            return self._made(row)
        except _StoppedError:
            return Outcome(row.name, "left")
        except _HOPELESS as error:
            self._stop.set()
            return Outcome(row.name, "failed", error=error)
        except BackdropError as error:
            return Outcome(row.name, "failed", error=error)

    def _made(self, row: Row) -> Outcome:
        fields = loaded(row.fields)
        digest = _digest(fields)
        key = self._journal.key_of(row.name, digest)
        files = self._journal.files_of(key)
        if files is not None and all((self._folder / name).is_file() for name in files):
            return Outcome(row.name, "there", tuple(files))
        self._journal.begin(row.name, key)
        try:
            result = self._wait(self._submit(fields, key))
        except _FINAL as error:
            self._journal.failed(row.name, digest, str(error))
            raise
        suffix = suffix_of(fields.get("output_format"))
        made = write_pictures(self._folder, row.name, suffix, result)
        cost = None if result.cost is None else str(result.cost)
        self._journal.done(row.name, key, made, seeds=result.seeds, cost=cost)
        return Outcome(row.name, "made", tuple(made), result.seeds, result.cost)

    def _wait(self, job: Waiting) -> Result:
        while not self._stop.is_set():
            with contextlib.suppress(TimedOut):
                return job.wait(_LOOK_UP)
        raise _StoppedError("the batch was stopped")


def write_pictures(folder: Path, name: str, suffix: str, result: Result) -> list[str]:
    """Write ``name.jpg``, or ``name-1.jpg`` and so on for several samples; the files' names.

    A file is whole or not there. Raises BackdropError where it cannot be written.
    """
    names = [f"{each}{suffix}" for each in names_of(name, len(result.image_bytes))]
    for file, data in zip(names, result.image_bytes, strict=True):
        _write_whole(folder / file, data)
    return names


def _write_whole(path: Path, data: bytes) -> None:
    part = path.with_name(f".{path.name}.part")
    try:
        with part.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except OSError as error:
        raise BackdropError(f"{path} cannot be written ({error.strerror})") from None


def _digest(fields: Mapping[str, Any]) -> str:
    """Of a request's content: of its files' bytes, not of their names."""
    content = {
        name: hashlib.sha256(value).hexdigest() if isinstance(value, bytes) else value
        for name, value in fields.items()
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
