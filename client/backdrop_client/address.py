"""Where the gateway is and which key is sent: given, or from the environment."""

from __future__ import annotations

import dataclasses
import os
import re
from urllib.parse import urlsplit

from backdrop_client.errors import Unauthorized, invalid

DEFAULT_URL = "http://127.0.0.1:8080"
_KEY = re.compile("[!-~]{1,255}")


@dataclasses.dataclass(frozen=True)
class Address:
    """A gateway's URL and the key for it, which no repr shows."""

    url: str
    key: str = dataclasses.field(repr=False)

    @property
    def shown(self) -> str:
        """The URL without user name and password."""
        parts = urlsplit(self.url)
        return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"

    @classmethod
    def of(cls, url: str | None, key: str | None) -> Address:
        """Given, else BACKDROP_URL and BACKDROP_KEY. Raises InvalidInput, Unauthorized."""
        url = url or os.environ.get("BACKDROP_URL") or DEFAULT_URL
        key = key or os.environ.get("BACKDROP_KEY") or ""
        if not _is_http(url):
            raise invalid("url", "it is no address of a gateway", f"a URL like {DEFAULT_URL}")
        if not key:
            raise Unauthorized("there is no key: give one, or set BACKDROP_KEY")
        if not _KEY.fullmatch(key):
            raise Unauthorized(
                "the key is not one of Backdrop's: it has characters that no key has"
            )
        return cls(url.rstrip("/"), key)


def _is_http(url: str) -> bool:
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:
        return False
    return parts.scheme in ("http", "https") and bool(parts.hostname) and url.isprintable()
