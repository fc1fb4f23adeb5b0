"""Credits are exact, in Python and in the database; prices are rounded as promised."""

from __future__ import annotations

import math
from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import Column, MetaData, Table, func, insert, select
from sqlalchemy.exc import StatementError

from backdrop_server.errors import InvalidInputError
from backdrop_server.gateway.database import Database
from backdrop_server.gateway.money import (
    MAX_CREDITS,
    Credits,
    billionths,
    parse_credits,
    plain,
    price,
    seconds_paid,
)

AMOUNTS = st.decimals(-MAX_CREDITS, MAX_CREDITS, places=9)


@given(AMOUNTS)
def test_billionths_are_exact(amount: Decimal) -> None:
    assert Fraction(billionths(amount), 10**9) == Fraction(amount)
    assert -(2**63) <= billionths(amount) < 2**63


@pytest.mark.parametrize("amount", [0.5, 1, "1", True])
def test_only_decimals_are_credits(amount: object) -> None:
    with pytest.raises(TypeError, match="Decimals"):
        billionths(amount)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "amount", ["1e-10", "0.0000000005", "9000000000.000000001", "-1e30", "NaN", "sNaN", "Infinity"]
)
def test_amounts_that_do_not_fit_are_refused(amount: str) -> None:
    with pytest.raises(ValueError, match="credits"):
        billionths(Decimal(amount))


def test_columns_keep_amounts_exactly_and_refuse_floats(database: Database) -> None:
    table = Table("amounts", MetaData(), Column("amount", Credits))
    amounts = [Decimal("0.1"), Decimal("-0.000000001"), MAX_CREDITS, -MAX_CREDITS, None]
    with database.writing() as connection:
        table.create(connection)
        connection.execute(insert(table), [{"amount": amount} for amount in amounts])
        assert set(connection.execute(select(table.c.amount)).scalars()) == set(amounts)
        total = connection.execute(select(func.sum(table.c.amount))).scalar_one()
        assert total == Decimal("0.099999999")
        above = select(table.c.amount).where(table.c.amount > Decimal("0.099999999"))
        assert set(connection.execute(above).scalars()) == {Decimal("0.1"), MAX_CREDITS}
        with pytest.raises(StatementError, match="Decimals, not float"):
            connection.execute(insert(table).values(amount=0.1))
        with pytest.raises(StatementError, match="nine decimal places"):
            connection.execute(insert(table).values(amount=Decimal("1e-10")))


@pytest.mark.parametrize(
    ("seconds", "per_second", "credits_"),
    [
        (9.0, "0.0015", "0.0135"),
        (0.1 + 0.2, "1", "0.3"),  # not 0.30000000000000004
        (0.0000005, "1", "0.000001"),  # half a microsecond goes up
        (0.00000049, "1", "0"),
        (1 / 3, "0.0015", "0.0005"),  # 0.333333 * 0.0015 = 0.0004999995 goes up
        (0.000001, "0.0015", "0.000000002"),  # 1.5 billionths go up
        (0.0, "0.0015", "0"),
        (1234567.0, "0", "0"),
    ],
)
def test_prices(seconds: float, per_second: str, credits_: str) -> None:
    assert price(seconds, Decimal(per_second)) == Decimal(credits_)


@given(st.floats(0, 1e6), st.decimals(0, 1000, places=9))
def test_a_price_is_at_most_a_billionth_above_the_exact_product(
    seconds: float, per_second: Decimal
) -> None:
    paid = Fraction(price(seconds, per_second))
    microseconds = math.floor(Fraction(str(seconds)) * 10**6 + Fraction(1, 2))
    exact = Fraction(microseconds, 10**6) * Fraction(per_second)
    assert 0 <= paid - exact < Fraction(1, 10**9)
    billionths(price(seconds, per_second))


@pytest.mark.parametrize("seconds", [-0.001, float("nan"), float("inf")])
def test_seconds_that_nobody_can_pay(seconds: float) -> None:
    with pytest.raises(ValueError, match="seconds"):
        price(seconds, Decimal("0.0015"))


def test_a_price_per_second_is_no_float() -> None:
    with pytest.raises(TypeError):
        price(1.0, 0.0015)  # type: ignore[arg-type]


@pytest.mark.parametrize("text", ["10", "-0.25", "+3", "0.000000001", "9000000000"])
def test_amounts_that_people_write(text: str) -> None:
    assert parse_credits("amount", text) == Decimal(text)


@pytest.mark.parametrize(
    "text", ["", "ten", "1e3", "1_0", "NaN", "0.0000000001", "9000000001", "1,5", "٣", "1 "]
)
def test_amounts_that_are_none(text: str) -> None:
    with pytest.raises(InvalidInputError, match=r"^amount: .*; allowed: a decimal number"):
        parse_credits("amount", text)


@given(AMOUNTS)
def test_plain_amounts_read_back_and_have_no_exponent(amount: Decimal) -> None:
    assert Decimal(plain(amount)) == amount
    assert "E" not in plain(amount)
    assert plain(Decimal("1E+3")) == "1000"
    assert plain(Decimal("0.013500000")) == "0.0135"


def test_seconds_paid_are_those_of_the_bill() -> None:
    assert seconds_paid(2.0, Decimal("0.003"), Decimal("0.003")) == 2
    assert seconds_paid(2.0, Decimal("0.003"), Decimal("0.0015")) == 1  # held to its reservation
    assert seconds_paid(2.0, Decimal("0.003"), Decimal(0)) == 0
    assert seconds_paid(2.0, Decimal(0), Decimal(0)) == 2  # free of charge
