"""TLS: the name is checked, the connection goes to the checked address, failures are clear."""

from __future__ import annotations

import ssl
from pathlib import Path

import pytest

from tests.gateway.fetches import LOOPBACK, PNG, fetch, policy, refusal, run
from tests.gateway.local_servers import certificate, reply, serve


def test_a_certificate_that_nobody_signed_is_refused(tmp_path: Path) -> None:
    _, tls = certificate(tmp_path, "loopback.test")
    assert "certificate" in run(lambda: _fetch_by_tls(tls, "loopback.test", refused=True))


def test_tls_checks_the_name_and_connects_to_the_checked_address(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, tls = certificate(tmp_path, "loopback.test")
    monkeypatch.setenv("SSL_CERT_FILE", str(path))
    named: list[str] = []
    tls.sni_callback = lambda connection, name, context: named.append(name)
    assert run(lambda: _fetch_by_tls(tls, "loopback.test", refused=False)) == "arrived"
    assert named == ["loopback.test"]
    assert "certificate" in run(lambda: _fetch_by_tls(tls, "127.0.0.1", refused=True))


async def _fetch_by_tls(tls: ssl.SSLContext, host: str, refused: bool) -> str:
    async with serve(reply(PNG), tls) as server:
        work = fetch(f"https://{host}:{server.port}/", policy(networks=LOOPBACK, timeout=5))
        if refused:
            sentence = await refusal(work)
            assert server.heads == []
            return sentence
        assert await work == PNG
        return "arrived"


def test_https_to_a_server_without_tls_is_refused() -> None:
    async def work() -> str:
        async with serve(reply(PNG), greeting=b"HTTP/1.1 400 Bad Request\r\n\r\n") as server:
            return await refusal(fetch(f"https://127.0.0.1:{server.port}/", policy()))

    assert "does not speak TLS" in run(work)


def test_http_to_a_server_with_tls_is_refused(tmp_path: Path) -> None:
    _, tls = certificate(tmp_path, "loopback.test")

    async def work() -> None:
        async with serve(reply(PNG), tls) as server:
            await refusal(fetch(f"http://127.0.0.1:{server.port}/", policy()))
            assert server.heads == []

    run(work)
