"""The life of a job in the database: accepted, begun, ended exactly once, billed at most once.

Every function here runs inside a ``Database.writing()`` or ``reading()`` transaction. An end is
written only by the attempt that the job is in, so a gateway that was thought dead changes nothing.
"""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Mapping
from decimal import Decimal
from typing import Any

from sqlalchemy import Connection, Row, and_, func, insert, or_, select, update

from backdrop_server.contract import ReplaceOptions
from backdrop_server.errors import InvalidInputError
from backdrop_server.gateway import ledger
from backdrop_server.gateway.money import seconds_paid
from backdrop_server.gateway.tables import gateways, jobs

OPEN = ("QUEUED", "PROCESSING")
WAIT, QUEUE = "wait", "queue"
"""Kinds: somebody waits for it on a connection; it goes on whoever is there."""


@dataclasses.dataclass(frozen=True)
class JobRequest:
    """What a job was asked for, every choice resolved; kept as JSON, without pictures."""

    options: ReplaceOptions
    pictures: tuple[str, ...]
    """Names of the picture fields that were given."""
    base64: bool
    webhook_url: str | None
    expected_loop_seconds: float
    """See ``Estimate.loop_seconds``."""
    layers: bool = False
    timeout: float | None = None
    """Seconds from its acceptance after which it is cancelled."""

    def to_json(self) -> str:
        """JSON of all fields."""
        return json.dumps(dataclasses.asdict(self))

    @classmethod
    def from_json(cls, text: str) -> JobRequest:
        """Inverse of ``to_json``."""
        values = json.loads(text)
        values["options"] = ReplaceOptions(**values["options"])
        return cls(**{**values, "pictures": tuple(values["pictures"])})


@dataclasses.dataclass(frozen=True)
class NewJob:
    """A job as it is accepted."""

    id: str
    key_id: int
    kind: str
    request: JobRequest
    evaluations: int
    reservation: Decimal
    gateway: str
    idempotency_key: str | None = None
    body_digest: str | None = None


@dataclasses.dataclass(frozen=True)
class Job:
    """A job as the database has it; times are epoch seconds."""

    id: str
    key_id: int
    kind: str
    status: str
    created_at: float
    started_at: float | None
    ended_at: float | None
    gateway: str | None
    attempt: int
    triton: str | None
    request: JobRequest
    evaluations: int
    reserved: Decimal
    billed: Decimal | None
    seconds: float | None
    result: Mapping[str, Any]
    error: str | None
    error_status: int | None
    body_digest: str | None
    swept_at: float | None
    webhook_state: str | None

    @property
    def is_open(self) -> bool:
        """Whether it has not ended."""
        return self.status in OPEN


_GATEWAY_IS_GONE = jobs.c.gateway.not_in(select(gateways.c.id))
_COLUMNS = [jobs.c[field.name] for field in dataclasses.fields(Job)]


def _job(row: Row[Any]) -> Job:
    values = dict(row._mapping)
    values["request"] = JobRequest.from_json(values["request"])
    values["result"] = json.loads(values["result"] or "{}")
    return Job(**values)


def find(connection: Connection, job_id: str, key_id: int | None = None) -> Job | None:
    """The job; None for an unknown one, and for one of another key than ``key_id``."""
    if "\0" in job_id:  # no text to PostgreSQL
        return None
    query = select(*_COLUMNS).where(jobs.c.id == job_id)
    if key_id is not None:
        query = query.where(jobs.c.key_id == key_id)
    row = connection.execute(query).first()
    return None if row is None else _job(row)


def find_by_idempotency_key(
    connection: Connection, key_id: int, idempotency_key: str, body_digest: str
) -> Job | None:
    """The job that was submitted with this idempotency key.

    Raises InvalidInputError where that was another request.
    """
    query = select(*_COLUMNS).where(
        jobs.c.key_id == key_id, jobs.c.idempotency_key == idempotency_key
    )
    row = connection.execute(query).first()
    if row is None:
        return None
    job = _job(row)
    if job.body_digest != body_digest:
        raise InvalidInputError(
            "Idempotency-Key", "another request was sent with it", "a new key for a new request"
        )
    return job


def accept(connection: Connection, job: NewJob) -> None:
    """Reserve the credits and write the job. Raises InsufficientCreditsError; then nothing is."""
    ledger.reserve(connection, job.key_id, job.id, job.reservation)
    connection.execute(
        insert(jobs).values(
            id=job.id,
            key_id=job.key_id,
            kind=job.kind,
            status="QUEUED",
            created_at=time.time(),
            gateway=job.gateway,
            attempt=0,
            request=job.request.to_json(),
            evaluations=job.evaluations,
            reserved=job.reservation,
            idempotency_key=job.idempotency_key,
            body_digest=job.body_digest,
            webhook_state="PENDING" if job.request.webhook_url else None,
        )
    )


def begin(connection: Connection, job_id: str, gateway: str, triton: str) -> int | None:
    """Start the job's next attempt; its number, None where it has ended or is another gateway's."""
    now = time.time()
    statement = (
        update(jobs)
        .where(jobs.c.id == job_id, jobs.c.status.in_(OPEN), jobs.c.gateway == gateway)
        .values(
            status="PROCESSING",
            started_at=func.coalesce(jobs.c.started_at, now),
            attempt=jobs.c.attempt + 1,
            triton=triton,
        )
        .returning(jobs.c.attempt)
    )
    return connection.execute(statement).scalar()


def complete(
    connection: Connection,
    job_id: str,
    attempt: int,
    seconds: float,
    bill: Decimal,
    result: Mapping[str, Any],
) -> Decimal | None:
    """End the attempt with pictures and bill it; what was billed, None if it is not the job's any more.

    The bill is never above the reservation; the rest of that is released.
    """
    values = {"status": "COMPLETED", "result": json.dumps(result)}
    if not _end(connection, job_id, attempt, values):
        return None
    return _settle(connection, job_id, seconds, bill)


def fail(
    connection: Connection,
    job_id: str,
    error: str,
    status: int,
    *,
    attempt: int = 0,
    seconds: float = 0.0,
    bill: Decimal = Decimal(0),
) -> Decimal | None:
    """End the attempt with an error, 0 before the first was begun; otherwise as ``complete``.

    ``status`` is what the same error has over v1. A failed job pays nothing; ``bill`` is for a
    cancelled one.
    """
    values = {"status": "FAILED", "error": error, "error_status": status}
    if not _end(connection, job_id, attempt, values):
        return None
    return _settle(connection, job_id, seconds, bill)


def _end(connection: Connection, job_id: str, attempt: int, values: Mapping[str, Any]) -> bool:
    statement = (
        update(jobs)
        .where(and_(jobs.c.id == job_id, jobs.c.status.in_(OPEN), jobs.c.attempt == attempt))
        .values(ended_at=time.time(), **values)
    )
    return connection.execute(statement).rowcount == 1


def _settle(connection: Connection, job_id: str, seconds: float, bill: Decimal) -> Decimal:
    billed = ledger.settle(connection, job_id, bill) if bill else Decimal(0)
    if not bill:
        ledger.release(connection, job_id)
    paid = {"billed": billed, "seconds": seconds_paid(seconds, bill, billed)}
    connection.execute(update(jobs).where(jobs.c.id == job_id).values(**paid))
    return billed


def request_cancel(connection: Connection, job_id: str) -> None:
    """Note that the owner wants the job no more; the gateway that holds it sees to the rest."""
    statement = (
        update(jobs)
        .where(jobs.c.id == job_id, jobs.c.status.in_(OPEN))
        .values(cancel_requested_at=time.time())
    )
    connection.execute(statement)


def cancelled_of(connection: Connection, gateway: str) -> list[str]:
    """Open jobs of this gateway whose owner wants them no more."""
    query = select(jobs.c.id).where(
        jobs.c.gateway == gateway, jobs.c.status.in_(OPEN), jobs.c.cancel_requested_at.is_not(None)
    )
    return list(connection.execute(query).scalars())


def has_orphans(connection: Connection) -> bool:
    """Whether an open job's gateway is none that there is: it was taken for dead as it took it in."""
    query = select(jobs.c.id).where(jobs.c.status.in_(OPEN), _GATEWAY_IS_GONE)
    return connection.execute(query.limit(1)).first() is not None


def take_over(connection: Connection, gateway: str) -> list[Job]:
    """Make unfinished jobs of gateways that are gone this one's: open ones, and webhooks to send."""
    unfinished = or_(
        jobs.c.status.in_(OPEN),
        and_(jobs.c.webhook_state == "PENDING", jobs.c.ended_at.is_not(None)),
    )
    statement = (
        update(jobs)
        .where(_GATEWAY_IS_GONE, unfinished)
        .values(gateway=gateway)
        .returning(jobs.c.id)
    )
    taken = list(connection.execute(statement).scalars())
    query = select(*_COLUMNS).where(jobs.c.id.in_(taken))
    return [_job(row) for row in connection.execute(query)]


def set_webhook_state(connection: Connection, job_id: str, state: str) -> None:
    """DELIVERED or FAILED."""
    connection.execute(update(jobs).where(jobs.c.id == job_id).values(webhook_state=state))
