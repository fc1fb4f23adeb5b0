"""The ASGI application: routes, errors, start and stop."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import AsyncIterator
from importlib.metadata import version
from typing import Any, cast

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fastapi_offline import FastAPIOffline
from starlette.exceptions import HTTPException
from starlette.routing import Match, Route

from backdrop_server.errors import BackdropError
from backdrop_server.gateway import page, routes_health, routes_v1, routes_v2
from backdrop_server.gateway.errors import FailedJobError, kind_of, retry_after_of, status_of
from backdrop_server.gateway.gateway import Gateway
from backdrop_server.gateway.metrics import Metrics
from backdrop_server.gateway.middleware import Around
from backdrop_server.settings import Settings

log = logging.getLogger("backdrop")
_ROUTERS = (routes_v1.router, routes_v2.router, routes_health.router, page.router)
_ROUTES = [route for router in _ROUTERS for route in router.routes if isinstance(route, Route)]
DRAIN_SECONDS = 20.0
"""For jobs that nobody waits for on a connection; what is left then goes on at the next start."""
_DESCRIPTION = """\
Replaces the background of product photos: a photo, a reference picture and a prompt in, the same
product in a new scene out. Every error is `{"error": "<one sentence>"}`.
"""


def create_app(settings: Settings, public_url: str) -> FastAPI:
    """The application for ``settings``; ``public_url`` begins every URL in its answers."""
    metrics = Metrics()

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        gateway = app.state.gateway = Gateway(settings, public_url, metrics)
        await gateway.start()
        log.info("serving", extra={"gateway": gateway.presence.id, "url": public_url})
        yield
        await gateway.drain(DRAIN_SECONDS)
        await gateway.stop()

    app = FastAPIOffline(
        title="Backdrop",
        version=version("backdrop"),
        description=_DESCRIPTION,
        lifespan=lifespan,
        redoc_url=None,
        redirect_slashes=False,  # it would trust the caller's Host header, and send keys after it
        generate_unique_id_function=lambda route: route.name,
    )
    for router in _ROUTERS:
        app.include_router(router)
    app.add_middleware(Around, metrics=metrics)
    app.add_exception_handler(BackdropError, _answer_error)
    app.add_exception_handler(HTTPException, _answer_http_error)
    app.add_exception_handler(RequestValidationError, _answer_invalid)
    return app


async def _answer_error(request: Request, error: Exception) -> JSONResponse:
    """One of ours: its own sentence under its own status.

    A failure of the server goes on to ``Around``, which logs it: its sentence may be about a database
    or a file, and is for the operator.
    """
    status = status_of(error)
    if status == 500 and not isinstance(error, FailedJobError):
        raise error
    _metrics(request).errors.labels(kind_of(error)).inc()
    seconds = retry_after_of(error)
    headers = None if seconds is None else {"retry-after": str(seconds)}
    return JSONResponse({"error": str(error)}, status, headers)


async def _answer_http_error(request: Request, error: Exception) -> JSONResponse:
    """Starlette's own, for a wrong URL or method."""
    error = cast(HTTPException, error)
    sentences = {
        404: f"there is no such URL: {ascii(request.url.path[:100])[1:-1]}",
        405: f"this URL does not take {request.method}",
    }
    sentence = sentences.get(error.status_code, str(error.detail))
    headers = {"allow": ", ".join(_methods_of(request))} if error.status_code == 405 else None
    _metrics(request).errors.labels("url").inc()
    return JSONResponse({"error": sentence}, error.status_code, headers)


def _methods_of(request: Request) -> list[str]:
    """All methods of the URL (RFC 9110, 10.2.1); the router itself knows those of one route only."""
    found: set[str] = set()
    for route in _ROUTES:
        if route.matches(request.scope)[0] is not Match.NONE:
            found |= route.methods or set()
    return sorted(found)


async def _answer_invalid(request: Request, error: Exception) -> JSONResponse:
    """A header or a part of the URL that FastAPI refused."""
    _metrics(request).errors.labels("invalid input").inc()
    first: dict[str, Any] = cast(RequestValidationError, error).errors()[0]
    name = str(first["loc"][-1])
    return JSONResponse({"error": f"{name}: {first['msg']}"}, 400)


def _metrics(request: Request) -> Metrics:
    metrics: Metrics = request.app.state.gateway.metrics
    return metrics
