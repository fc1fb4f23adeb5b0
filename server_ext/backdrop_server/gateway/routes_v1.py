"""``POST /v1/bg-replace``: wait for the picture."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable
from decimal import Decimal
from typing import TypeVar, cast

from fastapi import APIRouter, Request, Response

from backdrop_server.errors import BackdropError, CancelledError, InvalidInputError
from backdrop_server.gateway import jobs, openapi, openapi_answers
from backdrop_server.gateway.answers import Money, pictures_answer, quote_answer
from backdrop_server.gateway.entrance import (
    IdempotencyKey,
    RatedKey,
    admitted,
    gateway_of,
)
from backdrop_server.gateway.errors import FailedJobError, NotFoundError
from backdrop_server.gateway.gateway import Gateway
from backdrop_server.gateway.jobs import Job, NewJob
from backdrop_server.gateway.keys import Key
from backdrop_server.gateway.request import Body
from backdrop_server.gateway.submissions import Submission
from backdrop_server.gateway.transactions import read

T = TypeVar("T")
_LOOK_AGAIN = 0.25
"""Seconds between looks whether the caller is still there, or another gateway's job has ended."""
_GONE = "the results of this request are gone"
router = APIRouter(tags=["v1"])


@router.post(
    "/v1/bg-replace",
    summary="Replace the background and wait for the picture",
    response_class=Response,
    responses={
        200: openapi_answers.waited_for(),
        **openapi.errors(400, 401, 404, 406, 413, 415, 429, 500, 503),
    },
    openapi_extra=openapi.body(openapi.replace_schema(webhook=False), openapi.replace_example()),
)
async def replace_and_wait(
    request: Request, key: RatedKey, idempotency_key: IdempotencyKey
) -> Response:
    """A failed request is not billed. A caller that goes away cancels its request."""
    gateway = gateway_of(request)
    job_id = request.state.request_id
    kind = jobs.QUEUE if idempotency_key else jobs.WAIT
    async with admitted(request) as (ticket, data):
        with gateway.metrics.stage("admit"):
            sent = await gateway.submissions.read(data)
            _check_form(gateway, sent.body)
            job: NewJob | Job | None
            job = await gateway.submissions.find_twin(key, idempotency_key, sent)
            if job is None:
                submission = await gateway.submissions.prepare(sent)
                if sent.body.dry_run:
                    return await quote(gateway, key, submission)
                job = await gateway.submissions.accept(
                    job_id, kind, key, submission, idempotency_key
                )
        if kind == jobs.QUEUE:
            if job.id == job_id:
                await gateway.begin_stored(job_id, ticket)
            request.state.request_id = job.id
            return await _wait_for_stored(gateway, request, job.id, key, sent.body)
        return await _run_now(gateway, request, cast(NewJob, job), key, submission)


async def quote(gateway: Gateway, key: Key, submission: Submission) -> Response:
    """The answer to a dry run."""
    money = Money(await gateway.submissions.balance(key))
    return quote_answer(submission.estimate, submission.body.options.seed, money)


def _check_form(gateway: Gateway, body: Body) -> None:
    """Bytes can hold only one picture, and nobody waits twice for one."""
    if body.webhook_url is not None:
        raise InvalidInputError("webhook_url", "v1 answers at once", "webhook_url over v2 only")
    if body.layers:
        raise InvalidInputError("layers", "v1 answers with pictures alone", "layers over v2 only")
    if body.options.samples > 1 and not _as_base64(gateway, body):
        problem = "several pictures do not fit into one picture's bytes"
        raise InvalidInputError("samples", problem, "1, or several with base64 set to true")


def _as_base64(gateway: Gateway, body: Body) -> bool:
    return gateway.settings.base64_default if body.base64 is None else body.base64


async def _run_now(
    gateway: Gateway, request: Request, job: NewJob, key: Key, submission: Submission
) -> Response:
    begun_at = time.monotonic()
    work = gateway.runner.run(job.id, job.request, submission.pictures)
    made = await _unless_gone(gateway, request, job.id, work)
    gateway.admission.learn(time.monotonic() - begun_at)
    money = Money(await gateway.submissions.balance(key), made.billed)
    return pictures_answer(
        made.answer.images,
        made.answer.seeds,
        job.request.options.output_format,
        as_base64=_as_base64(gateway, submission.body),
        money=money,
    )


async def _unless_gone(gateway: Gateway, request: Request, job_id: str, work: Awaitable[T]) -> T:
    """Wait for ``work``; if the caller goes away, cancel the job and wait for its end."""
    task = asyncio.ensure_future(work)
    while not task.done():
        await asyncio.wait({task}, timeout=_LOOK_AGAIN)
        if not task.done() and await request.is_disconnected():
            await gateway.runner.cancel(job_id)
            with contextlib.suppress(BackdropError):
                await task
            raise CancelledError("the caller went away")
    return task.result()


async def _wait_for_stored(
    gateway: Gateway, request: Request, job_id: str, key: Key, body: Body
) -> Response:
    """The answer of a durable job, which goes on if this caller goes away: it may ask again."""
    job = await ended_job(gateway, request, job_id)
    if job.status == "FAILED":
        raise FailedJobError(job.error or "", job.error_status or 500)
    try:
        images = [await gateway.store.get(job.id, name) for name in job.result["names"]]
    except FileNotFoundError:
        raise NotFoundError(_GONE) from None
    money = Money(await gateway.submissions.balance(key), job.billed or Decimal(0))
    return pictures_answer(
        images,
        job.result["seeds"],
        job.request.options.output_format,
        as_base64=_as_base64(gateway, body),
        money=money,
    )


async def ended_job(gateway: Gateway, request: Request, job_id: str) -> Job:
    """Wait for a job's end, wherever it runs. Raises CancelledError when the caller is gone."""
    while True:
        live = gateway.runner.live.get(job_id)
        if live is not None:
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(live.ended.wait(), _LOOK_AGAIN)
        else:
            await asyncio.sleep(_LOOK_AGAIN / 5)
        if job_id not in gateway.runner.live:
            job = await read(gateway.database, lambda connection: jobs.find(connection, job_id))
            if job is None or not job.is_open:
                break
        if await request.is_disconnected():
            raise CancelledError("the caller went away")
    if job is None or job.swept_at is not None:
        raise NotFoundError(_GONE)
    return job
