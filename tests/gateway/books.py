"""The ledger and the jobs of a gateway's database, gone over entry by entry."""

from __future__ import annotations

from collections import Counter
from decimal import Decimal

from sqlalchemy import Connection, select

from backdrop_server.gateway import jobs, keys, ledger
from backdrop_server.gateway.jobs import Job
from backdrop_server.gateway.ledger import Entry
from backdrop_server.gateway.money import price
from backdrop_server.gateway.tables import jobs as jobs_table
from tests.gateway.servers import GatewayProcess


def all_jobs(gateway: GatewayProcess) -> list[Job]:
    """Every job in the gateway's database, oldest first."""
    with gateway.database() as database, database.reading() as connection:
        return _jobs(connection)


def find_job(gateway: GatewayProcess, job_id: str) -> Job:
    """A job that is there."""
    return next(job for job in all_jobs(gateway) if job.id == job_id)


def check_books(gateway: GatewayProcess) -> list[Job]:
    """Go over a database in which every job has ended; the jobs.

    No reservation is open, every balance is the exact sum of its entries, each job was reserved,
    released and settled once at most, and a completed one pays its seconds, no more than it reserved.
    """
    with gateway.database() as database, database.reading() as connection:
        assert ledger.open_reservations(connection) == []
        entries = [
            entry
            for key, _ in keys.list_keys(connection)
            for entry in _added_up(ledger.entries(connection, key.id))
        ]
        found = _jobs(connection)
    lines = Counter((entry.job_id, entry.kind) for entry in entries if entry.job_id)
    assert set(lines.values()) <= {1}
    assert {job_id for job_id, _ in lines} == {job.id for job in found}
    amounts = {(entry.job_id, entry.kind): entry.amount for entry in entries}
    for job in found:
        assert not job.is_open
        assert amounts[job.id, "reserve"] == -job.reserved
        assert amounts[job.id, "release"] == job.reserved
        assert -amounts.get((job.id, "settle"), Decimal(0)) == job.billed
        assert job.billed == expected_bill(gateway, job)
    return found


def expected_bill(gateway: GatewayProcess, job: Job) -> Decimal:
    """Seconds times price, exact, and never more than was reserved."""
    assert job.seconds is not None
    return min(price(job.seconds, gateway.settings.price_per_second), job.reserved)


def _added_up(entries: list[Entry]) -> list[Entry]:
    balance = Decimal(0)
    for sequence, entry in enumerate(entries, 1):
        balance += entry.amount
        assert (entry.sequence, entry.balance) == (sequence, balance)
    return entries


def _jobs(connection: Connection) -> list[Job]:
    ids = connection.execute(select(jobs_table.c.id).order_by(jobs_table.c.created_at)).scalars()
    found = [jobs.find(connection, job_id) for job_id in ids.all()]
    return [job for job in found if job is not None]
