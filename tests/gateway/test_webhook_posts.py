"""Posts to webhooks: they arrive, follow nothing, and keep to the same rules."""

from __future__ import annotations

import asyncio
import time

import pytest

from backdrop_server.errors import InvalidInputError, UnavailableError
from backdrop_server.gateway.fetching import MAX_ANSWER_BYTES, MAX_CONNECTIONS, Fetcher
from tests.gateway.fetches import PNG, TIMEOUT, policy, refusal, resolve, run
from tests.gateway.local_servers import Answer, drip, raw, redirect, reply, serve, silence

OK = b"HTTP/1.1 200 OK\r\n"
BODY = b'{"status": "COMPLETED"}'


async def post(answer: Answer) -> int:
    async with serve(answer) as server, Fetcher(policy(), resolve) as fetcher:
        return await fetcher.post(f"http://loopback.test:{server.port}/hook?a=b", BODY, {})


def test_a_post_arrives_with_its_headers() -> None:
    async def work() -> None:
        async with serve(reply(b"thanks", "text/html", 202)) as server:
            async with Fetcher(policy(), resolve) as fetcher:
                url = f"http://loopback.test:{server.port}/hook?a=b"
                headers = {"X-Signature": "abc", "content-type": "application/json", "host": "x"}
                assert await fetcher.post(url, BODY, headers) == 202
            (head,) = server.heads
            lines = head.lower().split(b"\r\n")
            assert lines[0] == b"post /hook?a=b http/1.1"
            assert {b"x-signature: abc", b"content-type: application/json"} <= set(lines)
            hosts = [line for line in lines if line.startswith(b"host:")]
            assert hosts == [f"host: loopback.test:{server.port}".encode()]
            assert server.bodies == [BODY]

    run(work)


@pytest.mark.parametrize("status", [204, 400, 404, 410, 500, 503])
def test_every_status_is_the_callers_to_judge(status: int) -> None:
    assert (
        run(lambda: post(raw(f"HTTP/1.1 {status} X\r\nContent-Length: 0\r\n\r\n".encode())))
        == status
    )


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_is_not_followed(status: int) -> None:
    async def work() -> int:
        async with serve(reply(PNG)) as canary:
            found = await post(redirect(f"http://127.0.0.1:{canary.port}/", status))
            assert canary.connections == 0
            return found

    assert run(work) == status


@pytest.mark.parametrize(
    "answer",
    [
        drip(OK + b"\r\n", bytes(MAX_ANSWER_BYTES), 0),
        drip(OK + b"\r\n", b".", 0.05),
        raw(OK + b"Content-Length: 10\r\n\r\nshort"),
        raw(OK + b"Content-Encoding: gzip\r\n\r\nnot gzip"),
    ],
    ids=["endless", "dripping", "cut short", "not what it says"],
)
def test_what_a_webhook_answers_beyond_its_status_does_not_matter(answer: Answer) -> None:
    start = time.monotonic()
    assert run(lambda: post(answer)) == 200
    assert time.monotonic() - start < TIMEOUT + 0.5


@pytest.mark.parametrize(
    ("answer", "expected"),
    [(silence, "did not answer"), (raw(b""), "breaks off"), (raw(b"220 mail\r\n"), "not HTTP")],
    ids=["silence", "nothing", "not HTTP"],
)
def test_no_answer_may_be_tried_again(answer: Answer, expected: str) -> None:
    with pytest.raises(UnavailableError, match=f"^webhook_url: .*{expected}"):
        run(lambda: post(answer))


def test_private_addresses_are_refused_for_good() -> None:
    async def work() -> None:
        async with serve(reply(b"")) as canary, Fetcher(policy(networks=()), resolve) as fetcher:
            for host in ("127.0.0.1", "loopback.test", "mixed.test", "[::ffff:127.0.0.1]"):
                url = f"http://{host}:{canary.port}/"
                assert "private" in await refusal(fetcher.post(url, BODY, {}), "webhook_url")
                assert "private" in await refusal(fetcher.check(url, "webhook_url"), "webhook_url")
            assert canary.connections == 0

    run(work)


def test_a_check_looks_the_name_up_once_and_does_not_connect() -> None:
    asked: list[tuple[str, int]] = []

    async def counting(host: str, port: int) -> list[str]:
        asked.append((host, port))
        return ["127.0.0.1"]

    async def work() -> None:
        async with serve(reply(b"")) as server, Fetcher(policy(), counting) as fetcher:
            await fetcher.check(f"http://Hook.test.:{server.port}/a", "webhook_url")
            await fetcher.check("https://hook.test/a", "webhook_url")
            assert server.connections == 0
            assert asked == [("hook.test", server.port), ("hook.test", 443)]
            with pytest.raises(InvalidInputError, match=r"^webhook_url: .*http://"):
                await fetcher.check("ftp://hook.test/a", "webhook_url")

    run(work)


def test_webhooks_that_hang_keep_nobody_from_his_pictures() -> None:
    async def work() -> bytes:
        async with (
            serve(silence) as hook,
            serve(reply(PNG)) as site,
            Fetcher(policy(timeout=10)) as fetcher,
        ):
            posts = [
                asyncio.ensure_future(fetcher.post(f"http://127.0.0.1:{hook.port}/", BODY, {}))
                for _ in range(MAX_CONNECTIONS)
            ]
            while hook.connections < MAX_CONNECTIONS:
                await asyncio.sleep(0.01)
            picture = await fetcher.fetch_picture(f"http://127.0.0.1:{site.port}/", "image")
            assert not any(post.done() for post in posts)
            for post in posts:
                post.cancel()
            await asyncio.gather(*posts, return_exceptions=True)
            return picture

    assert run(work) == PNG
