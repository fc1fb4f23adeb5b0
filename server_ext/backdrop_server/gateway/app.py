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

from backdrop_server.errors import BackdropError
from backdrop_server.gateway import routes_health, routes_v1, routes_v2
from backdrop_server.gateway.errors import kind_of, retry_after_of, status_of
from backdrop_server.gateway.gateway import Gateway
from backdrop_server.gateway.metrics import Metrics
from backdrop_server.gateway.middleware import Around
from backdrop_server.settings import Settings

log = logging.getLogger("backdrop")
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
        generate_unique_id_function=lambda route: route.name,
    )
    for routes in (routes_v1, routes_v2, routes_health):
        app.include_router(routes.router)
    app.add_middleware(Around, metrics=metrics)
    app.add_exception_handler(BackdropError, _answer_error)
    app.add_exception_handler(HTTPException, _answer_http_error)
    app.add_exception_handler(RequestValidationError, _answer_invalid)
    return app


async def _answer_error(request: Request, error: Exception) -> JSONResponse:
    """One of ours: its own sentence under its own status."""
    request.app.state.gateway.metrics.errors.labels(kind_of(error)).inc()
    seconds = retry_after_of(error)
    headers = None if seconds is None else {"retry-after": str(seconds)}
    return JSONResponse({"error": str(error)}, status_of(error), headers)


async def _answer_http_error(request: Request, error: Exception) -> JSONResponse:
    """Starlette's own, for a wrong URL or method."""
    error = cast(HTTPException, error)
    sentences = {
        404: f"there is no such URL: {ascii(request.url.path[:100])[1:-1]}",
        405: f"this URL does not take {request.method}",
    }
    sentence = sentences.get(error.status_code, str(error.detail))
    return JSONResponse({"error": sentence}, error.status_code, error.headers)


async def _answer_invalid(request: Request, error: Exception) -> JSONResponse:
    """A header or a part of the URL that FastAPI refused."""
    del request
    first: dict[str, Any] = cast(RequestValidationError, error).errors()[0]
    name = str(first["loc"][-1])
    return JSONResponse({"error": f"{name}: {first['msg']}"}, 400)
