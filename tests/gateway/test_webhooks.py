"""Webhooks, to a real receiver: signed, once, again after errors, and not lost with the gateway."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from backdrop_server.triton.launcher import TritonServer
from tests import pictures
from tests.gateway.books import find_job
from tests.gateway.receivers import receiver
from tests.gateway.servers import (
    GatewayProcess,
    body,
    gateway_process,
    in_base64,
    wait_for_end,
    wait_until,
)

pytestmark = pytest.mark.triton

ATTEMPTS = 5
BACKOFF = 0.25
QUIET = 1.5
"""Seconds in which nothing more may come."""


@pytest.fixture(scope="module")
def gateway(
    server: TritonServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[GatewayProcess]:
    with gateway_process(
        tmp_path_factory.mktemp("webhooks"),
        server.http_url,
        fetch_networks="127.0.0.0/8",
        webhook_attempts=ATTEMPTS,
        webhook_backoff=BACKOFF,
    ) as running:
        yield running


def submit(client: httpx.Client, url: str, **fields: Any) -> str:
    answer = client.post("/v2/bg-replace", json=body(webhook_url=url, strength=0.1, **fields))
    assert answer.status_code == 200, answer.text
    return str(answer.json()["request_id"])


def damaged() -> str:
    """A photo with a good header and a bad pixel: its job fails in Triton."""
    photo = bytearray(pictures.png(pictures.product()))
    photo[len(photo) // 2] ^= 0xFF
    return in_base64(bytes(photo))


def state_of(gateway: GatewayProcess, job_id: str) -> str | None:
    return find_job(gateway, job_id).webhook_state


@pytest.mark.parametrize("fields, status", [({}, "COMPLETED"), ({"image": damaged()}, "FAILED")])
def test_the_end_of_a_job_is_told_once_and_signed(
    gateway: GatewayProcess, client: httpx.Client, fields: dict[str, str], status: str
) -> None:
    with receiver() as customer:
        job_id = submit(client, customer.url, **fields)
        end = wait_for_end(client, job_id)
        wait_until(lambda: state_of(gateway, job_id) == "DELIVERED")
        time.sleep(QUIET)
        (post,) = customer.posts
    assert end["status"] == status
    assert post.content() == end
    assert post.headers["x-request-id"] == job_id
    secret = client.get("/v2/webhook-secret").json()["secret"]
    assert post.is_signed_with(secret)
    assert abs(int(post.headers["x-backdrop-timestamp"]) - time.time()) < 60
    with gateway.client(gateway.make_key()) as other:
        assert not post.is_signed_with(other.get("/v2/webhook-secret").json()["secret"])


def test_errors_of_the_receiver_are_answered_with_longer_and_longer_waits(
    gateway: GatewayProcess, client: httpx.Client
) -> None:
    with receiver(status=500) as customer:
        job_id = submit(client, customer.url)
        wait_until(lambda: len(customer.posts) == 3)
        customer.status = 204
        wait_until(lambda: state_of(gateway, job_id) == "DELIVERED")
        time.sleep(QUIET)
    times = [post.at for post in customer.posts]
    waits = [later - earlier for earlier, later in itertools.pairwise(times)]
    assert len(waits) == 3
    for k, wait in enumerate(waits):
        assert wait >= BACKOFF * 2**k
    assert len({post.body for post in customer.posts}) == 1


def test_a_receiver_that_never_takes_it_is_given_up(
    gateway: GatewayProcess, client: httpx.Client
) -> None:
    with receiver(status=503) as customer:
        job_id = submit(client, customer.url)
        wait_until(lambda: state_of(gateway, job_id) == "FAILED")
        time.sleep(QUIET)
        assert len(customer.posts) == ATTEMPTS
    assert wait_for_end(client, job_id)["status"] == "COMPLETED"


def test_a_gateway_killed_between_a_jobs_end_and_its_delivery_delivers_at_its_next_start(
    gateway: GatewayProcess, client: httpx.Client
) -> None:
    with receiver(status=500) as customer:
        job_id = submit(client, customer.url)
        wait_until(lambda: bool(customer.posts))
        gateway.kill()
        assert find_job(gateway, job_id).status == "COMPLETED"
        assert state_of(gateway, job_id) == "PENDING"
        before, customer.status = len(customer.posts), 200
        gateway.start()
        wait_until(lambda: state_of(gateway, job_id) == "DELIVERED")
        time.sleep(QUIET)
        (delivered,) = customer.posts[before:]
    assert delivered.content() == wait_for_end(client, job_id)
    assert find_job(gateway, job_id).attempt == 1
