"""The Tritons behind the gateway: calls, and their errors.

Over HTTP: where a gRPC client vanishes, Triton 24.10 cancels what it had in an ensemble, and crashes on
a burst of that, for every other client too. A dropped HTTP connection it does not notice; what a dead
gateway has left there is cancelled through `control` by the one that takes over.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import aiohttp
import tritonclient.http as httpclient
import tritonclient.http.aio as httpaio
from tritonclient.utils import InferenceServerException

from backdrop_client.triton import (
    CONTROL,
    MODEL,
    OUTPUTS,
    Replaced,
    control_inputs,
    infer_inputs,
    read_control,
    read_result,
    sentence_of,
)
from backdrop_server.costs import Costs
from backdrop_server.errors import (
    BackdropError,
    CancelledError,
    InvalidInputError,
    UnavailableError,
)
from backdrop_server.gateway.errors import FullError, LostError

CONTROL_SECONDS = 3.0
"""What a call of `control` may take; a server that needs longer is as good as gone."""
CANCEL_GRACE = 30.0
"""Seconds in which a cancelled request must have come back."""
_FULL_PAUSE = 0.5
_DAY = 86_400.0
"""Seconds; how long a request may take is settled elsewhere."""
_CANCELLED = "the request was cancelled"
_STUB_IS_DEAD = "tub process"
_UNCOMPRESSED = {"Accept-Encoding": "identity"}
"""Otherwise aiohttp asks for gzip, and Triton takes its time for it, over pictures in vain."""


class Triton(Protocol):
    """One server with the model repository, as the gateway sees it."""

    url: str
    in_flight: int
    suspects: int
    """Of those in flight, jobs that were in many a Triton when it was lost."""
    is_up: bool
    costs: Costs | None

    async def replace(
        self, request_id: str, fields: Mapping[str, object], outputs: Sequence[str] = OUTPUTS
    ) -> Replaced:
        """Make pictures. Raises InvalidInputError, CancelledError, LostError, UnavailableError."""
        ...

    async def matte(self, fields: Mapping[str, object]) -> tuple[int, int, bytes]:
        """Width, height and 8-bit alpha of a photo's matte. Raises as ``replace``."""
        ...

    async def control(self, action: str, request_id: str) -> dict[str, Any]:
        """What `control` says of a request, with ``preview``: a PNG file or no bytes."""
        ...

    async def probe(self) -> None:
        """Look whether a picture could be made now; sets ``is_up`` and ``costs``."""

    async def close(self) -> None:
        """Close the connection."""


class HttpTriton:
    """A Triton at the address of its HTTP port."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.in_flight = 0
        self.suspects = 0
        self.is_up = False
        self.costs: Costs | None = None
        self._patient: Any = httpaio.InferenceServerClient(url, conn_timeout=_DAY, conn_limit=0)
        self._quick: Any = httpaio.InferenceServerClient(url, conn_timeout=CONTROL_SECONDS)

    async def replace(
        self, request_id: str, fields: Mapping[str, object], outputs: Sequence[str] = OUTPUTS
    ) -> Replaced:
        """See ``Triton``."""
        result = await self._infer(MODEL, fields, outputs, request_id)
        return read_result(result)

    async def matte(self, fields: Mapping[str, object]) -> tuple[int, int, bytes]:
        """See ``Triton``: `preprocess` alone, asked for nothing but the alpha."""
        alpha = (await self._infer("preprocess", fields, ("alpha",), "")).as_numpy("alpha")[0]
        return alpha.shape[1], alpha.shape[0], alpha.tobytes()

    async def control(self, action: str, request_id: str) -> dict[str, Any]:
        """See ``Triton``."""
        inputs = control_inputs(httpclient, action, request_id)
        with _named_errors():
            return read_control(await self._quick.infer(CONTROL, inputs))

    async def probe(self) -> None:
        """See ``Triton``."""
        try:
            with _named_errors():
                ready = await self._quick.is_server_ready()
            if ready and not (self.is_up and self.costs):
                facts = await self.control("facts", "gateway")
                facts.pop("preview")
                self.costs = Costs(**facts)
            elif ready:
                await self.control("status", "gateway")
            self.is_up = bool(ready)
        except BackdropError:
            self.is_up = False

    async def close(self) -> None:
        """See ``Triton``."""
        await self._patient.close()
        await self._quick.close()

    async def _infer(
        self, model: str, fields: Mapping[str, object], outputs: Sequence[str], request_id: str
    ) -> Any:
        with _named_errors():
            return await self._patient.infer(
                model,
                infer_inputs(httpclient, fields),
                request_id=request_id,
                outputs=[httpclient.InferRequestedOutput(name) for name in outputs],
                headers=dict(_UNCOMPRESSED),
            )


@contextlib.contextmanager
def _named_errors() -> Any:
    """Triton's errors as ours."""
    try:
        yield
    except InferenceServerException as error:
        raise _named(error) from None
    except (aiohttp.ClientError, asyncio.TimeoutError, OSError):
        raise LostError("Triton was lost under the request") from None


def _named(error: InferenceServerException) -> BackdropError:
    message = sentence_of(error)
    status = error.status()
    if _CANCELLED in message:  # under more than one status
        return CancelledError(message)
    if status == "400":
        field, _, rest = message.partition(": ")
        problem, _, allowed = rest.partition("; allowed: ")
        return InvalidInputError(field, problem, allowed) if allowed else BackdropError(message)
    if status == "503" and "retry later" in message:
        return FullError(message)
    if status == "503" or _STUB_IS_DEAD in message:
        return LostError("Triton was lost under the request")
    return BackdropError("the server failed at this request; its log says why")


async def _replace_when_not_full(
    triton: Triton, request_id: str, fields: Mapping[str, object], outputs: Sequence[str]
) -> Replaced:
    """Other gateways' requests, or those of a dead one, can fill a Triton beyond what we know of."""
    while True:
        try:
            return await triton.replace(request_id, fields, outputs)
        except FullError:
            await asyncio.sleep(_FULL_PAUSE)


async def replace_within(
    triton: Triton,
    request_id: str,
    fields: Mapping[str, object],
    outputs: Sequence[str],
    seconds: float,
) -> Replaced:
    """Make pictures in at most ``seconds``; past them the request is cancelled in Triton.

    The call itself is left to come back with what was done; one that does not is given up after a
    grace time. Raises UnavailableError, and as ``Triton.replace``.
    """
    call = asyncio.ensure_future(_replace_when_not_full(triton, request_id, fields, outputs))
    try:
        done, _ = await asyncio.wait({call}, timeout=seconds)
        if done:
            return call.result()
        with contextlib.suppress(BackdropError):
            await triton.control("cancel", request_id)
        done, _ = await asyncio.wait({call}, timeout=CANCEL_GRACE)
        if not done:
            raise LostError("Triton does not answer any more")
        with contextlib.suppress(CancelledError):
            return call.result()
        raise UnavailableError(f"it took more than {seconds:.0f} s; retry later")
    finally:
        if not call.done():
            call.cancel()
