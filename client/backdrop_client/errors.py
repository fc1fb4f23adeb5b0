"""What can go wrong, by type. Every text is one sentence that is safe to show; none holds a key."""

# ruff: noqa: N818 (the names say what is wrong; the base says that they are errors)

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from decimal import Decimal

_FIELD = re.compile(r"([\w-]{1,60}): .+; allowed: ", re.DOTALL)
_CANCELLED = "was cancelled"


class BackdropError(Exception):
    """Base of all errors of the client.

    ``message``: the sentence. ``status``: of the HTTP answer, None where there was none. ``field``:
    the field of the request that is wrong, where it is one. ``code``: a short name of the type.
    """

    code = "error"
    is_temporary = False
    """Whether the same request may succeed a little later."""

    def __init__(
        self, message: str, *, status: int | None = None, field: str | None = None
    ) -> None:
        super().__init__(message)
        self.message = message
        self.status = status
        self.field = field


class InvalidInput(BackdropError):
    """A field is missing, wrong, too large or cannot be read; ``field`` names it where one does."""

    code = "invalid_input"


class Unauthorized(BackdropError):
    """The key is missing, unknown, revoked or expired."""

    code = "unauthorized"


class NotEnoughCredits(BackdropError):
    """The key's balance does not cover the request."""

    code = "not_enough_credits"


class NotFound(BackdropError):
    """There is no such job, or its results are gone."""

    code = "not_found"


class Overloaded(BackdropError):
    """Over the key's rate, or the server is full or not ready.

    ``retry_after``: seconds after which the server wants to be asked again, where it said so.
    """

    code = "overloaded"
    is_temporary = True
    retry_after: float | None = None


class ServerFailed(BackdropError):
    """The server's own fault, or its answer is not Backdrop's."""

    code = "server_failed"


class ServerUnreachable(BackdropError):
    """No connection, or none that lasted until the answer was there."""

    code = "server_unreachable"
    is_temporary = True


class JobFailed(BackdropError):
    """The job has ended without pictures; ``cost``: credits that it was billed."""

    code = "job_failed"
    cost: Decimal | None = None


class JobCancelled(JobFailed):
    """The job was cancelled; it pays for the steps that it had."""

    code = "job_cancelled"


class TimedOut(BackdropError):
    """The job had not ended when the time to wait was over."""

    code = "timed_out"


class MissingExtra(BackdropError):
    """A part of the client needs a package that is not installed."""

    code = "missing_extra"


def invalid(field: str, problem: str, allowed: str) -> InvalidInput:
    """One sentence in the server's form."""
    return InvalidInput(f"{field}: {problem}; allowed: {allowed}", field=field)


def error_of_answer(status: int, content: bytes, headers: Mapping[str, str]) -> BackdropError:
    """The error that an HTTP answer stands for."""
    sentence = _sentence(status, content)
    if status in (400, 413, 415, 422):
        return _invalid_input(sentence, status)
    kinds = {401: Unauthorized, 403: Unauthorized, 404: NotFound, 406: NotEnoughCredits}
    if status in kinds:
        return kinds[status](sentence, status=status)
    if status in (429, 502, 503, 504):
        error = Overloaded(sentence, status=status)
        seconds = headers.get("retry-after", "")
        error.retry_after = float(seconds) if seconds.isascii() and seconds.isdigit() else None
        return error
    return ServerFailed(sentence, status=status)


def error_of_job(sentence: str, status: int | None = None) -> BackdropError:
    """The error with which a job has ended."""
    if _CANCELLED in sentence:
        return JobCancelled(sentence, status=status)
    if _FIELD.match(sentence):
        return _invalid_input(sentence, status)
    return JobFailed(sentence, status=status)


def _invalid_input(sentence: str, status: int | None) -> InvalidInput:
    named = _FIELD.match(sentence)
    return InvalidInput(sentence, status=status, field=named[1] if named else None)


def _sentence(status: int, content: bytes) -> str:
    """The body's sentence; a proxy's page is not shown."""
    try:
        sentence = json.loads(content)["error"]
    except (ValueError, TypeError, KeyError):
        sentence = None
    return sentence if isinstance(sentence, str) else f"the server answered with status {status}"
