"""Pictures of jobs, in a folder or in any place that fsspec knows (S3 by URL)."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import anyio
import anyio.to_thread
import fsspec

from backdrop_server.errors import SetupError

T = TypeVar("T")
MAX_THREADS = 40
_JOB_ID = re.compile("[0-9a-f]{32}")


class Store:
    """Files by job and name. Every method may be called from the event loop; threads do the work.

    They are the store's own: where it is slow, the database and signs of life must not wait for it.
    """

    def __init__(self, url: str, options: Mapping[str, Any] | None = None) -> None:
        """``url``: a folder, or an fsspec URL; ``options``: its driver's. Raises SetupError."""
        try:
            # Other gateways write here too: a list of files that was true once is worth nothing.
            given = {"use_listings_cache": False, **(options or {})}
            self._files, self._root = fsspec.core.url_to_fs(url, **given)
        except (ValueError, ImportError) as error:
            raise SetupError(
                f"the store {_without_password(url)} cannot be used: {error}"
            ) from None
        self._threads = anyio.CapacityLimiter(MAX_THREADS)
        self._is_local = isinstance(self._files, fsspec.get_filesystem_class("file"))

    async def check(self) -> None:
        """Write, read and remove a file; raises SetupError with the reason where that fails."""
        try:
            await self.put("check", {"file": b"picture"})
            if await self.get("check", "file") != b"picture":
                raise OSError("what was written does not come back")
            await self.remove("check")
        except Exception as error:  # every driver has errors of its own
            raise SetupError(f"the store cannot be written and read: {error}") from None

    async def put(self, job_id: str, files: Mapping[str, bytes]) -> None:
        """Write files of a job; all are there when it returns."""
        await self._in_thread(self._put, job_id, files)

    async def get(self, job_id: str, name: str) -> bytes:
        """A file of a job. Raises FileNotFoundError."""
        return await self._in_thread(self._get, job_id, name)

    async def remove(self, job_id: str, names: tuple[str, ...] | None = None) -> None:
        """Remove files of a job, all of them without ``names``; those that are gone are fine."""
        await self._in_thread(self._remove, job_id, names)

    async def job_ids(self) -> list[str]:
        """Jobs that have files here; what else lies in the folder is somebody else's."""
        return await self._in_thread(self._job_ids)

    async def _in_thread(self, work: Callable[..., T], *arguments: object) -> T:
        return await anyio.to_thread.run_sync(work, *arguments, limiter=self._threads)

    def _job_ids(self) -> list[str]:
        try:
            paths: list[str] = self._files.ls(self._root, detail=False)
        except FileNotFoundError:
            return []
        names = [path.rstrip("/").rpartition("/")[2] for path in paths]
        return [name for name in names if _JOB_ID.fullmatch(name)]

    def _folder(self, job_id: str) -> str:
        return f"{self._root}/{job_id}"

    def _put(self, job_id: str, files: Mapping[str, bytes]) -> None:
        folder = self._folder(job_id)
        self._files.makedirs(folder, exist_ok=True)
        for name, data in files.items():
            path = f"{folder}/{name}"
            if self._is_local:  # a reader must never see half a file
                self._files.pipe_file(f"{path}.part", data)
                self._files.mv(f"{path}.part", path)
            else:
                self._files.pipe_file(path, data)

    def _get(self, job_id: str, name: str) -> bytes:
        data: bytes = self._files.cat_file(f"{self._folder(job_id)}/{name}")
        return data

    def _remove(self, job_id: str, names: tuple[str, ...] | None) -> None:
        folder = self._folder(job_id)
        with contextlib.suppress(FileNotFoundError):
            if names is None:
                self._files.rm(folder, recursive=True)
                return
        for name in names or ():
            with contextlib.suppress(FileNotFoundError):
                self._files.rm_file(f"{folder}/{name}")


def _without_password(url: str) -> str:
    scheme, slashes, rest = url.partition("://")
    return f"{scheme}{slashes}{rest.rpartition('@')[2]}" if slashes else url
