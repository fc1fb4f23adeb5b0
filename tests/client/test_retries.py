"""Calls that are sent again: made once, billed once; and those that are not."""

from __future__ import annotations

import asyncio
import itertools
import time
from typing import Any

import httpx
import pytest

from backdrop_client import AsyncBackdrop, Backdrop, InvalidInput, Overloaded, ServerUnreachable
from tests.client.samples import fields
from tests.gateway.books import all_jobs
from tests.gateway.servers import GatewayProcess


class LostAnswers(httpx.HTTPTransport):
    """The network: the first answer to a submission is lost, after the gateway has sent it."""

    def __init__(self) -> None:
        super().__init__()
        self.keys: list[str] = []

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        response = super().handle_request(request)
        if request.method == "POST":
            self.keys.append(request.headers["idempotency-key"])
            if len(self.keys) == 1:
                response.read()
                response.close()
                raise httpx.ReadError("connection reset")
        return response


class LostAsyncAnswers(httpx.AsyncHTTPTransport):
    """The same for asyncio."""

    def __init__(self) -> None:
        super().__init__()
        self.keys: list[str] = []

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        response = await super().handle_async_request(request)
        if request.method == "POST":
            self.keys.append(request.headers["idempotency-key"])
            if len(self.keys) == 1:
                await response.aread()
                await response.aclose()
                raise httpx.ReadError("connection reset")
        return response


@pytest.mark.triton
def test_a_lost_answer_is_asked_for_again_and_billed_once(gateway: GatewayProcess) -> None:
    before, network = len(all_jobs(gateway)), LostAnswers()
    with Backdrop(gateway.url, gateway.make_key("5"), transport=network) as client:
        result = client.replace(**fields())
        assert result.cost is not None
        assert client.credits() == 5 - result.cost
    assert len(network.keys) == 2
    assert len(set(network.keys)) == 1
    made = all_jobs(gateway)[before:]
    assert [job.id for job in made] == [result.request_id]


@pytest.mark.triton
def test_a_lost_answer_with_asyncio(gateway: GatewayProcess) -> None:
    before, network = len(all_jobs(gateway)), LostAsyncAnswers()

    async def ask() -> None:
        key = gateway.make_key("5")
        async with AsyncBackdrop(gateway.url, key, transport=network) as client:
            result = await client.replace(**fields())
            assert result.cost is not None
            assert await client.credits() == 5 - result.cost

    asyncio.run(ask())
    assert len(network.keys) == 2
    assert len(set(network.keys)) == 1
    assert len(all_jobs(gateway)) == before + 1


@pytest.mark.triton
def test_two_calls_are_two_jobs(client: Backdrop, gateway: GatewayProcess) -> None:
    before = len(all_jobs(gateway))
    first, second = client.submit(**fields()), client.submit(**fields())
    assert first.request_id != second.request_id
    same = [client.submit(**fields(), idempotency_key="mine").request_id for _ in range(2)]
    assert same[0] == same[1]
    with pytest.raises(InvalidInput, match="another request was sent with it") as caught:
        client.submit(**fields(seed=8), idempotency_key="mine")
    assert caught.value.field == "Idempotency-Key"
    assert len(all_jobs(gateway)) == before + 3


Answers = list[Any]


@pytest.fixture
def slept(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """How long the client paused; it does not really."""
    pauses: list[float] = []
    monkeypatch.setattr(time, "sleep", pauses.append)
    return pauses


def answering(answers: Answers) -> tuple[Backdrop, list[httpx.Request]]:
    """A client whose network gives these answers in turn, the last for ever; and what was sent."""
    sent: list[httpx.Request] = []
    left = itertools.chain(answers, itertools.repeat(answers[-1]))

    def answer(request: httpx.Request) -> httpx.Response:
        sent.append(request)
        found = next(left)
        if isinstance(found, Exception):
            raise found
        status, headers, body = found
        return httpx.Response(status, headers=headers, json=body)

    return Backdrop("http://gateway", "bd_key", transport=httpx.MockTransport(answer)), sent


FULL = (503, {"retry-after": "9"}, {"error": "the server is at capacity"})
FINE: tuple[int, dict[str, str], Any] = (200, {}, {"credits": "1.5"})


@pytest.mark.parametrize(
    "passing", [(429, {}, {"error": "too many"}), FULL, (502, {}, None), httpx.ConnectError("no")]
)
def test_what_may_pass_is_tried_again(passing: Any, slept: list[float]) -> None:
    client, sent = answering([passing, passing, FINE])
    assert str(client.credits()) == "1.5"
    assert len(sent) == 3
    assert len(slept) == 2


def test_pauses_grow_and_differ(slept: list[float]) -> None:
    client, sent = answering([httpx.ConnectError("refused")])
    with pytest.raises(ServerUnreachable, match=r"^no answer from http://gateway: refused$"):
        client.credits()
    assert len(sent) == 6
    for number, pause in enumerate(slept):
        assert 0.25 * 2**number <= pause <= 0.5 * 2**number
    assert len(set(slept)) == 5


def test_the_servers_retry_after_is_honoured(slept: list[float]) -> None:
    client, _ = answering([FULL, FINE])
    client.credits()
    assert 9 <= slept[0] <= 9.5


def test_a_server_that_wants_to_be_left_alone_for_long_is(slept: list[float]) -> None:
    client, sent = answering([(503, {"retry-after": "86400"}, {"error": "closed today"})])
    with pytest.raises(Overloaded, match=r"^closed today$"):
        client.credits()
    assert len(sent) == 1
    assert not slept


@pytest.mark.parametrize("status", [400, 401, 404, 406, 413, 415, 500])
def test_what_is_refused_is_asked_once(status: int, slept: list[float]) -> None:
    client, sent = answering([(status, {}, {"error": "no"})])
    with pytest.raises(Exception, match=r"^no$") as caught:
        client.replace(**fields())
    assert caught.value.status == status  # type: ignore[attr-defined]
    assert len(sent) == 1
    assert not slept


def test_redirects_are_not_followed(slept: list[float]) -> None:
    """The key is for this server alone."""
    client, sent = answering([(307, {"location": "http://elsewhere/v2/credits"}, None)])
    with pytest.raises(Exception, match="status 307"):
        client.credits()
    assert [request.url.host for request in sent] == ["gateway"]


def test_each_call_has_a_key_of_its_own(slept: list[float]) -> None:
    accepted: tuple[int, dict[str, str], Any] = (200, {}, {"request_id": "a"})
    client, sent = answering([FULL, accepted])
    for _ in range(2):
        client.submit(**fields())
    keys = [request.headers["idempotency-key"] for request in sent]
    assert keys[0] == keys[1] != keys[2]
