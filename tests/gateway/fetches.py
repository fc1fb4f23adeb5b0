"""What the tests of fetching share: names, a policy for loopback, and the form of a refusal."""

from __future__ import annotations

import asyncio
import io
import re
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar

import pytest
from PIL import Image

from backdrop_server.errors import InvalidInputError
from backdrop_server.gateway.addresses import SystemResolver
from backdrop_server.gateway.fetching import Fetcher, FetchPolicy
from tests import pictures

Result = TypeVar("Result")

SYSTEM = SystemResolver()
LOOPBACK = ("127.0.0.0/8",)
TIMEOUT = 0.6
MAX_BYTES = 200_000
PNG = pictures.png(pictures.product(60, 40))
NAMES = {
    "private.test": ["10.1.2.3"],
    "loopback.test": ["127.0.0.1"],
    "loopback6.test": ["::1"],
    "metadata.test": ["169.254.169.254"],
    "mixed.test": ["8.8.8.8", "127.0.0.1"],
    "mapped.test": ["::ffff:127.0.0.1"],
    "zone.test": ["fe80::1%1"],
    "nowhere.test": [],
    "nonsense.test": ["not an address"],
    "a.cdn.test": ["127.0.0.1"],
    "xn--bcher-kva.test": ["127.0.0.1"],
}


def run(work: Callable[[], Awaitable[Result]]) -> Result:
    async def main() -> Result:
        return await work()

    return asyncio.run(main())


async def resolve(host: str, port: int) -> Sequence[str]:
    if host == "localhost":
        return await SYSTEM(host, port)
    if host not in NAMES:
        raise OSError("no such name")
    return NAMES[host]


def encoded(kind: str) -> bytes:
    data = io.BytesIO()
    Image.fromarray(pictures.product(60, 40)).save(data, kind)
    return data.getvalue()


def policy(**changes: Any) -> FetchPolicy:
    values: dict[str, Any] = {"networks": LOOPBACK, "timeout": TIMEOUT, "max_bytes": MAX_BYTES}
    return FetchPolicy(**(values | changes))


async def fetch(url: str, rules: FetchPolicy, field: str = "image") -> bytes:
    async with Fetcher(rules, resolve) as fetcher:
        return await fetcher.fetch_picture(url, field)


async def refusal(work: Awaitable[object], field: str = "image") -> str:
    """The sentence with which ``work`` is refused, once its form is checked."""
    with pytest.raises(InvalidInputError) as caught:
        await work
    sentence = str(caught.value)
    assert caught.value.field == field
    assert re.fullmatch(rf"{field}: [^\n]{{10,100}}; allowed: [^\n]{{5,60}}", sentence), sentence
    assert not re.search(r"Error|Errno|Traceback|exception|[0-9]+\.[0-9]+\.[0-9]+|::", sentence)
    return sentence
