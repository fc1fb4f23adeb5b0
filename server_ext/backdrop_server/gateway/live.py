"""A job while a gateway runs it, and how it came out."""

from __future__ import annotations

import asyncio
import dataclasses
from decimal import Decimal

from backdrop_client.triton import Replaced
from backdrop_server.gateway.tritons import Triton


@dataclasses.dataclass
class Live:
    """A job that this gateway runs now; ``request_id`` is the attempt's own in Triton."""

    job_id: str
    attempt: int
    """The last one begun; what ends the job must know it."""
    triton: Triton | None = None
    request_id: str | None = None
    is_cancelled: bool = False
    is_late: bool = False
    """Cancelled by its own ``timeout``."""
    ended: asyncio.Event = dataclasses.field(default_factory=asyncio.Event)


@dataclasses.dataclass(frozen=True)
class Pictures:
    """How a job came out: Triton's answer, and what it cost."""

    answer: Replaced
    billed: Decimal
