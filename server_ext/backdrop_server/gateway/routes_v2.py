"""v2: submit, follow, cancel; results by signed link; the matte alone."""

from __future__ import annotations

import asyncio
import io
from collections.abc import AsyncIterator
from typing import Annotated, Any

import anyio.to_thread
from fastapi import APIRouter, Depends, Path, Query, Request, Response
from fastapi.responses import JSONResponse, StreamingResponse
from PIL import Image

from backdrop_server.gateway import jobs, openapi, openapi_answers
from backdrop_server.gateway.answers import (
    MEDIA_TYPES,
    Money,
    event,
    status_code,
)
from backdrop_server.gateway.entrance import (
    AnyKey,
    IdempotencyKey,
    RatedKey,
    admitted,
    gateway_of,
)
from backdrop_server.gateway.errors import NotFoundError
from backdrop_server.gateway.gateway import Gateway
from backdrop_server.gateway.jobs import Job, NewJob
from backdrop_server.gateway.money import plain
from backdrop_server.gateway.routes_v1 import quote
from backdrop_server.gateway.transactions import read, write

_EVENT_PAUSE = 0.25
_KEEP_ALIVE = 15.0
"""Seconds after which a silent stream says something, for the sake of proxies between."""
_JOB_ERRORS = openapi.errors(401, 404, 500, 503)
router = APIRouter(tags=["v2"])


@router.post(
    "/v2/bg-replace",
    summary="Submit a request and poll for its result",
    responses={
        200: openapi_answers.submitted(),
        **openapi.errors(400, 401, 406, 413, 415, 429, 500, 503),
    },
    openapi_extra=openapi.body(openapi.replace_schema(), openapi.replace_example()),
)
async def submit(request: Request, key: RatedKey, idempotency_key: IdempotencyKey) -> Response:
    """A request that was answered here is durable: it ends, whatever happens to the server."""
    gateway = gateway_of(request)
    job_id = request.state.request_id
    async with admitted(request) as (ticket, data):
        with gateway.metrics.stage("admit"):
            sent = await gateway.submissions.read(data)
            job: NewJob | Job | None
            job = await gateway.submissions.find_twin(key, idempotency_key, sent)
            if job is None:
                submission = await gateway.submissions.prepare(sent)
                if sent.body.dry_run:
                    return await quote(gateway, key, submission)
                job = await gateway.submissions.accept(
                    job_id, jobs.QUEUE, key, submission, idempotency_key
                )
            if job.id == job_id:
                await gateway.begin_stored(job_id, ticket)
            request.state.request_id = job.id
        money = Money(await gateway.submissions.balance(key))
        return JSONResponse(gateway.answers.submitted(job.id), headers=money.headers())


@router.post(
    "/v2/bg-replace/matte",
    summary="The matte alone",
    response_class=Response,
    responses={
        200: openapi_answers.file("8-bit grey, the photo's size; white is product.", "image/png"),
        **openapi.errors(400, 401, 413, 415, 429, 500, 503),
    },
    openapi_extra=openapi.body(openapi.matte_schema(), openapi.matte_example()),
)
async def matte(request: Request, key: RatedKey) -> Response:
    """Free of charge; it needs no engine."""
    del key
    gateway = gateway_of(request)
    async with admitted(request) as (_, data):
        pictures = await gateway.submissions.read_matte(data)
        async with gateway.pool.place(gateway.settings.patience) as triton:
            width, height, alpha = await triton.matte(pictures)
        png = await anyio.to_thread.run_sync(_png, width, height, alpha)
        return Response(png, media_type="image/png")


def _png(width: int, height: int, alpha: bytes) -> bytes:
    file = io.BytesIO()
    Image.frombytes("L", (width, height), alpha).save(file, "PNG", compress_level=4)
    return file.getvalue()


JobId = Annotated[str, Path(description="The `request_id` of a submission.", examples=["0" * 32])]


async def own_job(request: Request, key: AnyKey, job_id: JobId) -> Job:
    """The caller's job; another key's is as unknown as one that never was. Raises NotFoundError."""
    gateway = gateway_of(request)
    job = await read(gateway.database, lambda connection: jobs.find(connection, job_id, key.id))
    if job is None:
        raise NotFoundError("there is no such request")
    return job


OwnJob = Annotated[Job, Depends(own_job)]


@router.get(
    "/v2/requests/{job_id}/status",
    summary="Where a job is",
    responses={**openapi_answers.STATUS, **_JOB_ERRORS},
)
async def status(request: Request, job: OwnJob) -> JSONResponse:
    """QUEUED, PROCESSING, COMPLETED or FAILED, with progress and a preview."""
    content = await gateway_of(request).answers.status(job)
    return JSONResponse(content, status_code(job))


@router.get(
    "/v2/requests/{job_id}",
    summary="A job's result",
    responses={**openapi_answers.RESULT, **_JOB_ERRORS},
)
async def result(request: Request, job: OwnJob) -> JSONResponse:
    """`output`: links to the pictures, or base64 where the job asked for it."""
    content = await gateway_of(request).answers.result(job)
    return JSONResponse(content, status_code(job))


@router.delete(
    "/v2/requests/{job_id}",
    summary="Cancel a job",
    responses={**openapi_answers.CANCELLED, **_JOB_ERRORS},
)
async def cancel(request: Request, job: OwnJob) -> JSONResponse:
    """It ends as FAILED and pays for the steps that it had; one that has ended stays as it is."""
    gateway = gateway_of(request)
    if job.is_open:
        await write(gateway.database, lambda connection: jobs.request_cancel(connection, job.id))
        await gateway.runner.cancel(job.id)
        job = await _after_cancel(gateway, job)
    return JSONResponse(await gateway.answers.status(job))


async def _after_cancel(gateway: Gateway, job: Job) -> Job:
    """The job a moment later: most end within a step. Where it is held elsewhere, as it stands."""
    live = gateway.runner.live.get(job.id)
    if live is not None:
        await asyncio.wait({asyncio.ensure_future(live.ended.wait())}, timeout=1.0)
    return await _find(gateway, job.id) or job


async def _find(gateway: Gateway, job_id: str) -> Job | None:
    return await read(gateway.database, lambda connection: jobs.find(connection, job_id))


@router.get(
    "/v2/requests/{job_id}/events",
    summary="A job's status as server-sent events",
    response_class=StreamingResponse,
    responses={
        **openapi_answers.EVENTS,
        **_JOB_ERRORS,
    },
)
async def events(request: Request, job: OwnJob) -> StreamingResponse:
    """Each has the body of `/status`; one comes whenever that has changed."""
    headers = {"cache-control": "no-store", "x-accel-buffering": "no"}
    stream = _events(gateway_of(request), job)
    return StreamingResponse(stream, media_type="text/event-stream", headers=headers)


async def _events(gateway: Gateway, job: Job) -> AsyncIterator[str]:
    last: dict[str, Any] = {}
    loop = asyncio.get_running_loop()
    spoke_at = loop.time()
    while True:
        content = await gateway.answers.status(job)
        if content != last:
            yield event(content)
            last, spoke_at = content, loop.time()
        elif loop.time() - spoke_at > _KEEP_ALIVE:
            yield ": still there\n\n"
            spoke_at = loop.time()
        if not job.is_open:
            return
        await asyncio.sleep(_EVENT_PAUSE)
        found = await _find(gateway, job.id)
        if found is None:
            return
        job = found


@router.get(
    "/v2/results/{job_id}/{name}",
    summary="A picture by its signed link",
    response_class=Response,
    responses={
        200: openapi_answers.file("The picture.", *MEDIA_TYPES.values()),
        **openapi.errors(404, 500),
    },
)
async def picture(
    request: Request,
    job_id: str,
    name: str,
    expires: Annotated[str, Query()] = "",
    signature: Annotated[str, Query()] = "",
) -> Response:
    """Needs no key: the link carries its own permission, until the result is removed."""
    gateway = gateway_of(request)
    gone = NotFoundError("there is no such result, or its link has expired")
    is_number = expires.isascii() and expires.isdigit() and len(expires) < 16
    if not is_number or not gateway.signer.allows(job_id, name, int(expires), signature):
        raise gone
    try:
        data = await gateway.store.get(job_id, name)
    except FileNotFoundError:
        raise gone from None
    media_type = MEDIA_TYPES[name.rpartition(".")[2]]
    return Response(data, media_type=media_type, headers={"cache-control": "private, max-age=3600"})


@router.get(
    "/v2/credits",
    summary="What the key can still spend",
    responses={
        200: openapi_answers.CREDITS,
        **openapi.errors(401, 500, 503),
    },
)
async def credits_left(request: Request, key: AnyKey) -> JSONResponse:
    """Without what is reserved for open requests."""
    balance = plain(await gateway_of(request).submissions.balance(key))
    return JSONResponse({"credits": balance})


@router.get(
    "/v2/webhook-secret",
    summary="The secret that signs your webhooks",
    responses={
        200: openapi_answers.SECRET,
        **openapi.errors(401, 500, 503),
    },
)
async def webhook_secret(request: Request, key: AnyKey) -> JSONResponse:
    """HMAC-SHA256 over the header x-backdrop-timestamp, a dot, and the body, in hex."""
    return JSONResponse({"secret": gateway_of(request).signer.webhook_secret(key.id)})
