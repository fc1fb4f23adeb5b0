"""uvicorn's HTTP/1.1 with bounds on what comes before and after a body: its parser has none."""

from __future__ import annotations

import asyncio
import json

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

MAX_HEAD_BYTES = 64 * 1024
"""Of URL and headers, or of trailers; one read from the socket may go beyond it."""
HEAD_SECONDS = 60.0
"""In which a new connection's request, or the rest of a head, must have come."""
_TOO_LONG = "431 Request Header Fields Too Large"


class BoundedProtocol(HttpToolsProtocol):
    """One connection. Nobody has shown a key yet, so nothing here may grow or last without end."""

    _seen = 0
    """Bytes since the request began, or since its body last went on."""
    _timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin."""
        super().connection_made(transport)
        self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """End."""
        self._stop_waiting()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Take a piece in; what comes of it is told to the methods below."""
        self._seen += len(data)
        super().data_received(data)
        if self._seen > MAX_HEAD_BYTES and not self.transport.is_closing():
            self._refuse(_TOO_LONG, f"the request's head is longer than {MAX_HEAD_BYTES} bytes")

    def on_message_begin(self) -> None:
        """A request has begun."""
        self._seen = 0
        self._await_head()
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        """Its head is there."""
        self._stop_waiting()
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """A piece of its body is there, whose length others bound."""
        self._seen = 0
        super().on_body(body)

    def send_400_response(self, msg: str) -> None:
        """Refuse what is no HTTP; an error has the same form here as everywhere."""
        self._refuse("400 Bad Request", msg[:1].lower() + msg[1:].rstrip("."))

    def _refuse(self, status: str, sentence: str) -> None:
        content = json.dumps({"error": sentence})
        self.transport.write(
            f"HTTP/1.1 {status}\r\ncontent-type: application/json\r\n"
            f"content-length: {len(content)}\r\nconnection: close\r\n\r\n{content}".encode()
        )
        self.transport.close()

    def _await_head(self) -> None:
        self._stop_waiting()
        self._timer = self.loop.call_later(HEAD_SECONDS, self.transport.close)

    def _stop_waiting(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
