"""A customer's server for webhooks: notes what comes, answers as a test wants."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import hmac
import json
import threading
import time
from collections.abc import Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclasses.dataclass(frozen=True)
class Post:
    """One request that came; ``at`` is monotonic s, header names are lower-case."""

    at: float
    headers: Mapping[str, str]
    body: bytes

    def content(self) -> dict[str, Any]:
        """Its JSON."""
        content: dict[str, Any] = json.loads(self.body)
        return content

    def is_signed_with(self, secret: str) -> bool:
        """Whether its signature is what the API's documentation says."""
        message = self.headers["x-backdrop-timestamp"].encode() + b"." + self.body
        expected = "sha256=" + hmac.new(secret.encode(), message, hashlib.sha256).hexdigest()
        return hmac.compare_digest(self.headers["x-backdrop-signature"], expected)


class Receiver:
    """What came so far; ``status`` is what the next posts are answered with."""

    def __init__(self, port: int, status: int) -> None:
        self.url = f"http://127.0.0.1:{port}/hook"
        self.status = status
        self.posts: list[Post] = []


@contextlib.contextmanager
def receiver(status: int = 200) -> Iterator[Receiver]:
    """A running receiver on loopback."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            headers = {name.lower(): value for name, value in self.headers.items()}
            self.send_response(made.status)
            self.end_headers()
            made.posts.append(Post(time.monotonic(), headers, body))

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002
            """Says nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as listening:
        made = Receiver(listening.server_port, status)
        thread = threading.Thread(target=listening.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield made
        finally:
            listening.shutdown()
            thread.join()
