"""What the gateway refuses a caller for, besides wrong fields, and each error's HTTP status."""

from __future__ import annotations

from decimal import Decimal

from backdrop_server.errors import (
    BackdropError,
    CancelledError,
    InvalidInputError,
    UnavailableError,
)
from backdrop_server.gateway.money import plain


class InvalidKeyError(BackdropError):
    """The API key is missing, unknown, revoked or expired."""


class InsufficientCreditsError(BackdropError):
    """The key's balance does not cover the amount. Both in credits."""

    def __init__(self, needed: Decimal, available: Decimal) -> None:
        self.needed = needed
        self.available = available
        super().__init__(
            f"not enough credits: {plain(needed)} are needed, {plain(available)} are there"
        )


class RateLimitedError(BackdropError):
    """The key has made all of its requests of this minute."""

    def __init__(self, retry_after_seconds: int) -> None:
        self.retry_after_seconds = retry_after_seconds
        super().__init__(
            f"too many requests with this key; try again in {retry_after_seconds} seconds"
        )


class NotFoundError(BackdropError):
    """There is no such thing, or it is another key's."""


class BodyTooLargeError(BackdropError):
    """The request's body is larger than the server takes."""


class NotJsonError(BackdropError):
    """The request's body does not say that it is JSON."""


class BusyError(UnavailableError):
    """The gateway has all the jobs that it takes."""

    def __init__(self, retry_after_seconds: int) -> None:
        self.retry_after_seconds = retry_after_seconds
        super().__init__(f"the server is at capacity; try again in {retry_after_seconds} seconds")


class LostError(UnavailableError):
    """Triton was lost under a request; the same request can be sent again."""


class FullError(UnavailableError):
    """Triton holds all the requests that it takes; the same request can be sent again later."""


class EndedElsewhereError(BackdropError):
    """The job has its end in the database already: nothing is left to write."""


class ServerFailedError(BackdropError):
    """Our own fault; all that a caller is told is where the log speaks of it."""

    def __init__(self, request_id: str) -> None:
        super().__init__(f"the server failed at this request; its log says why under {request_id}")


class FailedJobError(BackdropError):
    """A job has ended with an error before; ``status`` is what that error has over HTTP."""

    def __init__(self, sentence: str, status: int) -> None:
        self.status = status
        super().__init__(sentence)


_STATUSES: tuple[tuple[type[BackdropError], int, str], ...] = (
    (InvalidInputError, 400, "invalid input"),
    (CancelledError, 400, "cancelled"),
    (EndedElsewhereError, 400, "cancelled"),
    (InvalidKeyError, 401, "key"),
    (NotFoundError, 404, "not found"),
    (InsufficientCreditsError, 406, "credits"),
    (BodyTooLargeError, 413, "too large"),
    (NotJsonError, 415, "not JSON"),
    (RateLimitedError, 429, "rate"),
    (BusyError, 503, "busy"),
    (UnavailableError, 503, "unavailable"),
)
_RETRY_AFTER = 5
"""Seconds to wait where nothing better is known."""


def status_of(error: Exception) -> int:
    """The HTTP status of an error."""
    if isinstance(error, FailedJobError):
        return error.status
    return next((status for kind, status, _ in _STATUSES if isinstance(error, kind)), 500)


def kind_of(error: Exception) -> str:
    """What metrics call an error."""
    return next((name for kind, _, name in _STATUSES if isinstance(error, kind)), "server")


def retry_after_of(error: Exception) -> int | None:
    """Seconds after which a new request may succeed; None where that does not help."""
    seconds: int | None = getattr(error, "retry_after_seconds", None)
    if seconds is None and status_of(error) == 503:
        return _RETRY_AFTER
    return seconds
