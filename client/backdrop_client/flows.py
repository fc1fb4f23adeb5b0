"""What is asked of the gateway, and when it is asked again: once for both clients.

A flow is a generator. It yields a ``Call`` or a ``Pause``, is sent the call's ``Reply``, and returns
its result. It opens no socket and never sleeps, so that the client with threads and the one with
asyncio differ only in how they do a step.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import json
import random
import time
import uuid
from collections.abc import Callable, Generator, Mapping
from decimal import Decimal
from typing import Any, TypeVar
from urllib.parse import quote as quoted

from backdrop_client.errors import (
    BackdropError,
    JobFailed,
    Overloaded,
    ServerFailed,
    ServerUnreachable,
    TimedOut,
    error_of_answer,
    error_of_job,
)
from backdrop_client.results import Progress, Quote, Result, Status

T = TypeVar("T")
OnProgress = Callable[[Progress], object]

_FIRST_PAUSE, _LONGEST_PAUSE = 0.5, 30.0
"""Seconds between tries; each is twice the one before."""
_LONGEST_PATIENCE = 120.0
"""A server that wants to be asked again after more seconds than this is not asked again."""
_FIRST_LOOK, _LOOK_OFTEN, _LOOK_SELDOM = 0.1, 0.25, 1.0
"""Seconds between looks at a job: the first, the most where progress is wanted, the most at all."""
_FAILED_JOB = 422


@dataclasses.dataclass(frozen=True)
class Call:
    """An HTTP request; the driver adds the server's address and the key."""

    method: str
    path: str
    content: bytes | None = None
    headers: Mapping[str, str] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Pause:
    """Wait this many seconds."""

    seconds: float


@dataclasses.dataclass(frozen=True)
class Reply:
    """The answer to a ``Call``."""

    status: int
    headers: Mapping[str, str]
    content: bytes


Flow = Generator[Call | Pause, Any, T]
"""A driver throws ServerUnreachable into it where a call found nobody."""


def submit(content: bytes, idempotency_key: str | None, retries: int) -> Flow[str]:
    """Submit a body; the job's id. Sent again under one key, it is one job and billed once."""
    headers = {
        "content-type": "application/json",
        "idempotency-key": idempotency_key or uuid.uuid4().hex,
    }
    call = Call("POST", "/v2/bg-replace", content, headers)
    return (yield from _ask(call, retries, lambda answer: str(answer["request_id"])))


def quote(content: bytes, retries: int) -> Flow[Quote]:
    """What the body of a dry run would cost."""
    call = Call("POST", "/v2/bg-replace", content, {"content-type": "application/json"})
    return (yield from _ask(call, retries, Quote.from_answer))


def credits_left(retries: int) -> Flow[Decimal]:
    """The key's balance."""
    call = Call("GET", "/v2/credits")
    return (yield from _ask(call, retries, lambda answer: Decimal(answer["credits"])))


def status(request_id: str, retries: int) -> Flow[Status]:
    """Where a job is."""
    call = Call("GET", _path_of(request_id) + "/status")
    return (yield from _ask(call, retries, Status.from_answer))


def cancel(request_id: str, retries: int) -> Flow[Status]:
    """Cancel a job; where it is then."""
    call = Call("DELETE", _path_of(request_id))
    return (yield from _ask(call, retries, Status.from_answer))


def wait(
    request_id: str, timeout: float | None, on_progress: OnProgress | None, retries: int
) -> Flow[Result]:
    """Follow a job to its end; its pictures. Raises TimedOut, and what ended the job."""
    ends_at = None if timeout is None else time.monotonic() + timeout
    longest = _LOOK_SELDOM if on_progress is None else _LOOK_OFTEN
    pause, told = _FIRST_LOOK, None
    while True:
        seen = yield from status(request_id, retries)
        if on_progress is not None and seen.progress != told:
            told = seen.progress
            on_progress(seen.progress)
        if seen.has_ended:
            return (yield from _result(request_id, retries))
        if ends_at is not None:
            left = ends_at - time.monotonic()
            if left <= 0:
                raise TimedOut(f"the job {request_id} has not ended within {timeout} s")
            pause = min(pause, left)
        yield Pause(pause)
        pause = min(pause * 1.5, longest)


def replace(
    content: bytes,
    idempotency_key: str | None,
    timeout: float | None,
    on_progress: OnProgress | None,
    retries: int,
) -> Flow[Result]:
    """Submit and follow to the end. Whoever does not wait any longer does not pay for the rest."""
    request_id = yield from submit(content, idempotency_key, retries)
    try:
        return (yield from wait(request_id, timeout, on_progress, retries))
    except GeneratorExit:
        raise
    except BaseException as error:
        if isinstance(error, TimedOut) or not isinstance(error, BackdropError):
            with contextlib.suppress(BackdropError):
                yield from cancel(request_id, 0)
        raise


def _path_of(request_id: str) -> str:
    return f"/v2/requests/{quoted(request_id, safe='')}"


def _result(request_id: str, retries: int) -> Flow[Result]:
    call = Call("GET", _path_of(request_id))
    return (yield from _ask(call, retries, _result_of))


def _result_of(answer: Mapping[str, Any]) -> Result:
    if answer["status"] == "FAILED":
        error = error_of_job(answer["error"], _FAILED_JOB)
        if isinstance(error, JobFailed):
            error.cost = Decimal(answer["credits_consumed"])
        raise error
    return Result.from_answer(answer)


def _ask(call: Call, retries: int, read: Callable[[Mapping[str, Any]], T]) -> Flow[T]:
    """What ``read`` makes of the JSON that ``call`` is answered with."""
    reply = yield from _exchange(call, retries)
    try:
        return read(json.loads(reply.content))
    except (ValueError, KeyError, TypeError, AttributeError, ArithmeticError):
        sentence = "the answer is not that of a Backdrop gateway; is the URL right?"
        raise ServerFailed(sentence, status=reply.status) from None


def _exchange(call: Call, retries: int) -> Flow[Reply]:
    """The first answer that is no passing refusal; ``retries``: tries after the first."""
    for attempt in itertools.count():
        error: BackdropError
        try:
            reply: Reply = yield call
        except ServerUnreachable as caught:
            error = caught
        else:
            if reply.status < 300 or _is_ended_job(call, reply):
                return reply
            error = error_of_answer(reply.status, reply.content, reply.headers)
        pause = _pause_before_next(attempt, error)
        if attempt >= retries or not error.is_temporary or pause > _LONGEST_PATIENCE:
            raise error
        yield Pause(pause)
    raise AssertionError  # itertools.count never ends


def _is_ended_job(call: Call, reply: Reply) -> bool:
    return reply.status == _FAILED_JOB and call.method == "GET"


def _pause_before_next(attempt: int, error: BackdropError) -> float:
    """Growing, and never the same for two callers; the server's own, if that is longer."""
    pause: float = min(_FIRST_PAUSE * 2**attempt, _LONGEST_PAUSE)
    pause *= random.uniform(0.5, 1.0)  # noqa: S311 (no secret)
    asked = error.retry_after if isinstance(error, Overloaded) else None
    return pause if asked is None else max(pause, asked + random.uniform(0, 0.5))  # noqa: S311
