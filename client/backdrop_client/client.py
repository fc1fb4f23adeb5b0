"""``Backdrop``: the client for ordinary code and threads."""

from __future__ import annotations

import time
from decimal import Decimal
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar

from backdrop_client import flows
from backdrop_client.address import Address
from backdrop_client.fields import Picture, json_body
from backdrop_client.flows import Call, Flow, OnProgress, Pause, Reply
from backdrop_client.http_calls import (
    RETRIES,
    TIMEOUT,
    all_fields,
    client_options,
    reply_of,
    request_arguments,
    unreachable,
)
from backdrop_client.results import Quote, Result, Status

if TYPE_CHECKING:
    import httpx

    from backdrop_client.over_triton import TritonBackdrop

T = TypeVar("T")


class Backdrop:
    """A client of the REST gateway; safe to share between threads. Close it, or use ``with``.

    ``url`` and ``key``: else BACKDROP_URL (by default http://127.0.0.1:8080) and BACKDROP_KEY.
    ``retries``: further tries of a call on connection errors, 429 and 503, with growing pauses.
    ``timeout``: seconds for an answer to begin or go on. ``transport``: httpx's own, for tests and
    unusual networks.
    """

    def __init__(
        self,
        url: str | None = None,
        key: str | None = None,
        *,
        retries: int = RETRIES,
        timeout: float = TIMEOUT,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        import httpx

        self._address = Address.of(url, key)
        self._retries = retries
        self._http = httpx.Client(**client_options(self._address, timeout), transport=transport)

    @staticmethod
    def triton(url: str) -> TritonBackdrop:
        """A client of Triton itself, at ``host:port`` of its gRPC. Raises MissingExtra."""
        from backdrop_client.over_triton import TritonBackdrop

        return TritonBackdrop(url)

    def replace(
        self,
        *,
        image: Picture,
        ref_image: Picture,
        prompt: str,
        on_progress: OnProgress | None = None,
        timeout: float | None = None,
        idempotency_key: str | None = None,
        **fields: Any,
    ) -> Result:
        """Replace the background of ``image`` and wait.

        ``fields``: all others of the API. ``on_progress`` is called with a ``Progress`` whenever
        that has changed. ``timeout``: seconds in all. A call that ends early (timeout, Ctrl-C, an
        exception in ``on_progress``) cancels its job. Raises BackdropError.
        """
        content = json_body(all_fields(image, ref_image, prompt, fields), base64=True)
        flow = flows.replace(content, idempotency_key, timeout, on_progress, self._retries)
        return self._run(flow)

    def submit(
        self,
        *,
        image: Picture,
        ref_image: Picture,
        prompt: str,
        idempotency_key: str | None = None,
        **fields: Any,
    ) -> Job:
        """As ``replace``, without waiting. The job ends whatever happens to this process."""
        content = json_body(all_fields(image, ref_image, prompt, fields), base64=True)
        return self.job(self._run(flows.submit(content, idempotency_key, self._retries)))

    def job(self, request_id: str) -> Job:
        """The handle of a job that was submitted before."""
        return Job(self, request_id)

    def quote(self, *, image: Picture, ref_image: Picture, prompt: str, **fields: Any) -> Quote:
        """What ``replace`` would cost; everything is checked, nothing is made or billed."""
        content = json_body(all_fields(image, ref_image, prompt, fields), dry_run=True)
        return self._run(flows.quote(content, self._retries))

    def credits(self) -> Decimal:
        """Credits that the key can still spend."""
        return self._run(flows.credits_left(self._retries))

    def close(self) -> None:
        """Close the connections; jobs go on."""
        self._http.close()

    def __enter__(self) -> Backdrop:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"Backdrop({self._address.shown!r})"

    def _run(self, flow: Flow[T]) -> T:
        """Take every step of ``flow``; what interrupts a step is for the flow to answer."""
        try:
            step = next(flow)
            while True:
                try:
                    reply = self._do(step)
                except BaseException as error:  # Ctrl-C too
                    step = flow.throw(error)
                else:
                    step = flow.send(reply)
        except StopIteration as end:
            result: T = end.value
            return result

    def _do(self, step: Call | Pause) -> Reply | None:
        import httpx

        if isinstance(step, Pause):
            time.sleep(step.seconds)
            return None
        try:
            return reply_of(self._http.request(**request_arguments(step)))
        except httpx.RequestError as error:
            raise unreachable(self._address, error) from None


class Job:
    """A submitted job; ``request_id`` finds it again (``Backdrop.job``)."""

    def __init__(self, client: Backdrop, request_id: str) -> None:
        self._client = client
        self.request_id = request_id

    def status(self) -> Status:
        """Where it is."""
        return self._client._run(flows.status(self.request_id, self._client._retries))

    def wait(self, timeout: float | None = None, on_progress: OnProgress | None = None) -> Result:
        """Wait for the pictures, at most ``timeout`` seconds. Raises TimedOut: then it goes on."""
        client = self._client
        return client._run(flows.wait(self.request_id, timeout, on_progress, client._retries))

    def cancel(self) -> Status:
        """Cancel it; it pays for the steps that it had. One that has ended stays as it is."""
        return self._client._run(flows.cancel(self.request_id, self._client._retries))

    def __repr__(self) -> str:
        return f"Job({self.request_id!r})"
