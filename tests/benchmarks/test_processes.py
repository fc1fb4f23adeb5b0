"""What a bench starts ends with it, however it ends."""

from __future__ import annotations

import signal
import subprocess
import sys
import time

import httpx
import pytest
from benchmarks.processes import free_port, process

BENCH = """
import sys, time
from benchmarks.processes import process
with process(["-m", "http.server", sys.argv[1], "--bind", "127.0.0.1"], {}, int(sys.argv[1]), "/"):
    print("up", flush=True)
    time.sleep(60)
"""


def answers(port: int) -> bool:
    try:
        return httpx.get(f"http://127.0.0.1:{port}/").is_success
    except httpx.TransportError:
        return False


def test_a_server_ends_with_its_block() -> None:
    port = free_port()
    with process(["-m", "http.server", str(port), "--bind", "127.0.0.1"], {}, port, "/"):
        assert answers(port)
    assert not answers(port)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_bench_that_is_ended_leaves_no_server_behind(number: signal.Signals) -> None:
    port = free_port()
    command = [sys.executable, "-c", BENCH, str(port)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as bench:
        assert bench.stdout is not None
        while (line := bench.stdout.readline()) != b"up\n":
            assert line, "the bench did not come up"
        assert answers(port)
        bench.send_signal(number)
    deadline = time.monotonic() + 10
    while answers(port) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not answers(port)
