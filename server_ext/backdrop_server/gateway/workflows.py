"""Durable jobs on DBOS: one workflow for each job, which any gateway can take up again.

A workflow's input is the job's id; everything else is in the database and the store. What it does
may be done again from its beginning: a job that has ended is left as it is. Whose a job is, the table
of jobs says alone: DBOS's own recovery and queues would give it to whoever asks first.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any

import anyio.to_thread
from dbos import DBOS, DBOSConfig, SetWorkflowID

from backdrop_server.errors import InvalidInputError
from backdrop_server.settings import Settings

VERSION = "jobs-1"
"""Of the workflow's shape; the same in every release, so that DBOS never computes one."""


class Workflows:
    """DBOS with the two things that a job's workflow does."""

    def __init__(
        self,
        settings: Settings,
        gateway: str,
        run: Callable[[str], Coroutine[Any, Any, bool]],
        deliver: Callable[[str], Coroutine[Any, Any, None]],
        deliver_failed: Callable[[str], Coroutine[Any, Any, None]],
    ) -> None:
        """``run`` makes the pictures and says whether a webhook is wanted; ``deliver`` sends it
        once and raises if that failed."""
        self._run, self._deliver_failed = run, deliver_failed
        logging.getLogger("dbos").setLevel(logging.WARNING)
        DBOS(config=_config(settings, gateway))
        self._step = DBOS.step(
            name="deliver_webhook",
            retries_allowed=True,
            max_attempts=settings.webhook_attempts,
            interval_seconds=settings.webhook_backoff,
            backoff_rate=2.0,
            should_retry=lambda problem: not isinstance(problem, InvalidInputError),
        )(_named(deliver, "deliver_webhook"))
        job = _named(self._job, "job")
        self._workflow = DBOS.workflow(name="job", max_recovery_attempts=1000)(job)

    async def launch(self) -> None:
        """Make or open the system database."""
        await anyio.to_thread.run_sync(DBOS.launch)

    async def close(self) -> None:
        """Stop; unfinished jobs are left for the next start or another gateway."""
        await anyio.to_thread.run_sync(lambda: DBOS.destroy(destroy_registry=True))

    async def start(self, job_id: str) -> None:
        """Begin a job's workflow; a second one for the same job is none."""
        with SetWorkflowID(job_id):
            await DBOS.start_workflow_async(self._workflow, job_id)

    async def resume(self, job_id: str) -> None:
        """Take up a job whose gateway is dead, whatever became of its workflow there."""
        await DBOS.delete_workflow_async(job_id)
        await self.start(job_id)

    async def forget(self, job_ids: Sequence[str]) -> None:
        """Remove the workflows of jobs that ended long ago."""
        await DBOS.delete_workflows_async(list(job_ids))

    async def _job(self, job_id: str) -> None:
        if not await self._run(job_id):
            return
        try:
            await self._step(job_id)
        except Exception:  # DBOS has tried often enough
            await self._deliver_failed(job_id)


def _named(
    method: Callable[[str], Coroutine[Any, Any, None]], name: str
) -> Callable[[str], Coroutine[Any, Any, None]]:
    """The method as a function, which DBOS can write its marks on."""

    async def function(job_id: str) -> None:
        await method(job_id)

    function.__qualname__ = function.__name__ = name
    return function


def _config(settings: Settings, gateway: str) -> DBOSConfig:
    return {
        "name": "backdrop",
        "system_database_url": _system_database(settings),
        "executor_id": gateway,
        "application_version": VERSION,
        "log_level": "WARNING",
        "use_listen_notify": False,
    }


def _system_database(settings: Settings) -> str:
    """A file beside our own; on PostgreSQL a schema in the same database."""
    url = settings.database_url
    if url.startswith("sqlite:///"):
        path = Path(url.removeprefix("sqlite:///"))
        return f"sqlite:///{path.with_name(path.stem + '-jobs.db')}"
    return url
