"""How many requests the gateway takes in: those in Triton and those that wait, with a bound on both."""

from __future__ import annotations

import math

from backdrop_server.gateway.errors import BusyError
from backdrop_server.gateway.pool import TritonPool

_LONGEST = 120
"""Seconds; the most that a caller is told to wait."""


class Admission:
    """Counts requests from before their body is read until their job has ended."""

    def __init__(self, pool: TritonPool, max_waiting: int) -> None:
        self._pool = pool
        self._max_waiting = max_waiting
        self._held = 0
        self._seconds = 1.0
        """Running mean of what a job takes."""
        self._handed_over: dict[str, Ticket] = {}

    def enter(self) -> Ticket:
        """Count a request in. Raises BusyError when all places are taken."""
        if self._held >= self._pool.capacity + self._max_waiting:
            turns = self._held / max(1, self._pool.capacity)
            raise BusyError(min(_LONGEST, max(1, math.ceil(turns * self._seconds))))
        return self._count_in()

    def hand_over(self, job_id: str, ticket: Ticket) -> None:
        """Leave a request's place to the job that it was made into; the request has none then."""
        self._handed_over[job_id] = ticket.moved()

    def take_over(self, job_id: str) -> Ticket:
        """The place of a job; of one that comes from another gateway, a new one beyond any bound."""
        return self._handed_over.pop(job_id, None) or self._count_in()

    def learn(self, seconds: float) -> None:
        """Take in how long a job took."""
        self._seconds += 0.2 * (seconds - self._seconds)

    def leave(self) -> None:
        """Count one out."""
        self._held -= 1

    def _count_in(self) -> Ticket:
        self._held += 1
        return Ticket(self)


class Ticket:
    """One request's place; giving it back twice is the same as once."""

    def __init__(self, admission: Admission) -> None:
        self._admission: Admission | None = admission

    def moved(self) -> Ticket:
        """The same place under another ticket; this one is worth nothing any more."""
        if self._admission is None:
            raise ValueError("the ticket was given back already")
        other, self._admission = Ticket(self._admission), None
        return other

    def give_back(self) -> None:
        """Count the request out."""
        if self._admission is not None:
            self._admission.leave()
            self._admission = None
