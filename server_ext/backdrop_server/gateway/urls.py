"""What a URL from a caller must look like before anything is looked up or connected."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Collection

import httpx

MAX_URL_CHARACTERS = 2048
ALLOWED_URL = "a public http or https URL"

_FORBIDDEN = re.compile(r"[\x00-\x20\x7f-\xa0\\\s\ud800-\udfff]")
_LABEL = r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?"
_NAME = re.compile(rf"{_LABEL}(?:\.{_LABEL})*")
# A name whose last label is a number is read as an IPv4 address by some resolvers (127.1, 0x7f.1).
_NUMERIC_END = re.compile(r"(?:.*\.)?(?:[0-9]+|0x[0-9a-f]*)")


class UrlError(Exception):
    """A URL cannot be used; ``problem`` and ``allowed`` are safe to show its sender."""

    def __init__(self, problem: str, allowed: str = ALLOWED_URL) -> None:
        self.problem = problem
        self.allowed = allowed
        super().__init__(problem)


class RefusedUrlError(UrlError):
    """The URL, or what it leads to, breaks a rule: trying again will not help."""


class UnreachableUrlError(UrlError):
    """The network or the other server failed: trying again may help."""


def parse_url(url: str, hosts: Collection[str] = ()) -> httpx.URL:
    """Parse an absolute http or https URL; raise RefusedUrlError where a rule is broken.

    ``hosts``, if not empty, are the only host names that pass; ``*.example.com`` means every name
    below ``example.com``. The answer's host is lower-case ASCII without a trailing dot.
    """
    if len(url) > MAX_URL_CHARACTERS:
        raise RefusedUrlError(
            f"the URL has {len(url)} characters", f"at most {MAX_URL_CHARACTERS} characters"
        )
    if _FORBIDDEN.search(url):
        raise RefusedUrlError("the URL has a space, backslash or control character in it")
    try:
        parsed = httpx.URL(url)
    except (httpx.InvalidURL, ValueError) as error:
        raise RefusedUrlError("the URL is not well-formed") from error
    _check_parts(parsed)
    host = parsed.raw_host.decode("ascii").removesuffix(".")
    check_host(host)
    if hosts and not any(_matches(host, pattern.lower()) for pattern in hosts):
        raise RefusedUrlError(
            "the URL's host is not on this server's list", "a URL on one of the hosts in the list"
        )
    return parsed.copy_with(host=host)


def _check_parts(url: httpx.URL) -> None:
    if url.scheme not in {"http", "https"}:
        raise RefusedUrlError("the URL does not start with http:// or https://")
    if url.userinfo:
        raise RefusedUrlError("the URL has a user name or password in it")
    if url.port is not None and not 1 <= url.port <= 65535:
        raise RefusedUrlError("the URL's port is out of range", "a port from 1 to 65535")


def check_host(host: str) -> None:
    """Raise RefusedUrlError unless ``host`` is a lower-case ASCII host name or a plain IP address."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        if len(host) > 253 or not _NAME.fullmatch(host) or _NUMERIC_END.fullmatch(host):
            raise RefusedUrlError("the URL's host is not a valid name or address") from None
    else:
        if isinstance(address, ipaddress.IPv6Address) and address.scope_id is not None:
            raise RefusedUrlError("the URL's address has a zone")


def _matches(host: str, pattern: str) -> bool:
    if pattern.startswith("*."):
        return host.endswith(pattern[1:])
    return host == pattern
