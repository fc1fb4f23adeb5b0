"""The gateway's address and a flow's calls as httpx takes them: for both clients."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from backdrop_client.address import Address
from backdrop_client.errors import ServerUnreachable
from backdrop_client.fields import Picture
from backdrop_client.flows import Call, Reply

if TYPE_CHECKING:
    import httpx

RETRIES = 5
TIMEOUT = 60.0
_CONNECT_SECONDS = 10.0


def all_fields(
    image: Picture, ref_image: Picture, prompt: str, fields: dict[str, Any]
) -> dict[str, Any]:
    """Every field of a request by name."""
    return {"image": image, "ref_image": ref_image, "prompt": prompt, **fields}


def client_options(address: Address, timeout: float) -> dict[str, Any]:
    """Arguments of ``httpx.Client`` and ``httpx.AsyncClient``."""
    import httpx

    return {
        "base_url": address.url,
        "headers": {"x-api-key": address.key, "user-agent": "backdrop-client"},
        "timeout": httpx.Timeout(timeout, connect=min(timeout, _CONNECT_SECONDS)),
    }


def request_arguments(call: Call) -> dict[str, Any]:
    """Arguments of their ``request``."""
    return {
        "method": call.method,
        "url": call.path,
        "content": call.content,
        "headers": dict(call.headers),
    }


def reply_of(response: httpx.Response) -> Reply:
    """An answer that was read whole."""
    return Reply(response.status_code, response.headers, response.content)


def unreachable(address: Address, error: Exception) -> ServerUnreachable:
    """Nobody answered at ``address``."""
    reason = str(error) or type(error).__name__
    return ServerUnreachable(f"no answer from {address.shown}: {reason}")
