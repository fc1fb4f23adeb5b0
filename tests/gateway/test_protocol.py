"""Connections of strangers: nothing that they send may grow or last without end."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
import uvicorn
from uvicorn.server import ServerState

from backdrop_server.gateway import protocol
from backdrop_server.gateway.protocol import MAX_HEAD_BYTES, BoundedProtocol
from tests.gateway.fetches import run

POST = b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
ENDLESS = {
    "one header": (b"GET / HTTP/1.1\r\nHost: x\r\nA: ", b"a" * 8192),
    "headers": (b"GET / HTTP/1.1\r\nHost: x\r\n", b"a: b\r\n" * 1500),
    "a URL": (b"GET /", b"a" * 8192),
    "trailers": (POST + b"0\r\n", b"a: b\r\n" * 1500),
    "a chunk's extension": (POST + b"1;", b"a" * 8192),
}
Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


async def count_body(scope: Any, receive: Any, send: Any) -> None:
    """Answers how many bytes the body has."""
    size, more = 0, True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            return
        size, more = size + len(message["body"]), message["more_body"]
    text = str(size).encode()
    headers = [(b"content-length", b"%d" % len(text))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": text})


@contextlib.asynccontextmanager
async def connection() -> AsyncIterator[Streams]:
    """A connection to a server on loopback that speaks the gateway's protocol."""
    config = uvicorn.Config(count_body, lifespan="off", log_config=None)
    config.load()
    state = ServerState()

    def protocol_of_one() -> BoundedProtocol:
        return BoundedProtocol(config=config, server_state=state, app_state={})

    server = await asyncio.get_running_loop().create_server(protocol_of_one, "127.0.0.1", 0)
    reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
    try:
        yield reader, writer
    finally:
        writer.transport.abort()
        server.close()
        await asyncio.gather(*state.tasks, return_exceptions=True)
        await asyncio.sleep(0)


async def ask(pieces: list[bytes], pause: float = 0.0) -> bytes:
    """Send ``pieces``; everything that comes until the server closes."""
    async with connection() as (reader, writer), asyncio.timeout(30):
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(pause)
        return await reader.read()


@pytest.mark.parametrize("name", ENDLESS)
def test_a_head_without_end_is_refused(name: str) -> None:
    begin, piece = ENDLESS[name]

    async def work() -> tuple[int, bytes]:
        sent = 0
        async with connection() as (reader, writer), asyncio.timeout(30):
            answer = asyncio.ensure_future(reader.read())
            writer.write(begin)
            while not answer.done() and sent < 100 * MAX_HEAD_BYTES:
                writer.write(piece)
                sent += len(piece)
                with contextlib.suppress(ConnectionError):
                    await writer.drain()
                await asyncio.sleep(0.001)
            with contextlib.suppress(ConnectionError):
                return sent, await answer
            return sent, b""

    sent, answer = run(work)
    assert sent < 20 * MAX_HEAD_BYTES
    head, _, content = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 431 ")
    assert json.loads(content) == {
        "error": f"the request's head is longer than {MAX_HEAD_BYTES} bytes"
    }


def test_a_body_in_tiny_pieces_is_no_head() -> None:
    pieces = [b"1\r\na\r\n" * 1000] * 100
    answer = run(
        lambda: ask([POST.replace(b"Host", b"Connection: close\r\nHost"), *pieces, b"0\r\n\r\n"])
    )
    assert answer.startswith(b"HTTP/1.1 200 ")
    assert answer.endswith(b"\r\n\r\n100000")


def test_what_is_no_http_is_refused_in_json() -> None:
    head, _, content = run(lambda: ask([b"GARBAGE\r\n\r\n"])).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 400 ")
    assert json.loads(content) == {"error": "invalid HTTP request received"}


@pytest.mark.parametrize("begin", [b"", b"GET / HTTP/1.1\r\nHost: x\r\n"])
def test_a_silent_connection_is_closed(monkeypatch: pytest.MonkeyPatch, begin: bytes) -> None:
    monkeypatch.setattr(protocol, "HEAD_SECONDS", 0.2)
    assert run(lambda: ask([begin])) == b""


def test_a_request_whose_head_has_come_is_not_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "HEAD_SECONDS", 0.2)
    head = b"POST / HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 3\r\n\r\n"
    answer = run(lambda: ask([head, b"a", b"b", b"c"], pause=0.3))
    assert answer.startswith(b"HTTP/1.1 200 ")
    assert answer.endswith(b"\r\n\r\n3")
