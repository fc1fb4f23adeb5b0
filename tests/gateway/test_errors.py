"""Errors over HTTP: which come with the time after which to try again."""

from __future__ import annotations

import pytest

from backdrop_server.errors import InvalidInputError, UnavailableError
from backdrop_server.gateway.errors import (
    BusyError,
    FailedJobError,
    RateLimitedError,
    retry_after_of,
)


@pytest.mark.parametrize(
    ("error", "seconds"),
    [
        (UnavailableError("no Triton is up"), 5),
        (BusyError(9), 9),
        (RateLimitedError(40), 40),
        (FailedJobError("its Triton was lost", 503), 5),
        (FailedJobError("image: it is damaged", 400), None),
        (InvalidInputError("samples", "5 is out of range", "1 to 4"), None),
    ],
    ids=str,
)
def test_every_503_and_429_says_when_to_try_again(error: Exception, seconds: int | None) -> None:
    assert retry_after_of(error) == seconds
