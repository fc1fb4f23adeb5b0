"""The board: progress and cancelling of every request in the server, in shared memory.

Triton passes a cancel on to no member of an ensemble, and a model cannot see the requests that wait
for it. So each process of the server maps this file: `preprocess` enters a request, `denoise` posts
its steps, `postprocess` takes it off, `control` reads it and sets cancel flags.
"""

from __future__ import annotations

import contextlib
import dataclasses
import enum
import fcntl
import hashlib
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt

from backdrop_server.contract import MAX_IN_FLIGHT, MAX_REQUEST_ID_BYTES
from backdrop_server.errors import CancelledError, InvalidInputError, UnavailableError
from backdrop_server.triton.board_table import (
    CAPACITY,
    PREVIEW_BYTES,
    PREVIEW_SLOTS,
    SIZE,
    Row,
    Table,
)

SHM_FOLDER = Path("/dev/shm")  # noqa: S108 (POSIX shared memory, not a temporary file)
FORGET_AFTER = 600.0
"""Seconds without news after which a running entry or a tombstone is swept."""
LEASE = 120.0
"""Seconds that the encoders, or the decoder and `postprocess`, have for a request: one that died
there gives its place back. Time spent waiting for a full loop does not count."""
SWEEP_EVERY = 0.5
"""Seconds between sweeps of one process's view."""
KEEP_ENDED = 60.0
"""Seconds for which an ended request is still known, so that a late cancel leaves no tombstone."""

_NO_SLOT = -1


class Stage(enum.IntEnum):
    """Where a request is."""

    FREE = 0
    WAITING = 1
    """Entered by `preprocess`; `denoise` has not begun it."""
    RUNNING = 2
    FINISHING = 3
    """Denoised; decoder and `postprocess` are at work."""
    ENDED = 4
    TOMBSTONE = 5
    """Cancelled before it came; honoured when it does."""


_LIVE = (Stage.WAITING, Stage.RUNNING, Stage.FINISHING)


@dataclasses.dataclass(frozen=True)
class Status:
    """What the board knows of one request; ``preview`` is uint8 [h, w, 3] or None.

    ``engine_seconds``: its share of the UNet calls so far; stays as long as the entry.
    """

    stage: Stage
    step: int
    total: int
    engine_seconds: float
    cancelled: bool
    preview: npt.NDArray[np.uint8] | None = None


@dataclasses.dataclass(frozen=True)
class Cancelled:
    """Tells of a request id whether it was cancelled when this was read."""

    _keys: frozenset[bytes]

    def __contains__(self, request_id: str) -> bool:
        return bool(self._keys) and _key(request_id) in self._keys


_NOBODY = Cancelled(frozenset())


def board_path(server_pid: int) -> Path:
    """The board's file for the tritonserver process ``server_pid``."""
    return SHM_FOLDER / f"backdrop-board-{server_pid}"


class Board:
    """One process's view of the board. Every method holds the file's lock for microseconds."""

    def __init__(self, path: Path, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._file = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        os.ftruncate(self._file, SIZE)
        self._table = Table(path)
        self._swept_at = float("-inf")

    def enter(self, request_id: str, limit: int) -> None:
        """Enter a new request. Raises for a live duplicate, a tombstone, or ``limit`` held."""
        if len(request_id.encode()) > MAX_REQUEST_ID_BYTES:
            allowed = f"at most {MAX_REQUEST_ID_BYTES} bytes"
            raise InvalidInputError("request id", "it is too long", allowed)
        with self._locked():
            entry = self._find(request_id)
            stage = Stage.FREE if entry is None else Stage(int(entry["state"]))
            if stage in _LIVE:
                allowed = "an id that no request in the server has"
                raise InvalidInputError("request id", "a live request has the same", allowed)
            if entry is not None and stage is Stage.TOMBSTONE:
                entry["state"] = Stage.ENDED
                raise CancelledError("the request was cancelled before it came")
            if self._count_live() >= limit:
                raise UnavailableError(f"the server holds {limit} requests already; retry later")
            self._write(entry, request_id, Stage.WAITING)

    def run(self, request_id: str, total: int) -> None:
        """`denoise` takes the request up. Raises for a live duplicate and for a cancelled one."""
        with self._locked():
            entry = self._find(request_id)
            if entry is not None and entry["state"] in (Stage.RUNNING, Stage.FINISHING):
                allowed = "an id that no request in the server has"
                raise InvalidInputError("request id", "a live request has the same", allowed)
            if entry is not None and entry["cancelled"]:  # also of a tombstone
                entry["state"] = Stage.ENDED
                raise CancelledError("the request was cancelled")
            entry = self._write(entry, request_id, Stage.RUNNING)
            entry["total"] = total
            entry["preview_slot"] = self._free_preview_slot()

    def post_step(
        self,
        request_id: str,
        step: int,
        engine_seconds: float,
        preview: npt.NDArray[np.uint8] | None = None,
    ) -> None:
        """Post a finished UNet evaluation: seconds so far, and a small picture, uint8 [h, w, 3]."""
        with self._locked():
            entry = self._find(request_id)
            if entry is None:
                return
            entry["step"] = step
            entry["engine_seconds"] = engine_seconds
            entry["updated"] = self._clock()
            if preview is not None and entry["preview_slot"] != _NO_SLOT:
                thin = _thin(preview)
                entry["preview_shape"] = thin.shape[:2]
                self._table.previews[entry["preview_slot"], : thin.size] = thin.reshape(-1)

    def move(self, request_id: str, stage: Stage) -> None:
        """Note that a request is FINISHING or has ENDED."""
        with self._locked():
            entry = self._find(request_id)
            if entry is not None:
                entry["state"] = stage
                entry["updated"] = self._clock()
                entry["preview_slot"] = _NO_SLOT
                entry["preview_shape"] = 0

    def give_up(self, request_id: str) -> None:
        """Note the end of a request that could not be begun; a live twin of it stays as it is."""
        with self._locked():
            entry = self._find(request_id)
            if entry is not None and entry["state"] == Stage.WAITING:
                entry["state"] = Stage.ENDED
                entry["updated"] = self._clock()

    def cancel(self, request_id: str) -> Status:
        """Flag a request; leave a tombstone for an unknown one. Returns what it was before."""
        with self._locked():
            entry = self._find(request_id)
            before = self._status(entry)
            if entry is None:
                self._write(None, request_id, Stage.TOMBSTONE)["cancelled"] = 1
            elif before.stage in _LIVE:
                entry["cancelled"] = 1
            return before

    def cancelled(self) -> Cancelled:
        """The requests that somebody has cancelled; takes no lock."""
        if 1 not in self._table["cancelled"].tobytes():
            return _NOBODY
        flagged = (self._table["cancelled"] == 1) & (self._table["state"] != Stage.FREE)
        return Cancelled(frozenset(self._table["key"][flagged].tolist()))

    def status(self, request_id: str) -> Status:
        """What is known of a request; stage FREE for an unknown one."""
        with self._locked():
            return self._status(self._find(request_id))

    def running_steps(self) -> dict[bytes, int]:
        """Evaluations so far of each request that `denoise` runs, by its key.

        Read without the lock, which a process that stands still may hold.
        """
        running = self._table["state"] == Stage.RUNNING
        keys, steps = self._table["key"][running], self._table["step"][running]
        return dict(zip(keys.tolist(), steps.tolist(), strict=True))

    def somebody_waits(self) -> bool:
        """Whether a request that `preprocess` has entered is not in the loop yet; takes no lock."""
        return Stage.WAITING in self._table["state"].tobytes()

    def count_live(self) -> int:
        """Requests now between `preprocess` and the end of `postprocess`."""
        with self._locked():
            self._sweep()
            return self._count_live()

    def close(self) -> None:
        """Let go of the file; the maps go with the object."""
        os.close(self._file)

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        fcntl.flock(self._file, fcntl.LOCK_EX)
        try:
            yield
        finally:
            fcntl.flock(self._file, fcntl.LOCK_UN)

    def _find(self, request_id: str) -> Row | None:
        self._sweep()
        key = _key(request_id)
        keys = self._table["key"]
        for index in np.flatnonzero(self._table["state"]):  # FREE is 0
            if keys[index] == key:
                return self._table.row(int(index))
        return None

    def _sweep(self) -> None:
        """Free what had no news for long; `denoise` enters a live one again when it comes."""
        now = self._clock()
        if now - self._swept_at < SWEEP_EVERY:
            return
        self._swept_at = now
        state = self._table["state"]
        age = now - self._table["updated"]
        gone = (state == Stage.ENDED) & (age > KEEP_ENDED)
        gone |= (state == Stage.FINISHING) & (age > LEASE)
        gone |= np.isin(state, (Stage.RUNNING, Stage.TOMBSTONE)) & (age > FORGET_AFTER)
        waiting = state == Stage.WAITING
        if (state == Stage.RUNNING).sum() < MAX_IN_FLIGHT:
            gone |= waiting & (age > LEASE)
        else:  # queued behind a full loop, for as long as that takes
            self._table["updated"][waiting] = now
        state[gone] = Stage.FREE

    def _count_live(self) -> int:
        return int(np.isin(self._table["state"], _LIVE).sum())

    def _write(self, entry: Row | None, request_id: str, stage: Stage) -> Row:
        if entry is None:
            entry = self._table.row(self._free_slot())
        entry["key"] = _key(request_id)
        entry["state"] = stage
        entry["cancelled"] = entry["step"] = entry["total"] = 0
        entry["engine_seconds"] = 0.0
        entry["preview_shape"] = 0
        entry["preview_slot"] = _NO_SLOT
        entry["updated"] = self._clock()
        return entry

    def _free_preview_slot(self) -> int:
        running = self._table["state"] == Stage.RUNNING
        free = set(range(PREVIEW_SLOTS)) - set(self._table["preview_slot"][running].tolist())
        return min(free, default=_NO_SLOT)

    def _status(self, entry: Row | None) -> Status:
        if entry is None:
            return Status(Stage.FREE, 0, 0, 0.0, cancelled=False)
        height, width = (int(side) for side in entry["preview_shape"])
        preview = None
        if height and width and entry["preview_slot"] != _NO_SLOT:
            pixels = self._table.previews[entry["preview_slot"], : height * width * 3]
            preview = np.array(pixels).reshape(height, width, 3)
        return Status(
            Stage(int(entry["state"])),
            int(entry["step"]),
            int(entry["total"]),
            float(entry["engine_seconds"]),
            bool(entry["cancelled"]),
            preview,
        )

    def _free_slot(self) -> int:
        """A free slot, else that of the oldest entry that is not live."""
        free = np.flatnonzero(self._table["state"] == Stage.FREE)
        if free.size:
            return int(free[0])
        age = np.where(np.isin(self._table["state"], _LIVE), np.inf, self._table["updated"])
        oldest = int(np.argmin(age))
        if not np.isfinite(age[oldest]):
            raise UnavailableError(f"the server holds {CAPACITY} requests already; retry later")
        return oldest


def _key(request_id: str) -> bytes:
    return hashlib.blake2b(request_id.encode(), digest_size=16).hexdigest().encode()


def _thin(preview: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Leave out rows and columns until the preview fits its entry."""
    stride = 1
    while preview[::stride, ::stride].size > PREVIEW_BYTES:
        stride += 1
    return preview[::stride, ::stride]
