"""What the database no longer keeps of jobs whose time is over, and which pictures are nobody's.

Every function here runs inside a ``Database.writing()`` or ``reading()`` transaction.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence

from sqlalchemy import Connection, select, update

from backdrop_server.gateway.tables import jobs

_AT_ONCE = 500
"""Names in one query: databases bound them."""


def ended_before(connection: Connection, moment: float) -> list[str]:
    """Some of the jobs whose results are to go."""
    query = select(jobs.c.id).where(jobs.c.ended_at < moment, jobs.c.swept_at.is_(None))
    return list(connection.execute(query.limit(_AT_ONCE)).scalars())


def mark_swept(connection: Connection, job_ids: Sequence[str]) -> None:
    """Their pictures are gone; their prompts go now. Bills, times and options stay."""
    query = select(jobs.c.id, jobs.c.request).where(jobs.c.id.in_(list(job_ids)))
    for job_id, text in connection.execute(query).all():
        request = json.loads(text)
        request.get("options", {}).update(prompt="", negative_prompt=None)
        values = {"swept_at": time.time(), "request": json.dumps(request)}
        connection.execute(update(jobs).where(jobs.c.id == job_id).values(**values))


def unknown_of(connection: Connection, job_ids: Sequence[str]) -> set[str]:
    """Those of ``job_ids`` that the database does not have."""
    unknown = set(job_ids)
    for start in range(0, len(job_ids), _AT_ONCE):
        some = list(job_ids[start : start + _AT_ONCE])
        unknown -= set(connection.execute(select(jobs.c.id).where(jobs.c.id.in_(some))).scalars())
    return unknown
