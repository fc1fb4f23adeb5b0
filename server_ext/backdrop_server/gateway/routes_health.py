"""Whether the gateway lives, whether a picture could be made now, and what Prometheus reads."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from backdrop_server.errors import SetupError, UnavailableError
from backdrop_server.gateway import openapi
from backdrop_server.gateway.entrance import gateway_of
from backdrop_server.gateway.transactions import read

router = APIRouter(tags=["health"])
_OBJECT: openapi.Schema = {"type": "object"}


@router.get("/healthz", summary="Alive", responses={200: openapi.json_answer("It is.", _OBJECT)})
async def alive() -> JSONResponse:
    """The process answers."""
    return JSONResponse({"alive": True})


@router.get(
    "/readyz",
    summary="A picture could be made now",
    responses={200: openapi.json_answer("It could.", _OBJECT), **openapi.errors(503)},
)
async def ready(request: Request) -> JSONResponse:
    """The database answers, and a Triton is up. Raises UnavailableError."""
    gateway = gateway_of(request)
    if not gateway.pool.is_up:
        raise UnavailableError("no Triton is up")
    try:
        await read(gateway.database, lambda connection: connection.execute(text("SELECT 1")))
    except (DBAPIError, SetupError):
        raise UnavailableError("the database does not answer") from None
    up = [triton.url for triton in gateway.pool.tritons if triton.is_up]
    return JSONResponse({"ready": True, "tritons": len(up)})


@router.get(
    "/metrics",
    summary="Metrics for Prometheus",
    response_class=Response,
    responses={200: {"description": "Text.", "content": {"text/plain": {}}}},
)
async def metrics(request: Request) -> Response:
    """Requests, latency by stage, queue depth, seconds billed, credits, errors by kind."""
    gateway = gateway_of(request)
    for triton in gateway.pool.tritons:
        gateway.metrics.tritons.labels(triton.url).set(triton.is_up)
    page, content_type = gateway.metrics.page()
    return Response(page, headers={"content-type": content_type})
