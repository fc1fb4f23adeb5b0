"""What the gateway refuses a caller for, besides wrong fields."""

from __future__ import annotations

from decimal import Decimal

from backdrop_server.errors import BackdropError
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
