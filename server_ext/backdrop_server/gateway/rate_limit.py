"""How many requests a key may make in a minute of the clock, counted for all gateways together."""

from __future__ import annotations

import math

from sqlalchemy import Connection, delete, text

from backdrop_server.gateway.errors import RateLimitedError
from backdrop_server.gateway.keys import Key
from backdrop_server.gateway.tables import rate_windows

_COUNT = text(
    "INSERT INTO rate_windows (key_id, window_start, count) VALUES (:key_id, :minute, 1)"
    " ON CONFLICT (key_id, window_start) DO UPDATE SET count = rate_windows.count + 1"
    " RETURNING count"
)


def count_request(connection: Connection, key: Key, now: float) -> None:
    """Count a request at ``now`` (seconds since 1970); a key without a limit is not counted.

    Raises:
        RateLimitedError: the key's ``requests_per_minute`` is used up in this minute.
    """
    if key.requests_per_minute is None:
        return
    minute = int(now // 60)
    count = connection.execute(_COUNT, {"key_id": key.id, "minute": minute}).scalar_one()
    if count > key.requests_per_minute:
        raise RateLimitedError(max(1, math.ceil((minute + 1) * 60 - now)))
    if count == 1:
        _delete_old(connection, key.id, minute)


def _delete_old(connection: Connection, key_id: int, minute: int) -> None:
    """The window before this one is kept: a gateway with a slower clock may still count in it."""
    old = (rate_windows.c.key_id == key_id) & (rate_windows.c.window_start < minute - 1)
    connection.execute(delete(rate_windows).where(old))
