"""Malformed inputs by the thousand: nothing dies, nothing is a server's error, memory stays flat.

`make fuzz` sends ten thousand; the plain run some hundreds, of the same seeds.
"""

from __future__ import annotations

import collections
import contextlib
import random
import re
import socket
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import psutil
import pytest

from backdrop_server.triton.launcher import TritonServer
from tests.conftest import launch
from tests.gateway.malformed import odd_body, odd_http, odd_inference, picture_files
from tests.gateway.servers import GatewayProcess, body, gateway_process
from tests.triton.test_memory import grown, resident

pytestmark = pytest.mark.triton

AT_ONCE = 8
WARM_UP = 120
WHOLE = 10_000
GATEWAY_GROWTH = 1.10
"""Python's own heap grows in steps; a leak of ten thousand requests is far more."""
TRITONS_PARSER = re.compile("(failed|Unable) to parse ")
Send = Callable[[random.Random], int]


class Fuzzer:
    """Sends odd inputs to a gateway and to the Triton behind it; counts the answers."""

    def __init__(self, server: TritonServer, gateway: GatewayProcess, client: httpx.Client) -> None:
        self._files = picture_files()
        self._client = client
        self._gateway, self._server = gateway, server
        self.answers: collections.Counter[str] = collections.Counter()

    def send(self, number: int) -> None:
        """One input; which, is told by its number."""
        draw = random.Random(number)
        kinds: dict[str, Send] = {
            "waited for": self._post("/v1/bg-replace"),
            "matte": self._post("/v2/bg-replace/matte"),
            "HTTP": self._raw,
            "tensors": self._tensors,
        }
        kind = draw.choices(list(kinds), [5, 1, 2, 2])[0]
        status = kinds[kind](draw)
        self.answers[f"{kind} {status}"] += 1
        assert 0 <= status < 500, f"input {number} ({kind}) was answered {status}"

    def _post(self, path: str) -> Send:
        def post(draw: random.Random) -> int:
            data = odd_body(draw, self._files)
            headers = {"content-type": "application/json"}
            answer = self._client.post(path, content=data, headers=headers)
            assert "Traceback" not in answer.text
            return answer.status_code

        return post

    def _raw(self, draw: random.Random) -> int:
        """The status, 0 where the connection was closed without one."""
        with contextlib.suppress(ConnectionError), socket.create_connection(
            ("127.0.0.1", self._gateway.port), timeout=60
        ) as connection:  # fmt: skip
            connection.sendall(odd_http(draw))
            with contextlib.suppress(OSError):  # it has answered and hung up meanwhile
                connection.shutdown(socket.SHUT_WR)
            first = connection.recv(100).split(b" ")
            return int(first[1]) if len(first) > 1 else 0
        return 0

    def _tensors(self, draw: random.Random) -> int:
        url = f"http://{self._server.http_url}/v2/models/replace_background/infer"
        answer = httpx.post(url, content=odd_inference(draw), timeout=120)
        if answer.status_code == 500 and TRITONS_PARSER.match(answer.json()["error"]):
            return 400  # which Triton 24.10 calls an error of its own
        return answer.status_code


def storm_of(fuzzer: Fuzzer, first: int, count: int) -> None:
    with ThreadPoolExecutor(AT_ONCE) as pool:
        list(pool.map(fuzzer.send, range(first, first + count)))


def survives(server: TritonServer, gateway: GatewayProcess, count: int) -> None:
    assert gateway.process is not None
    process = psutil.Process(gateway.process.pid)
    with gateway.client(gateway.make_key()) as client:
        fuzzer = Fuzzer(server, gateway, client)
        storm_of(fuzzer, 0, WARM_UP)
        before, own = resident(server), process.memory_info().rss
        storm_of(fuzzer, WARM_UP, count - WARM_UP)
    print("\n".join(f"{count} {name}" for name, count in sorted(fuzzer.answers.items())))
    assert not grown(before, resident(server))
    assert process.memory_info().rss < GATEWAY_GROWTH * own
    with gateway.client(gateway.make_key()) as client:
        answer = client.post("/v1/bg-replace", json=body(base64=False))
        assert answer.headers["content-type"] == "image/jpeg"


def test_some_hundred_malformed_inputs(repository: Path, tmp_path: Path) -> None:
    with launch(repository) as server, gateway_process(tmp_path, server.http_url) as gateway:
        survives(server, gateway, 500)


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_ten_thousand_malformed_inputs(repository: Path, tmp_path: Path) -> None:
    with launch(repository) as server, gateway_process(tmp_path, server.http_url) as gateway:
        survives(server, gateway, WHOLE)
