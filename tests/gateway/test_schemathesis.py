"""The gateway holds to its own OpenAPI document, as schemathesis reads it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from backdrop_server.triton.launcher import TritonServer
from tests.gateway.servers import GatewayProcess, gateway_process

pytestmark = pytest.mark.triton
ROOT = Path(__file__).parents[2]
# Not checked: that all data in order for the schema is accepted, since no schema says that an
# idempotency key is new or that bytes are a picture; and that a cancelled job is gone, since its
# end can still be asked for.
EXCLUDED = "positive_data_acceptance,use_after_free"


@pytest.fixture(scope="module")
def open_gateway(
    server: TritonServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[GatewayProcess]:
    """One whose webhooks may go to this machine, and are tried once."""
    folder = tmp_path_factory.mktemp("schemathesis")
    settings = {"fetch_networks": "127.0.0.0/8", "webhook_attempts": 1, "max_waiting": 10_000}
    with gateway_process(folder, server.http_url, **settings) as running:
        yield running


def schemathesis(gateway: GatewayProcess, *options: str) -> subprocess.CompletedProcess[str]:
    command = [
        str(Path(sys.executable).with_name("schemathesis")),
        "run",
        f"{gateway.url}/openapi.json",
        f"--header=x-api-key: {gateway.make_key()}",
        "--phases=examples,coverage,fuzzing,stateful",
        "--checks=all",
        f"--exclude-checks={EXCLUDED}",
        "--seed=1",
        "--max-examples=25",
        "--generation-database=none",
        "--no-shrink",
        "--continue-on-failure",
        "--no-color",
        "--request-timeout=60",
        *options,
    ]
    own = {"SCHEMATHESIS_HOOKS": "tests.gateway.schemathesis_hooks", "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        command,
        cwd=gateway.log_file.parent,
        env=os.environ | own,
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
    )


def answers_by_status(gateway: GatewayProcess) -> dict[int, int]:
    """How often the gateway has answered with each status."""
    page = httpx.get(f"{gateway.url}/metrics").text
    counts: dict[int, int] = {}
    for status, count in re.findall(
        r'^backdrop_requests_total\{.*status="(\d+)"\} (\S+)', page, re.M
    ):
        counts[int(status)] = counts.get(int(status), 0) + int(float(count))
    return counts


def test_every_answer_is_one_that_the_document_promises(open_gateway: GatewayProcess) -> None:
    done = schemathesis(open_gateway)
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"Operations: +13 selected / 13 total", done.stdout), done.stdout
    counts = answers_by_status(open_gateway)
    assert not [status for status in counts if status >= 500], counts
    assert sum(counts.values()) > 500, counts
    # Every kind of refusal was provoked, and real jobs were made.
    assert all(counts.get(status) for status in (200, 400, 401, 404, 405, 415)), counts
    page = httpx.get(f"{open_gateway.url}/metrics").text
    ended = re.search(r'^backdrop_jobs_ended_total\{status="COMPLETED"\} (\S+)', page, re.M)
    assert ended is not None and float(ended[1]) > 5
