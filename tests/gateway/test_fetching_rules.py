"""Pictures arrive as they are; names, redirects and the policy decide from where."""

from __future__ import annotations

import asyncio
import logging

import pytest

from backdrop_server.errors import InvalidInputError
from backdrop_server.gateway.fetching import MAX_CONNECTIONS, Fetcher, FetchPolicy
from tests.gateway.fetches import (
    MAX_BYTES,
    PNG,
    encoded,
    fetch,
    policy,
    refusal,
    run,
)
from tests.gateway.fetches import resolve as resolve_names
from tests.gateway.local_servers import (
    Answer,
    by_path,
    chunked,
    raw,
    redirect,
    reply,
    serve,
)

GOOD_ANSWERS: dict[str, tuple[Answer, bytes]] = {
    "PNG": (reply(PNG), PNG),
    "JPEG": (reply(encoded("JPEG"), "image/jpeg"), encoded("JPEG")),
    "GIF": (reply(encoded("GIF"), "image/gif"), encoded("GIF")),
    "WebP": (reply(encoded("WEBP"), "image/webp"), encoded("WEBP")),
    "octet stream": (reply(PNG, "application/octet-stream"), PNG),
    "no type": (reply(PNG, None), PNG),
    "plain text": (reply(PNG, "text/plain"), PNG),
    "identity": (reply(PNG, extra="Content-Encoding: identity\r\n"), PNG),
    "chunked": (chunked(PNG), PNG),
    "until the end": (raw(b"HTTP/1.0 200 OK\r\n\r\n" + PNG), PNG),
    "as large as may be": (reply(PNG + bytes(MAX_BYTES - len(PNG))), PNG + bytes(MAX_BYTES - len(PNG))),
}  # fmt: skip


@pytest.mark.parametrize("name", GOOD_ANSWERS)
def test_a_picture_arrives_as_it_is(name: str) -> None:
    answer, expected = GOOD_ANSWERS[name]

    async def work() -> bytes:
        async with serve(answer) as server:
            return await fetch(f"http://127.0.0.1:{server.port}/", policy())

    assert run(work) == expected


def test_redirects_are_followed_up_to_the_limit() -> None:
    jpeg = encoded("JPEG")

    async def work() -> tuple[bytes, list[bytes]]:
        async with serve(reply(jpeg, "image/jpeg")) as other:
            last = redirect(f"http://loopback.test:{other.port}/c?d=e%20f", 307)
            answers = {"/": redirect("b/a", 301), "/b/a": redirect("../c", 303), "/c": last}
            async with serve(by_path(answers)) as server:
                data = await fetch(f"http://127.0.0.1:{server.port}", policy())
            return data, server.heads + other.heads

    data, heads = run(work)
    assert data == jpeg
    assert [head.split()[1] for head in heads] == [b"/", b"/b/a", b"/c", b"/c?d=e%20f"]


def test_requests_carry_no_cookies_and_name_their_host(monkeypatch: pytest.MonkeyPatch) -> None:
    async def work() -> bytes:
        setting = "Set-Cookie: a=b; Path=/\r\n"
        away = reply(b"", None, 302, setting + "Location: /a\r\n")
        answers = {"/": away, "/a": reply(PNG, extra=setting)}
        async with serve(reply(PNG)) as proxy, serve(by_path(answers)) as server:
            for name in ("http_proxy", "HTTP_PROXY", "ALL_PROXY", "all_proxy"):
                monkeypatch.setenv(name, f"http://127.0.0.1:{proxy.port}")
            async with Fetcher(policy(), resolve_names) as fetcher:
                for _ in range(2):
                    await fetcher.fetch_picture(f"http://loopback.test:{server.port}/", "image")
            assert proxy.connections == 0
            assert server.connections == 4
            host = f"host: loopback.test:{server.port}".encode()
            assert all(host in head.lower() for head in server.heads)
            return b"".join(server.heads).lower()

    heads = run(work)
    assert b"cookie" not in heads
    assert heads.count(b"accept-encoding: identity\r\n") == 4


def test_no_log_holds_the_url(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)

    async def work() -> None:
        async with serve(reply(PNG)) as server:
            await fetch(f"http://127.0.0.1:{server.port}/a?signature=secret", policy())

    run(work)
    assert "send_request_headers" in caplog.text
    assert "secret" not in caplog.text


def test_hundreds_of_slow_fetches_leave_nothing_behind() -> None:
    """Requests that time out, or whose caller leaves, give back their place and their connection."""
    left = 0

    async def hold(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal left
        left += 1
        await reader.read()  # to the end, which comes when the client closes
        left -= 1
        writer.close()

    async def work() -> None:
        slow = await asyncio.start_server(hold, "127.0.0.1", 0)
        port = slow.sockets[0].getsockname()[1]
        async with (
            serve(reply(PNG)) as server,
            Fetcher(policy(timeout=2), resolve_names) as fetcher,
        ):
            urls = [f"http://127.0.0.1:{port}/", f"https://127.0.0.1:{port}/"] * MAX_CONNECTIONS
            tasks = [asyncio.create_task(fetcher.fetch_picture(url, "image")) for url in urls]
            while left < MAX_CONNECTIONS:
                await asyncio.sleep(0.01)
            for task in tasks[::5]:
                task.cancel()
            results = await asyncio.gather(*tasks, return_exceptions=True)
            gone = sum(isinstance(result, asyncio.CancelledError) for result in results)
            late = sum(isinstance(result, InvalidInputError) for result in results)
            assert (gone, late) == (len(urls) // 5, len(urls) * 4 // 5)
            url = f"http://127.0.0.1:{server.port}/"
            good = [fetcher.fetch_picture(url, "image") for _ in range(MAX_CONNECTIONS)]
            assert await asyncio.gather(*good) == [PNG] * MAX_CONNECTIONS
        while left:
            await asyncio.sleep(0.01)
        slow.close()

    run(lambda: asyncio.wait_for(work(), 20))
    assert left == 0


def test_many_at_once_share_one_fetcher() -> None:
    async def work() -> None:
        async with serve(reply(PNG)) as server, Fetcher(policy(), resolve_names) as fetcher:
            url = f"http://127.0.0.1:{server.port}/"
            pictures = [fetcher.fetch_picture(url, "image") for _ in range(20)]
            bad = [refusal(fetcher.fetch_picture("http://10.0.0.1/", "mask_image"), "mask_image")]
            results = await asyncio.gather(*pictures, *bad)
            assert results[:20] == [PNG] * 20
            assert server.connections == 20

    run(work)


def test_a_name_is_looked_up_once_for_each_connection() -> None:
    """A name that changes to loopback after its first answer leads nowhere."""
    asked: list[str] = []

    async def rebinding(host: str, port: int) -> list[str]:
        asked.append(host)
        return ["127.0.0.2"] if len(asked) == 1 else ["127.0.0.1"]

    async def work() -> None:
        rules = policy(networks=("127.0.0.2/32",))
        async with serve(reply(PNG)) as canary:
            url = f"http://rebinding.test:{canary.port}/"
            async with serve(reply(PNG), host="127.0.0.2", port=canary.port) as allowed:
                async with Fetcher(rules, rebinding) as fetcher:
                    assert await fetcher.fetch_picture(url, "image") == PNG
                    assert asked == ["rebinding.test"]
                    sentence = await refusal(fetcher.fetch_picture(url, "image"))
                assert allowed.connections == 1
            assert "private" in sentence
            assert asked == ["rebinding.test"] * 2
            assert canary.connections == 0

    run(work)


def test_a_name_that_changes_between_check_or_redirect_and_use_leads_nowhere() -> None:
    asked: list[str] = []

    async def rebinding(host: str, port: int) -> list[str]:
        asked.append(host)
        return ["127.0.0.2"] if len(asked) % 2 else ["127.0.0.1"]

    async def work() -> None:
        rules = policy(networks=("127.0.0.2/32",))
        async with serve(reply(PNG)) as canary, Fetcher(rules, rebinding) as fetcher:
            url = f"http://rebinding.test:{canary.port}/"
            async with serve(redirect(url), host="127.0.0.2", port=canary.port):
                assert "after a redirect" in await refusal(fetcher.fetch_picture(url, "image"))
            await fetcher.check(url, "image")
            await refusal(fetcher.fetch_picture(url, "image"))
            assert len(asked) == 4
            assert canary.connections == 0

    run(work)


def test_the_next_address_is_tried_where_one_does_not_answer() -> None:
    async def two(host: str, port: int) -> list[str]:
        return ["127.0.0.3", "127.0.0.1"]

    async def work() -> bytes:
        async with serve(reply(PNG)) as server, Fetcher(policy(), two) as fetcher:
            return await fetcher.fetch_picture(f"http://two.test:{server.port}/", "image")

    assert run(work) == PNG


def test_a_slow_look_up_is_held_to_the_timeout() -> None:
    async def slow(host: str, port: int) -> list[str]:
        await asyncio.sleep(60)
        return ["8.8.8.8"]

    async def work() -> None:
        async with Fetcher(policy(timeout=0.2), slow) as fetcher:
            for attempt in (fetcher.fetch_picture, fetcher.check):
                assert "did not answer" in await refusal(attempt("http://slow.test/", "image"))

    run(work)


def test_nobody_listening() -> None:
    async def work() -> str:
        async with serve(reply(PNG)) as server:
            pass
        return await refusal(fetch(f"http://127.0.0.1:{server.port}/", policy()))

    assert "cannot be reached" in run(work)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"enabled": False}, "URLs are switched off on this server; allowed: base64 or a data URI"),
        ({"hosts": ("loopback.test", "*.other.test")}, "not on this server's list"),
        ({"networks": ()}, "private"),
        ({"networks": ("127.0.0.2/32", "::1/128")}, "private"),
        ({"max_redirects": 0, "max_bytes": len(PNG) - 1}, "too large; allowed: at most"),
    ],
)  # fmt: skip
def test_the_policy_refuses(changes: dict[str, object], expected: str) -> None:
    async def work() -> str:
        async with serve(reply(PNG)) as server:
            return await refusal(fetch(f"http://127.0.0.1:{server.port}/", policy(**changes)))

    assert expected in run(work)


def test_a_redirect_must_stay_on_the_list_of_hosts() -> None:
    async def work() -> None:
        rules = policy(hosts=("loopback.test", "*.cdn.test"))
        async with serve(reply(PNG)) as canary:
            answers = {
                "/good": redirect(f"http://a.cdn.test:{canary.port}/"),
                "/bad": redirect(f"http://127.0.0.1:{canary.port}/"),
            }
            async with serve(by_path(answers)) as server:
                start = f"http://loopback.test:{server.port}"
                assert await fetch(start + "/good", rules) == PNG
                assert "list" in await refusal(fetch(start + "/bad", rules))
            assert canary.connections == 1

    run(work)


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"networks": ("10.0.0.1/8",)}, "networks"),
        ({"networks": ("intranet",)}, "networks"),
        ({"hosts": ("https://example.com",)}, "hosts"),
        ({"hosts": ("*.*.example.com",)}, "hosts"),
        ({"hosts": ("127.1",)}, "hosts"),
        ({"hosts": ("",)}, "hosts"),
    ],
)
def test_a_policy_that_is_not_well_formed_is_refused(
    changes: dict[str, tuple[str, ...]], field: str
) -> None:
    with pytest.raises(InvalidInputError, match=f"^{field}: .*; allowed: "):
        FetchPolicy(**changes)  # type: ignore[arg-type]
