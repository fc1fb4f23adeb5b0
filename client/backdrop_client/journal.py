"""What a batch has begun and ended, in a file that is only ever added to; it outlives a kill."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import threading
import uuid
from pathlib import Path
from typing import Any

from backdrop_client.errors import BackdropError

NAME = ".backdrop-journal.jsonl"


class Journal:
    """The journal of one output folder, one JSON object a line. Close it, or use ``with``.

    Raises BackdropError where another process writes it now, or where it is none.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._path = folder / NAME
        self._lock = threading.Lock()
        self._file = self._path.open("ab", buffering=0)
        try:
            _lock_file(self._file, folder)
            self._done: dict[str, list[str]] = {}
            self._failures: dict[str, int] = {}
            self._batch = ""
            self._read()
            if not self._batch:
                self._add({"batch": uuid.uuid4().hex})
        except BaseException:
            self._file.close()
            raise

    def key_of(self, name: str, digest: str) -> str:
        """The idempotency key of an item: one for the same content, as long as it has not failed."""
        failures = self._failures.get(_item(name, digest), 0)
        parts = (self._batch, name, digest, str(failures))
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()

    def files_of(self, key: str) -> list[str] | None:
        """The files that a request has ended with; None where it has not."""
        return self._done.get(key)

    def begin(self, name: str, key: str) -> None:
        """Note a request before it is sent."""
        self._add({"event": "submit", "name": name, "key": key})

    def done(self, name: str, key: str, files: list[str], **more: object) -> None:
        """Note a request whose files are written."""
        self._add({"event": "done", "name": name, "key": key, "files": files, **more})

    def failed(self, name: str, digest: str, error: str) -> None:
        """Note a request that has ended without pictures: the next start makes a new one."""
        self._add({"event": "failed", "name": name, "digest": digest, "error": error})

    def close(self) -> None:
        """Let go of the file."""
        self._file.close()

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _read(self) -> None:
        """Take in what is there; a line that a kill cut short was not written."""
        data = self._path.read_bytes()
        for line in data.split(b"\n"):
            with contextlib.suppress(ValueError):
                self._take(json.loads(line))
        if data and not data.endswith(b"\n"):
            self._file.write(b"\n")

    def _take(self, entry: dict[str, Any]) -> None:
        try:
            if "batch" in entry:
                self._batch = entry["batch"]
            elif entry["event"] == "done":
                self._done[entry["key"]] = entry["files"]
            elif entry["event"] == "failed":
                item = _item(entry["name"], entry["digest"])
                self._failures[item] = self._failures.get(item, 0) + 1
        except (KeyError, TypeError):
            raise BackdropError(f"{self._path} is not a journal of Backdrop's") from None

    def _add(self, entry: dict[str, Any]) -> None:
        """Written through to the disk before anything that rests on it happens."""
        line = json.dumps(entry, separators=(",", ":")).encode() + b"\n"
        with self._lock:
            self._take(entry)
            self._file.write(line)
            os.fsync(self._file.fileno())


def _item(name: str, digest: str) -> str:
    return f"{name}\n{digest}"


def _lock_file(file: io.FileIO, folder: Path) -> None:
    """For this process alone, until the file is closed."""
    try:
        import fcntl
    except ModuleNotFoundError:  # not on Windows
        return
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise BackdropError(f"another batch is writing to {folder} now") from None
