"""URLs from callers against real servers on loopback: hostile ones are refused, good ones arrive."""

from __future__ import annotations

import gzip
import sys
import time
from typing import Any

import pytest

from backdrop_server.errors import InvalidInputError, UnavailableError
from backdrop_server.gateway.fetching import Fetcher, FetchPolicy
from tests.gateway.fetches import (
    MAX_BYTES,
    PNG,
    TIMEOUT,
    encoded,
    fetch,
    policy,
    refusal,
    resolve,
    run,
)
from tests.gateway.local_servers import (
    Answer,
    LocalServer,
    chunked,
    drip,
    raw,
    redirect,
    reply,
    serve,
    silence,
)

# Hosts that lead to the canary, or would if they were understood as some programs do.
HOSTILE_HOSTS = (
    "127.0.0.1", "127.0.0.1.", "127.1", "127.0.1", "2130706433", "0x7f000001", "0x7f.1", "0x7f.0.0.1",
    "0177.0.0.1", "017700000001", "0177.1", "127.0.0.0x1", "127.0.0.01", "0", "0x0",
    "0.0.0.0",  # noqa: S104
    "%31%32%37.0.0.1", "127。0。0。1", "\uff11\uff12\uff17.0.0.1", "127%2e0%2e0%2e1",
    "localhost", "LOCALHOST.",
    "lⓞcalhost", "loc%61lhost", "localhost..", ".localhost", "loopback.test", "LOOPBACK.test.",
    "bücher.test", "mapped.test", "mixed.test", "[::1]", "[::]", "[0:0:0:0:0:0:0:1]",
    "[::ffff:127.0.0.1]", "[::ffff:7f00:1]", "[0:0:0:0:0:ffff:127.0.0.1]", "[::127.0.0.1]",
    "[::ffff:0:127.0.0.1]", "[64:ff9b::127.0.0.1]", "[64:ff9b:1::127.0.0.1]", "[2002:7f00:1::]",
    "[2001:0:7f00:1::80ff:fffe]", "[::1%25lo]", "[::1%lo]", "[fe80::1%25eth0]", "[::1", "::1",
    "user:pass@127.0.0.1", "user@localhost", "images.example.com@127.0.0.1", "example.com:80@[::1]",
    "127.0.0.1\\", "127.0.0.1\\@example.com", "example.com#@127.0.0.1", "127.0.0.1\t", "127.0.0.1\x00",
    " 127.0.0.1", "127.0.0.1\u2028", "127.0.0.1\ud800", "a b", "", "-", "*", "a" * 64, "xn--a",
    "zone.test", "loopback6.test",
)  # fmt: skip
# Whole URLs; these lead to other places, or nowhere.
HOSTILE_URLS = (
    "http://169.254.169.254/latest/meta-data/iam/", "http://[fd00:ec2::254]/latest/", "http://metadata.test/",
    "http://private.test/", "http://10.0.0.1/", "http://172.16.0.1/", "http://192.168.0.1/", "http://100.64.0.1/",
    "http://198.18.0.1/", "http://192.0.2.1/", "http://224.0.0.1/", "http://255.255.255.255/", "http://[ff02::1]/",
    "http://[fe80::1]/", "http://[fc00::1]/", "http://[2001:db8::1]/", "http://[::ffff:169.254.169.254]/",
    "http://nowhere.test/", "http://nonsense.test/", "http://nxdomain.test/",
    "http://8.8.8.8:0/", "http://8.8.8.8:65536/", "http://8.8.8.8:-1/", "http://8.8.8.8:http/", "http://8.8.8.8:80:80/",
    "http://8.8.8.8:" + "9" * 1900 + "/", "http://8.8.8.8/" + "a" * 2048,
    "", "http", "http:", "http://", "http:///a.png", "//127.0.0.1/", "127.0.0.1", "/etc/passwd",
    "file:///etc/passwd", "ftp://127.0.0.1/", "gopher://127.0.0.1/", "ws://127.0.0.1/", "unix:///run/docker.sock",
    "javascript:alert(1)", "data:image/png;base64,AAAA", "http+unix://%2frun/",
    "http://8.8.8.8/\r\nX: y",
)  # fmt: skip

# Of every socket in this process, as Python's own audit events tell.
connects: list[Any] = []
lookups: list[Any] = []


def _audit(event: str, arguments: tuple[Any, ...]) -> None:
    if event == "socket.connect":
        connects.append(arguments[1])
    elif event == "socket.getaddrinfo":
        lookups.append(arguments[0])


sys.addaudithook(_audit)


@pytest.fixture(autouse=True)
def _fresh_records() -> None:
    connects.clear()
    lookups.clear()


async def attack(url: str, canary: LocalServer) -> str:
    """Try ``url`` in every way that the gateway offers; the canary stays silent."""
    async with Fetcher(FetchPolicy(timeout=TIMEOUT), resolve) as fetcher:
        sentence = await refusal(fetcher.fetch_picture(url, "image"))
        assert await refusal(fetcher.check(url, "image")) == sentence
        with pytest.raises((InvalidInputError, UnavailableError), match=r"^webhook_url: the "):
            await fetcher.post(url, b"{}", {})
    assert canary.connections == 0
    assert connects == []
    return sentence


@pytest.mark.parametrize("host", HOSTILE_HOSTS, ids=ascii)
def test_hostile_hosts_are_refused_and_nothing_is_connected_to(host: str) -> None:
    async def work() -> None:
        async with serve(reply(PNG)) as canary:
            await attack(f"http://{host}:{canary.port}/a.png", canary)

    run(work)
    assert set(lookups) <= {"127.0.0.1", "localhost"}  # the canary's own; the one real name


@pytest.mark.parametrize("url", HOSTILE_URLS, ids=lambda url: ascii(url)[:50])
def test_hostile_urls_are_refused_and_nothing_is_connected_to(url: str) -> None:
    async def work() -> None:
        async with serve(reply(PNG)) as canary:
            await attack(url, canary)

    run(work)


def test_a_hostile_url_in_full_is_not_repeated() -> None:
    sentence = run(lambda: refusal(fetch("http://secret:token@8.8.8.8/", policy()), "image"))
    assert sentence == (
        "image: the URL has a user name or password in it; allowed: a public http or https URL"
    )


def headed(head: str, body: bytes = PNG) -> Answer:
    return raw(f"HTTP/1.1 200 OK\r\n{head}\r\n".encode() + body)


GZIP = "Content-Encoding: gzip\r\n"
OK = b"HTTP/1.1 200 OK\r\n"
HOSTILE_ANSWERS: dict[str, tuple[Answer, str]] = {
    "not found": (reply(PNG, status=404), "the URL answers with status 404"),
    "server error": (reply(PNG, status=500), "status 500"),
    "part of it": (reply(PNG, status=206), "status 206"),
    "nothing": (raw(b"HTTP/1.1 204 No Content\r\n\r\n"), "status 204"),
    "another protocol": (raw(b"HTTP/1.1 101 X\r\nUpgrade: x\r\n\r\n"), "not HTTP"),
    "a page": (reply(b"<html></html>", "text/html; charset=utf-8"), "declared as no picture"),
    "a picture called a page": (reply(PNG, "Text/HTML"), "declared as no picture"),
    "JSON": (reply(b"{}", "application/json"), "declared as no picture"),
    "problem JSON": (reply(b"{}", "application/problem+json"), "declared as no picture"),
    "a film": (reply(PNG, "video/mp4"), "declared as no picture"),
    "a page called a picture": (reply(b"<html></html>"), "not a picture"),
    "a page of no type": (reply(b"<html></html>", None), "not a picture"),
    "SVG": (reply(b"<svg xmlns='http://www.w3.org/2000/svg'/>", "image/svg+xml"), "not a picture"),
    "BMP": (reply(encoded("BMP"), "image/bmp"), "not a picture"),
    "an empty file": (reply(b""), "not a picture"),
    "half a PNG": (reply(PNG[: len(PNG) // 2]), "damaged"),
    "compressed": (reply(gzip.compress(PNG), extra=GZIP), "compressed"),
    "an inflating bomb": (reply(gzip.compress(bytes(50_000_000)), extra=GZIP), "compressed"),
    "said to be compressed": (reply(PNG, extra=GZIP), "compressed"),
    "compressed twice": (reply(PNG, extra="Content-Encoding: identity, br\r\n"), "compressed"),
    "compressed in transfer": (headed("Transfer-Encoding: gzip, chunked\r\n"), "not HTTP"),
    "declared too large": (headed(f"Content-Length: {MAX_BYTES + 1}\r\n", b""), "too large"),
    "declared endless": (headed("Content-Length: 99999999999999999999\r\n", b""), "too large"),
    "a length of 5000 digits": (headed("Content-Length: " + "9" * 5000 + "\r\n"), "not HTTP"),
    "a negative length": (headed("Content-Length: -1\r\n"), "not HTTP"),
    "a length in words": (headed("Content-Length: many\r\n"), "not HTTP"),
    "two lengths": (headed("Content-Length: 10\r\nContent-Length: 20\r\n"), "not HTTP"),
    "shorter than declared": (headed(f"Content-Length: {len(PNG) + 1}\r\n"), "breaks off"),
    "longer than declared": (headed(f"Content-Length: {len(PNG) - 20}\r\n"), "damaged"),
    "a chunk too large": (chunked(PNG + bytes(MAX_BYTES)), "too large"),
    "a chunk of nonsense": (headed("Transfer-Encoding: chunked\r\n", b"zz\r\n"), "not HTTP"),
    "an endless body": (drip(OK + b"\r\n" + PNG, bytes(65536), 0), "too large"),
    "endless headers": (drip(OK, b"X-Y: z\r\n" * 1000, 0), "not HTTP"),
    "endless early answers": (drip(b"", b"HTTP/1.1 103 X\r\n\r\n" * 100, 0.001), "did not answer"),
    "not HTTP": (raw(b"220 mail.test ESMTP\r\n"), "not HTTP"),
    "no answer at all": (raw(b""), "not HTTP"),
    "silence": (silence, "did not answer in full within 0.6 seconds"),
    "dripping headers": (drip(OK, b"X: y\r\n", 0.1), "did not answer in full within"),
    "a dripping body": (drip(OK + b"\r\n" + PNG[:9], b"\0", 0.1), "did not answer in full within"),
    "to itself": (redirect("/"), "redirects too often; allowed: at most 3 redirects"),
    "to nowhere": (redirect(""), "redirects too often"),
    "to a bad URL": (redirect("http://[::1"), "redirects to one that is not well-formed"),
    "to metadata": (redirect("http://169.254.169.254/"), "after a redirect the URL leads to a private"),
    "to a mapped address": (redirect("//[::ffff:10.0.0.1]/", 307), "after a redirect the URL leads"),
    "to a private name": (redirect("http://private.test/", 308), "after a redirect the URL leads to"),
    "to a short address": (redirect("http://10.1/", 301), "after a redirect the URL's host is not"),
    "to credentials": (redirect("http://a:b@8.8.8.8/", 303), "after a redirect the URL has a user"),
    "to a file": (redirect("file:///etc/passwd"), "after a redirect the URL does not start with"),
    "to port 0": (redirect("http://8.8.8.8:0/"), "after a redirect the URL's port"),
    "to a long URL": (redirect("/" + "a" * 2048), "after a redirect the URL has"),
    "to backslashes": (redirect("\\\\10.0.0.1\\"), "after a redirect the URL has a space, backslash"),
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE_ANSWERS)
def test_hostile_answers_are_refused_in_time(name: str) -> None:
    answer, expected = HOSTILE_ANSWERS[name]

    async def work() -> None:
        async with serve(answer) as server:
            start = time.monotonic()
            sentence = await refusal(fetch(f"http://127.0.0.1:{server.port}/", policy()))
            assert expected in sentence
            assert time.monotonic() - start < TIMEOUT + 0.5
            assert {address[0] for address in connects} == {"127.0.0.1"}
            assert 1 <= server.connections <= 4

    run(work)
