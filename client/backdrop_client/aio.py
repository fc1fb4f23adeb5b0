"""``AsyncBackdrop``: the client for asyncio."""

from __future__ import annotations

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

T = TypeVar("T")


class AsyncBackdrop:
    """``Backdrop`` for asyncio: the same arguments; ``aclose`` it, or use ``async with``.

    ``on_progress`` is a plain function, called in the event loop. A cancelled task cancels its job.
    """

    def __init__(
        self,
        url: str | None = None,
        key: str | None = None,
        *,
        retries: int = RETRIES,
        timeout: float = TIMEOUT,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        import httpx

        self._address = Address.of(url, key)
        self._retries = retries
        self._http = httpx.AsyncClient(
            **client_options(self._address, timeout), transport=transport
        )

    async def replace(
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
        """See ``Backdrop.replace``."""
        content = await _body(all_fields(image, ref_image, prompt, fields), base64=True)
        flow = flows.replace(content, idempotency_key, timeout, on_progress, self._retries)
        return await self._run(flow)

    async def submit(
        self,
        *,
        image: Picture,
        ref_image: Picture,
        prompt: str,
        idempotency_key: str | None = None,
        **fields: Any,
    ) -> AsyncJob:
        """See ``Backdrop.submit``."""
        content = await _body(all_fields(image, ref_image, prompt, fields), base64=True)
        return self.job(await self._run(flows.submit(content, idempotency_key, self._retries)))

    def job(self, request_id: str) -> AsyncJob:
        """See ``Backdrop.job``."""
        return AsyncJob(self, request_id)

    async def quote(
        self, *, image: Picture, ref_image: Picture, prompt: str, **fields: Any
    ) -> Quote:
        """See ``Backdrop.quote``."""
        content = await _body(all_fields(image, ref_image, prompt, fields), dry_run=True)
        return await self._run(flows.quote(content, self._retries))

    async def credits(self) -> Decimal:
        """See ``Backdrop.credits``."""
        return await self._run(flows.credits_left(self._retries))

    async def aclose(self) -> None:
        """Close the connections; jobs go on."""
        await self._http.aclose()

    async def __aenter__(self) -> AsyncBackdrop:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.aclose()

    def __repr__(self) -> str:
        return f"AsyncBackdrop({self._address.shown!r})"

    async def _run(self, flow: Flow[T]) -> T:
        """As ``Backdrop._run``."""
        try:
            step = next(flow)
            while True:
                try:
                    reply = await self._do(step)
                except BaseException as error:  # a cancelled task too
                    step = flow.throw(error)
                else:
                    step = flow.send(reply)
        except StopIteration as end:
            result: T = end.value
            return result

    async def _do(self, step: Call | Pause) -> Reply | None:
        import asyncio

        import httpx

        if isinstance(step, Pause):
            await asyncio.sleep(step.seconds)
            return None
        try:
            return reply_of(await self._http.request(**request_arguments(step)))
        except httpx.RequestError as error:
            raise unreachable(self._address, error) from None


class AsyncJob:
    """``Job`` for asyncio."""

    def __init__(self, client: AsyncBackdrop, request_id: str) -> None:
        self._client = client
        self.request_id = request_id

    async def status(self) -> Status:
        """See ``Job.status``."""
        return await self._client._run(flows.status(self.request_id, self._client._retries))

    async def wait(
        self,
        timeout: float | None = None,
        on_progress: OnProgress | None = None,
    ) -> Result:
        """See ``Job.wait``."""
        client = self._client
        return await client._run(flows.wait(self.request_id, timeout, on_progress, client._retries))

    async def cancel(self) -> Status:
        """See ``Job.cancel``."""
        return await self._client._run(flows.cancel(self.request_id, self._client._retries))

    def __repr__(self) -> str:
        return f"AsyncJob({self.request_id!r})"


async def _body(fields: dict[str, Any], **more: object) -> bytes:
    """Files are read and images encoded beside the event loop."""
    import asyncio

    return await asyncio.to_thread(json_body, fields, **more)
