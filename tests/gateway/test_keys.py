"""Keys are recognised by their digest alone; requests are counted by the minute."""

from __future__ import annotations

import hashlib
import re
import threading
import time
from decimal import Decimal
from pathlib import Path

import pytest
from sqlalchemy import select

from backdrop_server.errors import InvalidInputError
from backdrop_server.gateway import keys
from backdrop_server.gateway.database import Database
from backdrop_server.gateway.errors import InvalidKeyError, RateLimitedError
from backdrop_server.gateway.keys import Key
from backdrop_server.gateway.rate_limit import count_request
from backdrop_server.gateway.tables import keys as keys_table
from backdrop_server.gateway.tables import rate_windows

NOW = 1_800_000_000.0  # 00 seconds past a minute


def make(
    database: Database, expires_at: float | None = None, rate: int | None = None
) -> tuple[Key, str]:
    with database.writing() as connection:
        return keys.create(connection, "shop", expires_at, rate)


def refusal(database: Database, text: str | None, now: float = NOW) -> str:
    with pytest.raises(InvalidKeyError) as raised, database.reading() as connection:
        keys.authenticate(connection, text, now)
    return str(raised.value)


def test_a_key_is_recognised(database: Database) -> None:
    key, secret = make(database, expires_at=NOW + 60, rate=5)
    other, _ = make(database)
    assert re.fullmatch(rf"bd_{key.prefix}_[A-Za-z0-9_-]{{43}}", secret)
    assert (key.name, key.expires_at, key.revoked_at) == ("shop", NOW + 60, None)
    assert (key.requests_per_minute, other.requests_per_minute) == (5, None)
    assert abs(key.created_at - time.time()) < 60
    with database.reading() as connection:
        assert keys.authenticate(connection, secret, NOW) == key


def test_only_the_digest_is_kept(database: Database, tmp_path: Path) -> None:
    key, secret = make(database)
    with database.reading() as connection:
        row = connection.execute(select(keys_table)).one()
    assert row.digest == hashlib.sha256(secret.encode()).hexdigest()
    assert not any(secret[12:] in str(value) for value in row)
    for file in tmp_path.rglob("backdrop.db*"):  # the database, its log and its index
        assert secret[12:].encode() not in file.read_bytes()
    assert secret not in repr(key)


def test_no_two_keys_are_alike(database: Database) -> None:
    made = [make(database) for _ in range(20)]
    assert len({key.prefix for key, _ in made}) == 20
    assert len({secret[12:] for _, secret in made}) == 20


def test_keys_that_are_refused(database: Database) -> None:
    key, secret = make(database, expires_at=NOW + 60)
    _, other = make(database)
    last = "A" if secret[-1] != "A" else "B"
    assert "missing" in refusal(database, None)
    assert "missing" in refusal(database, "")
    for wrong in (
        secret[:-1] + last,
        secret[:12] + other[12:],
        secret.upper(),
        secret + "\n",
        secret[:-1],
        "bd_aaaaaaaa_" + secret[12:],
        key.prefix,
        "ü" * 55,
        "\udc80",
        "' OR 1=1 --",
        "\0",
    ):
        assert refusal(database, wrong) == "the API key is unknown"
    assert "expired" in refusal(database, secret, NOW + 60)
    with database.writing() as connection:
        keys.revoke(connection, key.prefix)
    assert "revoked" in refusal(database, secret)
    assert refusal(database, secret[:-1] + last) == "the API key is unknown"  # no hint


def test_revoking_again_keeps_the_first_time(database: Database) -> None:
    key, _ = make(database)
    with database.writing() as connection:
        first = keys.revoke(connection, str(key.id))
        assert first.revoked_at is not None
        assert keys.revoke(connection, f"bd_{key.prefix}") == first


def test_keys_are_listed_with_their_balances(database: Database) -> None:
    rich, poor = make(database)[0], make(database)[0]
    with database.writing() as connection:
        assert keys.credit(connection, rich.prefix, Decimal("1.5"), "first") == Decimal("1.5")
        assert keys.credit(connection, str(rich.id), Decimal("0.1"), "then") == Decimal("1.6")
        assert keys.list_keys(connection) == [(rich, Decimal("1.6")), (poor, Decimal(0))]


@pytest.mark.parametrize("reference", ["nothing", "999", "9" * 30, "", "bd_"])
def test_keys_that_are_not_there(database: Database, reference: str) -> None:
    make(database)
    with pytest.raises(InvalidInputError, match="key: no key"), database.writing() as connection:
        keys.revoke(connection, reference)


@pytest.mark.parametrize(
    ("field", "name", "expires_at", "rate"),
    [
        ("name", " ", None, None),
        ("name", "a\nb", None, None),
        ("name", "\0", None, None),
        ("name", "x" * 101, None, None),
        ("expires", "shop", 1.0, None),
        ("requests_per_minute", "shop", None, 0),
        ("requests_per_minute", "shop", None, 10**12),
    ],
)
def test_keys_that_can_not_be(
    database: Database, field: str, name: str, expires_at: float | None, rate: int | None
) -> None:
    with pytest.raises(InvalidInputError) as raised, database.writing() as connection:
        keys.create(connection, name, expires_at, rate)
    assert raised.value.field == field


def count(database: Database, key: Key, now: float) -> int:
    """0, or the seconds to wait."""
    try:
        with database.writing() as connection:
            count_request(connection, key, now)
    except RateLimitedError as error:
        assert f"in {error.retry_after_seconds} seconds" in str(error)
        return error.retry_after_seconds
    return 0


def test_requests_are_counted_by_the_minute(database: Database) -> None:
    key, other = make(database, rate=3)[0], make(database, rate=1)[0]
    assert [count(database, key, NOW + second) for second in (0, 10, 59.5)] == [0, 0, 0]
    assert count(database, key, NOW + 20.25) == 40
    assert count(database, key, NOW + 59.99) == 1
    assert count(database, other, NOW + 20) == 0
    assert count(database, other, NOW + 20) == 40
    assert count(database, key, NOW + 60) == 0


def test_a_key_without_a_rate_is_not_counted(database: Database) -> None:
    key, _ = make(database)
    assert [count(database, key, NOW) for _ in range(20)] == [0] * 20
    with database.reading() as connection:
        assert connection.execute(select(rate_windows)).all() == []


def test_old_windows_go(database: Database) -> None:
    key, _ = make(database, rate=3)
    for minute in range(5):
        count(database, key, NOW + 60 * minute)
    with database.reading() as connection:
        windows = connection.execute(select(rate_windows.c.window_start)).scalars()
        assert sorted(windows) == [int(NOW // 60) + 3, int(NOW // 60) + 4]


def test_a_rate_holds_for_many_threads(database: Database) -> None:
    key, _ = make(database, rate=25)
    told: list[int] = []
    threads = [
        threading.Thread(target=lambda: told.append(count(database, key, NOW + 30)))
        for _ in range(60)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert sorted(told) == [0] * 25 + [30] * 35
