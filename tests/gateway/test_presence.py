"""A gateway's name: the same after a restart, another one's never."""

from __future__ import annotations

import asyncio
import socket

import pytest
from sqlalchemy import select, update

from backdrop_server.gateway.database import Database
from backdrop_server.gateway.presence import MAX_NAME, Presence, gateway_name
from backdrop_server.gateway.tables import gateways
from backdrop_server.settings import load_settings


def test_a_short_name_is_kept_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    assert gateway_name(load_settings({"gateway_id": "eu-1"})) == "eu-1"
    monkeypatch.setattr(socket, "gethostname", lambda: "host")
    assert gateway_name(load_settings({"port": 8080})) == "host:8080"


@pytest.mark.parametrize("length", [31, 50, 64])
def test_long_host_names_that_begin_alike_stay_apart(
    monkeypatch: pytest.MonkeyPatch, length: int
) -> None:
    names = []
    for number in ("0", "1"):
        host = (
            "backdrop-gateway-production-europe-west-".ljust(length - 1, "x")[: length - 1] + number
        )
        monkeypatch.setattr(socket, "gethostname", lambda host=host: host)
        names += [
            gateway_name(load_settings({"port": 8080})),
            gateway_name(load_settings({"gateway_id": host})),
        ]
        assert gateway_name(load_settings({"port": 8080})) == names[-2]
    assert len(set(names)) == 4
    assert max(map(len, names)) <= MAX_NAME


def test_a_late_gateway_takes_over_from_others_but_not_from_itself(database: Database) -> None:
    late, dead = (
        Presence(load_settings({"gateway_id": name}), database) for name in ("late", "dead")
    )

    async def begin() -> None:
        await dead.begin()
        await late.begin()

    asyncio.run(begin())
    with database.writing() as connection:  # both have shown no sign of life for long
        connection.execute(update(gateways).values(heartbeat_at=0.0))
    with database.writing() as connection:
        late._take_over(connection)
        assert connection.execute(select(gateways.c.id)).scalars().all() == [late.id]
