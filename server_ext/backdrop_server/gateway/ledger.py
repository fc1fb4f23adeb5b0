"""The ledger: what each key was given and paid, entry by entry, never changed.

Functions that write take a connection of ``Database.writing()``. They lock the key first, so that a
balance that was read is still true when the next entry is written. On PostgreSQL the lock is FOR
NO KEY UPDATE: a job inserted before it in the same transaction holds the key's row shared, and two
such transactions would wait for each other for a plain FOR UPDATE.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from decimal import Decimal

from sqlalchemy import Connection, Row, exists, insert, select

from backdrop_server.errors import InvalidInputError
from backdrop_server.gateway.errors import InsufficientCreditsError
from backdrop_server.gateway.money import MAX_CREDITS, billionths, plain
from backdrop_server.gateway.tables import keys, ledger


@dataclass(frozen=True)
class Entry:
    """One line of a key's ledger; ``balance`` is the key's after it."""

    key_id: int
    sequence: int
    kind: str
    job_id: str | None
    amount: Decimal
    balance: Decimal
    created_at: float
    note: str


@dataclass(frozen=True)
class Reservation:
    """Credits (0 or more) set aside for a job that has not ended."""

    job_id: str
    key_id: int
    amount: Decimal
    created_at: float


def balance(connection: Connection, key_id: int) -> Decimal:
    """Credits that the key can still spend; open reservations are already taken off."""
    return _last(connection, key_id)[1]


def entries(connection: Connection, key_id: int) -> list[Entry]:
    """All of the key's entries, oldest first."""
    columns = [ledger.c[name] for name in Entry.__dataclass_fields__]
    query = select(*columns).where(ledger.c.key_id == key_id).order_by(ledger.c.sequence)
    return [Entry(*row) for row in connection.execute(query)]


def open_reservations(connection: Connection) -> list[Reservation]:
    """Reservations of all keys that were neither settled nor released, oldest first."""
    ended = ledger.alias()
    query = (
        select(ledger.c.job_id, ledger.c.key_id, -ledger.c.amount, ledger.c.created_at)
        .where(ledger.c.kind == "reserve")
        .where(~exists().where(ended.c.job_id == ledger.c.job_id, ended.c.kind == "release"))
        .order_by(ledger.c.id)
    )
    return [Reservation(*row) for row in connection.execute(query)]


def grant(connection: Connection, key_id: int, amount: Decimal, note: str) -> Decimal:
    """Add ``amount``, or take it back where it is negative; returns the new balance.

    Raises:
        InsufficientCreditsError: a negative amount is larger than the balance.
        InvalidInputError: the amount is zero, or the balance would pass ``MAX_CREDITS``.
    """
    billionths(amount)
    _lock(connection, key_id)
    held = balance(connection, key_id)
    if amount == 0 or held + amount > MAX_CREDITS:
        allowed = f"an amount other than zero that keeps the balance at {MAX_CREDITS} or less"
        raise InvalidInputError("amount", f"{plain(amount)} can't be added", allowed)
    if held + amount < 0:
        raise InsufficientCreditsError(-amount, held)
    return _append(connection, key_id, "grant", amount, None, note)


def reserve(connection: Connection, key_id: int, job_id: str, amount: Decimal) -> Decimal:
    """Set ``amount`` (0 or more) aside for the job; returns the balance that remains.

    Raises:
        InsufficientCreditsError: the balance is smaller. Nothing was written.
    """
    if billionths(amount) < 0:
        raise ValueError(f"a reservation is 0 or more, not {amount}")
    _lock(connection, key_id)
    held = balance(connection, key_id)
    if held < amount:
        raise InsufficientCreditsError(amount, held)
    return _append(connection, key_id, "reserve", -amount, job_id)


def settle(connection: Connection, job_id: str, bill: Decimal) -> Decimal:
    """Give the job's reservation back and take ``bill`` (0 or more), never more than was reserved.

    A job that was settled or released before is left as it is. Returns what was billed.

    Raises:
        LookupError: the job has no reservation.
    """
    if billionths(bill) < 0:
        raise ValueError(f"a bill is 0 or more, not {bill}")
    reserved = _lock_reservation(connection, job_id)
    if not _ended(connection, job_id):
        _append(connection, reserved.key_id, "release", reserved.amount, job_id)
        _append(connection, reserved.key_id, "settle", -min(bill, reserved.amount), job_id)
    return billed(connection, job_id)


def release(connection: Connection, job_id: str) -> None:
    """Give the job's reservation back and bill nothing; a job that has ended is left as it is.

    Raises:
        LookupError: the job has no reservation.
    """
    reserved = _lock_reservation(connection, job_id)
    if not _ended(connection, job_id):
        _append(connection, reserved.key_id, "release", reserved.amount, job_id)


def billed(connection: Connection, job_id: str) -> Decimal:
    """What the job was billed so far; zero for one that is unknown, open or released."""
    settled = _entry_of_job(connection, job_id, "settle")
    return -settled.amount if settled else Decimal(0)


def _lock(connection: Connection, key_id: int) -> None:
    query = select(keys.c.id).where(keys.c.id == key_id).with_for_update(key_share=True)
    if connection.execute(query).scalar() is None:
        raise LookupError(f"there is no key {key_id}")


def _lock_reservation(connection: Connection, job_id: str) -> Reservation:
    entry = _entry_of_job(connection, job_id, "reserve")
    if entry is None:
        raise LookupError(f"job {job_id} has no reservation")
    _lock(connection, entry.key_id)
    return Reservation(job_id, entry.key_id, -entry.amount, entry.created_at)


def _ended(connection: Connection, job_id: str) -> bool:
    return _entry_of_job(connection, job_id, "release") is not None


def _entry_of_job(
    connection: Connection, job_id: str, kind: str
) -> Row[int, Decimal, float] | None:
    query = select(ledger.c.key_id, ledger.c.amount, ledger.c.created_at)
    found = query.where(ledger.c.job_id == job_id, ledger.c.kind == kind)
    return connection.execute(found).one_or_none()


def _last(connection: Connection, key_id: int) -> tuple[int, Decimal]:
    """Sequence and balance of the key's last entry; zeros before the first."""
    query = select(ledger.c.sequence, ledger.c.balance).where(ledger.c.key_id == key_id)
    row = connection.execute(query.order_by(ledger.c.sequence.desc()).limit(1)).one_or_none()
    return (row.sequence, row.balance) if row else (0, Decimal(0))


def _append(
    connection: Connection,
    key_id: int,
    kind: str,
    amount: Decimal,
    job_id: str | None,
    note: str = "",
) -> Decimal:
    sequence, held = _last(connection, key_id)
    entry = Entry(key_id, sequence + 1, kind, job_id, amount, held + amount, time.time(), note)
    connection.execute(insert(ledger).values(**vars(entry)))
    return entry.balance
