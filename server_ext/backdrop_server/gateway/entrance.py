"""What stands before every job: the key, its rate, a place, and a body of bounded size."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import re
import time
from collections.abc import AsyncIterator
from typing import Annotated

from fastapi import Depends, Header, Request
from fastapi.security import APIKeyHeader
from sqlalchemy import Connection

from backdrop_server.errors import InvalidInputError
from backdrop_server.gateway import keys, rate_limit
from backdrop_server.gateway.admission import Ticket
from backdrop_server.gateway.errors import BodyTooLargeError, NotJsonError
from backdrop_server.gateway.gateway import Gateway
from backdrop_server.gateway.keys import Key
from backdrop_server.gateway.transactions import read, write

_KEY_HEADER = APIKeyHeader(
    name="x-api-key", auto_error=False, description="`backdrop keys create` makes one."
)
_IDEMPOTENCY_KEY = re.compile("[!-~]{1,255}")
_BODY_SECONDS = 60.0
"""In which a body must have come: a slow sender holds a place that others want."""


def gateway_of(request: Request) -> Gateway:
    """The gateway that serves this request."""
    gateway: Gateway = request.app.state.gateway
    return gateway


async def authenticated(request: Request, text: Annotated[str | None, Depends(_KEY_HEADER)]) -> Key:
    """The caller's key. Raises InvalidKeyError."""
    database = gateway_of(request).database

    def action(connection: Connection) -> Key:
        return keys.authenticate(connection, text, time.time())

    key = await read(database, action)
    request.state.key = key.prefix
    return key


async def rated(request: Request, key: Annotated[Key, Depends(authenticated)]) -> Key:
    """The caller's key, with this request counted against its rate. Raises RateLimitedError."""
    gateway = gateway_of(request)
    if key.requests_per_minute is None:
        key = dataclasses.replace(key, requests_per_minute=gateway.settings.requests_per_minute)
    if key.requests_per_minute is not None:
        await write(
            gateway.database,
            lambda connection: rate_limit.count_request(connection, key, time.time()),
        )
    return key


AnyKey = Annotated[Key, Depends(authenticated)]
RatedKey = Annotated[Key, Depends(rated)]


def idempotency_key(
    text: Annotated[
        str | None,
        Header(
            alias="Idempotency-Key",
            description="The same key with the same body is the same request, made and billed once.",
            json_schema_extra={"pattern": f"^{_IDEMPOTENCY_KEY.pattern}$"},
        ),
    ] = None,
) -> str | None:
    """The header of that name. Raises InvalidInputError."""
    if text is not None and not _IDEMPOTENCY_KEY.fullmatch(text):
        allowed = "1 to 255 visible ASCII characters"
        raise InvalidInputError("Idempotency-Key", "it is empty, too long or unreadable", allowed)
    return text


IdempotencyKey = Annotated[str | None, Depends(idempotency_key)]


@contextlib.asynccontextmanager
async def admitted(request: Request) -> AsyncIterator[tuple[Ticket, bytes]]:
    """A place among the gateway's jobs, and the body. Place given back at the end of the block.

    Raises BusyError before the body is read, NotJsonError, BodyTooLargeError, InvalidInputError.
    """
    gateway = gateway_of(request)
    ticket = gateway.admission.enter()
    try:
        with gateway.metrics.stage("read"):
            body = await _body(request, gateway.settings.max_body_bytes)
        yield ticket, body
    finally:
        ticket.give_back()


async def _body(request: Request, limit: int) -> bytes:
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type != "application/json" and not media_type.endswith("+json"):
        raise NotJsonError("the body's content type is not application/json")
    declared = request.headers.get("content-length", "")
    too_large = BodyTooLargeError(f"the body is larger than {limit} bytes")
    if declared.isdigit() and int(declared) > limit:
        raise too_large
    try:
        return await asyncio.wait_for(_collect(request, limit, too_large), _BODY_SECONDS)
    except asyncio.TimeoutError:
        problem = f"it did not come within {_BODY_SECONDS:.0f} s"
        raise InvalidInputError("body", problem, "a body that is sent at once") from None


async def _collect(request: Request, limit: int, too_large: BodyTooLargeError) -> bytes:
    parts, size = [], 0
    async for part in request.stream():
        size += len(part)
        if size > limit:
            raise too_large
        parts.append(part)
    return b"".join(parts)
