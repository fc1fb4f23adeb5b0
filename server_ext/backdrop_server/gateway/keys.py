"""API keys: made, recognised, revoked. Only a key's digest is kept."""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
import string
import time
from dataclasses import dataclass
from decimal import Decimal

from sqlalchemy import ColumnElement, Connection, func, insert, select, update

from backdrop_server.errors import InvalidInputError
from backdrop_server.gateway import ledger
from backdrop_server.gateway.errors import InvalidKeyError
from backdrop_server.gateway.tables import keys
from backdrop_server.gateway.tables import ledger as ledger_table

MAX_NAME = 100
"""Characters of a key's name."""

MAX_REQUESTS_PER_MINUTE = 1_000_000

_TEXT = re.compile(r"bd_([a-z0-9]{8})_[A-Za-z0-9_-]{43}")
_PREFIX_LETTERS = string.ascii_lowercase + string.digits
_NO_DIGEST = "0" * 64


@dataclass(frozen=True)
class Key:
    """A key without its secret. Times are seconds since 1970 in UTC."""

    id: int
    name: str
    prefix: str
    created_at: float
    expires_at: float | None
    revoked_at: float | None
    requests_per_minute: int | None


_COLUMNS = [keys.c[name] for name in Key.__dataclass_fields__]


def create(
    connection: Connection,
    name: str,
    expires_at: float | None = None,
    requests_per_minute: int | None = None,
) -> tuple[Key, str]:
    """A new key, and its text ``bd_<prefix>_<256 random bits>``, which is kept nowhere.

    Raises:
        InvalidInputError: a name, expiry or rate that a key can't have.
    """
    now = time.time()
    _check(name, expires_at, requests_per_minute, now)
    prefix = "".join(secrets.choice(_PREFIX_LETTERS) for _ in range(8))
    secret = f"bd_{prefix}_{secrets.token_urlsafe(32)}"
    values = {
        "name": name,
        "prefix": prefix,
        "digest": _digest(secret),
        "created_at": now,
        "expires_at": expires_at,
        "requests_per_minute": requests_per_minute,
    }
    row = connection.execute(insert(keys).values(**values).returning(*_COLUMNS)).one()
    return Key(*row), secret


def authenticate(connection: Connection, text: str | None, now: float) -> Key:
    """The key whose whole text this is, at ``now`` (seconds since 1970).

    Raises:
        InvalidKeyError: missing, unknown, revoked or expired. Only the holder of the whole key is
            told which of the last two.
    """
    if not text:
        raise InvalidKeyError("the API key is missing; send it in the header x-api-key")
    match = _TEXT.fullmatch(text)
    if match is None:
        raise InvalidKeyError("the API key is unknown")
    query = select(keys.c.digest, *_COLUMNS).where(keys.c.prefix == match[1])
    row = connection.execute(query).one_or_none()
    kept = row.digest if row else _NO_DIGEST
    if not hmac.compare_digest(kept, _digest(text)) or row is None:
        raise InvalidKeyError("the API key is unknown")
    key = Key(*row[1:])
    if key.revoked_at is not None:
        raise InvalidKeyError("the API key was revoked")
    if key.expires_at is not None and key.expires_at <= now:
        raise InvalidKeyError("the API key has expired")
    return key


def list_keys(connection: Connection) -> list[tuple[Key, Decimal]]:
    """Every key with its balance, oldest first."""
    of_key = select(ledger_table.c.balance).where(ledger_table.c.key_id == keys.c.id)
    last = of_key.order_by(ledger_table.c.sequence.desc()).limit(1).scalar_subquery()
    rows = connection.execute(select(last, *_COLUMNS).order_by(keys.c.id))
    return [(Key(*columns), balance or Decimal(0)) for balance, *columns in rows]


def find(connection: Connection, reference: str) -> Key:
    """The key with this prefix (with or without ``bd_``) or, if no prefix fits, this id.

    Raises:
        InvalidInputError: there is none.
    """
    for condition in _conditions(reference):
        row = connection.execute(select(*_COLUMNS).where(condition)).one_or_none()
        if row is not None:
            return Key(*row)
    raise InvalidInputError(
        "key", f"no key has the prefix or id {reference!r}", "one that `backdrop keys list` shows"
    )


def revoke(connection: Connection, reference: str) -> Key:
    """Refuse the key from now on (found as in ``find``); one revoked before is left as it is."""
    key = find(connection, reference)
    revoked_at = func.coalesce(keys.c.revoked_at, time.time())
    changed = update(keys).where(keys.c.id == key.id).values(revoked_at=revoked_at)
    return Key(*connection.execute(changed.returning(*_COLUMNS)).one())


def credit(connection: Connection, reference: str, amount: Decimal, note: str) -> Decimal:
    """Grant credits to the key (found as in ``find``); returns its new balance."""
    return ledger.grant(connection, find(connection, reference).id, amount, note)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _conditions(reference: str) -> list[ColumnElement[bool]]:
    conditions: list[ColumnElement[bool]] = [keys.c.prefix == reference.removeprefix("bd_")]
    if re.fullmatch(r"[0-9]{1,9}", reference):
        conditions.append(keys.c.id == int(reference))
    return conditions


def _check(name: str, expires_at: float | None, rate: int | None, now: float) -> None:
    if not (name.strip() and name.isprintable() and len(name) <= MAX_NAME):
        allowed = f"1 to {MAX_NAME} printable characters"
        raise InvalidInputError("name", f"{name[:MAX_NAME]!r} is no name", allowed)
    if expires_at is not None and expires_at <= now:
        raise InvalidInputError("expires", "the key would have expired already", "a later time")
    if rate is not None and not 1 <= rate <= MAX_REQUESTS_PER_MINUTE:
        allowed = f"1 to {MAX_REQUESTS_PER_MINUTE}"
        raise InvalidInputError("requests_per_minute", f"{rate} is out of range", allowed)
