"""Progress, waiting, cancelling, quotes and credits: with threads, with asyncio, over Triton."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import pytest

from backdrop_client import (
    AsyncBackdrop,
    Backdrop,
    JobCancelled,
    NotFound,
    Progress,
    Status,
    TimedOut,
)
from backdrop_client.over_triton import TritonBackdrop
from backdrop_server.triton.launcher import TritonServer
from tests.client.samples import fields, long_fields
from tests.gateway.books import all_jobs, find_job
from tests.gateway.servers import GatewayProcess

pytestmark = pytest.mark.triton


class StopError(Exception):
    """What a caller's own callback raises."""


@pytest.fixture
def triton(server: TritonServer) -> Any:
    with Backdrop.triton(server.grpc_url) as opened:
        yield opened


def wait_for(look: Callable[[], Status], step: int = 2, seconds: float = 120) -> Status:
    """Look until that many steps are done."""
    deadline = time.monotonic() + seconds
    while (seen := look()).progress.step < step:
        assert not seen.has_ended, seen
        assert time.monotonic() < deadline, seen
        time.sleep(0.05)
    return seen


def check_progress(seen: list[Progress]) -> None:
    assert [progress.step for progress in seen] == sorted(progress.step for progress in seen)
    assert (seen[-1].step, seen[-1].total, seen[-1].fraction) == (100, 100, 1.0)
    assert any(0 < progress.step < 100 for progress in seen)
    assert {progress.total for progress in seen} <= {0, 100}  # before preprocess has said so
    previews = [progress.preview for progress in seen if progress.preview_png]
    assert previews
    assert all(preview is not None and preview.mode == "RGB" for preview in previews)
    assert "preview" not in repr(seen[-2])


LONG_ENOUGH = {"num_inference_steps": 100, "strength": 1.0, "samples": 2}


def test_progress_is_told_with_previews(client: Backdrop) -> None:
    seen: list[Progress] = []
    client.replace(**fields(**LONG_ENOUGH), on_progress=seen.append)
    check_progress(seen)


def test_progress_is_told_with_asyncio(gateway: GatewayProcess) -> None:
    seen: list[Progress] = []

    async def ask() -> None:
        async with AsyncBackdrop(gateway.url, gateway.make_key()) as client:
            await client.replace(**fields(**LONG_ENOUGH), on_progress=seen.append)

    asyncio.run(ask())
    check_progress(seen)


def test_progress_is_told_over_triton(triton: TritonBackdrop) -> None:
    seen: list[Progress] = []
    result = triton.replace(**fields(**LONG_ENOUGH), on_progress=seen.append)
    check_progress(seen)
    assert result.cost is None


def test_a_job_is_followed_and_found_again(client: Backdrop) -> None:
    job = client.submit(**fields())
    result = job.wait()
    assert job.status().state == "COMPLETED"
    again = client.job(job.request_id)
    assert again.wait() == result
    assert again.cancel().state == "COMPLETED"
    assert repr(again) == f"Job({job.request_id!r})"


def test_waiting_has_an_end_and_the_job_goes_on(client: Backdrop) -> None:
    job = client.submit(**long_fields())
    begun = time.monotonic()
    with pytest.raises(TimedOut, match=f"^the job {job.request_id} has not ended within 0.3 s$"):
        job.wait(0.3)
    assert time.monotonic() - begun >= 0.3
    assert not job.status().has_ended
    job.cancel()


def test_a_cancelled_job_says_so_and_what_it_cost(
    client: Backdrop, gateway: GatewayProcess
) -> None:
    job = client.submit(**long_fields())
    wait_for(job.status)
    job.cancel()
    with pytest.raises(JobCancelled, match="cancelled") as caught:
        job.wait(60)
    assert caught.value.status == 422
    assert caught.value.code == "job_cancelled"
    assert caught.value.cost == find_job(gateway, job.request_id).billed
    status = job.status()
    assert status.state == "FAILED"
    assert "cancelled" in str(status.error)


def test_cancelling_with_asyncio(gateway: GatewayProcess) -> None:
    async def ask() -> None:
        async with AsyncBackdrop(gateway.url, gateway.make_key()) as client:
            job = await client.submit(**long_fields())
            assert not (await job.status()).has_ended
            await job.cancel()
            with pytest.raises(JobCancelled):
                await job.wait(60)
            assert repr(client.job("1")) == "AsyncJob('1')"

    asyncio.run(ask())


def test_cancelling_over_triton(triton: TritonBackdrop) -> None:
    job = triton.submit(**long_fields())
    assert wait_for(job.status).state == "PROCESSING"
    job.cancel()
    with pytest.raises(JobCancelled):
        job.wait(60)
    assert job.status().state == "FAILED"


@pytest.mark.parametrize("way", ["timeout", "callback"])
def test_a_call_that_ends_early_cancels_its_job(
    way: str, client: Backdrop, gateway: GatewayProcess
) -> None:
    if way == "timeout":
        with pytest.raises(TimedOut):
            client.replace(**long_fields(), timeout=0.5)
    else:
        with pytest.raises(StopError):
            client.replace(**long_fields(), on_progress=stop_at_two)
    wait_until_cancelled(client, all_jobs(gateway)[-1].id)


def test_a_cancelled_task_cancels_its_job(client: Backdrop, gateway: GatewayProcess) -> None:
    async def ask() -> None:
        async with AsyncBackdrop(gateway.url, gateway.make_key()) as other:
            started = asyncio.Event()
            task = asyncio.create_task(
                other.replace(**long_fields(), on_progress=lambda _: started.set())
            )
            await started.wait()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            with pytest.raises(JobCancelled):
                await other.job(all_jobs(gateway)[-1].id).wait(60)

    asyncio.run(ask())


def test_a_call_over_triton_that_ends_early_cancels_its_request(triton: TritonBackdrop) -> None:
    with pytest.raises(StopError):
        triton.replace(**long_fields(), on_progress=stop_at_two)
    with pytest.raises(TimedOut):
        triton.replace(**long_fields(), timeout=0.5)


def test_closing_over_triton_leaves_nothing_running(server: TritonServer) -> None:
    with Backdrop.triton(server.grpc_url) as opened:
        job = opened.submit(**long_fields())
        wait_for(job.status)
    with pytest.raises(JobCancelled):
        job.wait(0)


def stop_at_two(progress: Progress) -> None:
    if progress.step >= 2:
        raise StopError


def wait_until_cancelled(client: Backdrop, request_id: str) -> None:
    """Asked of the gateway's books: the job is another call's."""
    with pytest.raises(JobCancelled):
        client.job(request_id).wait(60)


def test_a_quote_costs_nothing(client: Backdrop, gateway: GatewayProcess) -> None:
    before, jobs = client.credits(), len(all_jobs(gateway))
    quote = client.quote(**fields(samples=2))
    assert quote.unet_evaluations == 2
    assert 0 < quote.cost < quote.reserved
    assert quote.seconds > 0
    assert client.credits() == before == Decimal(1000)
    assert len(all_jobs(gateway)) == jobs

    async def ask() -> None:
        async with AsyncBackdrop(gateway.url, gateway.make_key("0.25")) as other:
            assert (await other.quote(**fields())).unet_evaluations == 2
            assert await other.credits() == Decimal("0.25")

    asyncio.run(ask())


def test_another_keys_job_is_not_found(client: Backdrop, gateway: GatewayProcess) -> None:
    with Backdrop(gateway.url, gateway.make_key()) as other:
        job = other.submit(**fields())
    for unknown in (job.request_id, "0" * 32, "../credits", "a\nb", ""):
        with pytest.raises(NotFound, match="there is no such"):
            client.job(unknown).status()
