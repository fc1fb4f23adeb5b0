"""Around every request: its id, one line in the log, the metrics, and a last net for our failures."""

from __future__ import annotations

import logging
import time
import uuid
from typing import Any

from starlette.requests import ClientDisconnect
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from backdrop_server.gateway.errors import ServerFailedError
from backdrop_server.gateway.metrics import Metrics

log = logging.getLogger("backdrop.access")
_NOBODY_THERE = 499
"""In logs and metrics, as nginx has it: the caller went away before the answer."""


class Around:
    """Pure ASGI, so that a dropped connection is still seen inside."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        begun_at = time.monotonic()
        state = scope.setdefault("state", {})
        state["request_id"] = uuid.uuid4().hex
        status = 0

        async def send_named(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                name = (b"x-request-id", state["request_id"].encode())
                kind = (b"x-content-type-options", b"nosniff")
                message = {**message, "headers": [*message["headers"], name, kind]}
            await send(message)

        try:
            await self._app(scope, receive, send_named)
        except ClientDisconnect:
            status = _NOBODY_THERE
        except Exception as error:
            log.error("a request failed", exc_info=error, extra=_named(scope))
            self._metrics.errors.labels("server").inc()
            if status:
                raise
            sentence = str(ServerFailedError(state["request_id"]))
            await JSONResponse({"error": sentence}, 500)(scope, receive, send_named)
        finally:
            self._note(scope, status, time.monotonic() - begun_at)

    def _note(self, scope: Scope, status: int, seconds: float) -> None:
        route = getattr(scope.get("route"), "path", "none")
        self._metrics.requests.labels(route, status).inc()
        extra = _named(scope) | {
            "method": scope["method"],
            "route": route,
            "status": status,
            "seconds": round(seconds, 4),
        }
        log.info("answered", extra=extra)


def _named(scope: Scope) -> dict[str, Any]:
    state = scope["state"]
    return {"request_id": state["request_id"], "key": state.get("key")}
