"""Credits: US dollars as exact decimals, kept as whole billionths."""

from __future__ import annotations

import math
import re
from decimal import (
    ROUND_CEILING,
    ROUND_HALF_UP,
    Context,
    Decimal,
    Inexact,
    InvalidOperation,
    localcontext,
)

from sqlalchemy import BigInteger, Dialect
from sqlalchemy.types import TypeDecorator

from backdrop_server.errors import InvalidInputError

MAX_CREDITS = Decimal(9_000_000_000)
"""The largest amount and balance: its billionths fit 64 bits."""

_BILLIONTH = Decimal("1e-9")
_MICROSECOND = Decimal("1e-6")
_EXACT = Context(prec=19, traps=[Inexact, InvalidOperation])
_WIDE = Context(prec=60)
_AMOUNT = re.compile(r"[+-]?[0-9]{1,10}(\.[0-9]{1,9})?")


def billionths(amount: Decimal) -> int:
    """``amount`` as a whole number of billionths.

    Raises:
        TypeError: it is no Decimal.
        ValueError: it has more than nine decimal places, or is beyond ±``MAX_CREDITS``.
    """
    if not isinstance(amount, Decimal):
        raise TypeError(f"credits are Decimals, not {type(amount).__name__}")
    if not amount.is_finite() or abs(amount) > MAX_CREDITS:
        raise ValueError(f"credits lie between ±{MAX_CREDITS}, not at {amount}")
    try:
        return int(amount.quantize(_BILLIONTH, context=_EXACT).scaleb(9, context=_EXACT))
    except Inexact:
        raise ValueError(f"credits have at most nine decimal places, not {amount}") from None


def price(seconds: float, per_second: Decimal) -> Decimal:
    """Credits for ``seconds`` (0 or more), rounded half up to microseconds.

    The product is rounded up to a billionth.
    """
    if not math.isfinite(seconds) or seconds < 0:
        raise ValueError(f"seconds to pay for are 0 or more, not {seconds}")
    with localcontext(_WIDE):
        measured = Decimal(str(seconds)).quantize(_MICROSECOND, ROUND_HALF_UP)
        return (measured * per_second).quantize(_BILLIONTH, ROUND_CEILING)


def seconds_paid(seconds: float, bill: Decimal, billed: Decimal) -> float:
    """What of ``seconds``, whose price is ``bill``, the ``billed`` credits pay for."""
    return seconds * float(billed / bill) if bill else seconds


def parse_credits(field: str, text: str) -> Decimal:
    """The amount that a person wrote, e.g. ``10`` or ``-0.25``."""
    allowed = f"a decimal number between ±{MAX_CREDITS} with at most nine decimal places"
    if not _AMOUNT.fullmatch(text) or abs(Decimal(text)) > MAX_CREDITS:
        raise InvalidInputError(field, f"{text!r} is no amount of credits", allowed)
    return Decimal(text)


def plain(amount: Decimal) -> str:
    """``amount`` without an exponent or needless zeros, e.g. ``0.0135``."""
    return format(amount.normalize(_WIDE), "f")


class Credits(TypeDecorator[Decimal]):
    """A column of Decimals, stored as whole billionths; floats and finer amounts are refused."""

    impl = BigInteger
    cache_ok = True

    def process_bind_param(self, value: Decimal | None, dialect: Dialect) -> int | None:
        """See ``billionths``."""
        return None if value is None else billionths(value)

    def process_result_value(self, value: int | None, dialect: Dialect) -> Decimal | None:
        """Exact; PostgreSQL gives sums as a whole Decimal."""
        return None if value is None else Decimal(int(value)).scaleb(-9)
