"""Pictures from URLs and posts to webhooks: requests that a caller makes the gateway send.

Built on httpcore alone: it has no proxies, cookies, redirects, credentials or decompression to
switch off, and logs no URL, which may hold a signature.
"""

from __future__ import annotations

import contextlib
import dataclasses
import ipaddress
import ssl
from collections.abc import AsyncIterator, Iterator, Mapping
from types import TracebackType

import anyio
import anyio.to_thread
import httpcore
import httpx

from backdrop_server.contract import MAX_PICTURE_BYTES
from backdrop_server.errors import InvalidInputError, UnavailableError
from backdrop_server.gateway.addresses import CheckedConnector, Network, Resolve, SystemResolver
from backdrop_server.gateway.fetched import check_headers, check_picture, too_large
from backdrop_server.gateway.urls import (
    RefusedUrlError,
    UnreachableUrlError,
    UrlError,
    check_host,
    parse_url,
)

MAX_ANSWER_BYTES = 64 * 1024
"""Of what a webhook answers, no more is read."""
MAX_CONNECTIONS = 100
"""Open at once to fetch pictures, and as many to post; others wait."""

_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_HEADERS = {
    "User-Agent": "backdrop",
    "Accept-Encoding": "identity",
    "Connection": "close",
}


@dataclasses.dataclass(frozen=True)
class FetchPolicy:
    """What may be fetched. Raises InvalidInputError where a host or network is not well-formed.

    ``enabled``: False refuses every URL. ``hosts``: if not empty, the only host names that pass, with
    ``*.example.com`` for every name below it. ``networks``: CIDR networks that are allowed
    although private. ``timeout``: seconds for a whole fetch, redirects and body included.
    ``max_bytes``: of a picture.
    """

    enabled: bool = True
    hosts: tuple[str, ...] = ()
    networks: tuple[str, ...] = ()
    timeout: float = 10.0
    max_bytes: int = MAX_PICTURE_BYTES
    max_redirects: int = 3

    def __post_init__(self) -> None:
        for host in self.hosts:
            try:
                check_host(host.lower().removeprefix("*."))
            except RefusedUrlError as error:
                allowed = "ASCII host names like images.example.com and *.example.com"
                raise InvalidInputError("hosts", f"{host!r} is not a host name", allowed) from error
        self.allowed_networks()

    def allowed_networks(self) -> tuple[Network, ...]:
        """``networks``, parsed."""
        return tuple(map(_network, self.networks))

    def accept(self, url: str) -> httpx.URL:
        """Parse ``url`` and apply the rules that need no look-up; raise RefusedUrlError."""
        if not self.enabled:
            raise RefusedUrlError("URLs are switched off on this server", "base64 or a data URI")
        return parse_url(url, self.hosts)


def _network(text: str) -> Network:
    try:
        return ipaddress.ip_network(text)
    except ValueError as error:
        problem = f"{text!r} is not a network"
        raise InvalidInputError("networks", problem, "CIDR networks like 10.1.0.0/16") from error


class Fetcher:
    """Fetches pictures and posts to webhooks within a policy; every redirect is checked anew.

    ``resolve`` looks names up; by default the system does. Close it with ``aclose`` or ``async with``.
    """

    def __init__(self, policy: FetchPolicy, resolve: Resolve | None = None) -> None:
        self._policy = policy
        self._resolver = SystemResolver()
        self._connector = CheckedConnector(
            policy.allowed_networks(), resolve or self._resolver, policy.timeout
        )
        # The operator's own authorities are taken from SSL_CERT_FILE and SSL_CERT_DIR.
        self._tls = httpx.create_ssl_context(trust_env=True)
        self._tls.set_alpn_protocols(["http/1.1"])
        # Apart, so that webhooks that hang keep nobody from his pictures.
        self._slots = {name: anyio.Semaphore(MAX_CONNECTIONS) for name in ("GET", "POST")}

    async def __aenter__(self) -> Fetcher:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """End the threads that look names up; a connection ends with its own request."""
        self._resolver.close()

    async def check(self, url: str, field: str) -> None:
        """Raise InvalidInputError unless ``url`` could be connected to; looks its name up once."""
        with _as_invalid_input(field), self._within_timeout():
            target = self._policy.accept(url)
            await self._connector.allowed_addresses(_host(target), _port(target))

    async def fetch_picture(self, url: str, field: str) -> bytes:
        """The bytes of the PNG, JPEG, GIF or WebP file at ``url``; raises InvalidInputError.

        Only the file's header is checked, not its pixels and not their number.
        """
        with _as_invalid_input(field):
            with self._within_timeout():
                data = await self._follow(url)
            # In a thread: to walk through a hostile file takes seconds.
            await anyio.to_thread.run_sync(check_picture, data)
        return data

    async def post(self, url: str, content: bytes, headers: Mapping[str, str]) -> int:
        """Post to a webhook and return the status of its answer; a redirect is not followed.

        Raises InvalidInputError (``webhook_url``) where the URL is not allowed, and UnavailableError
        where no answer came: only then may another try help.
        """
        status = 0
        try:
            with self._within_timeout():
                target = self._policy.accept(url)
                async with self._send("POST", target, headers, content) as response:
                    status = response.status
                    await _read_a_little(response)
        except RefusedUrlError as error:
            raise InvalidInputError("webhook_url", error.problem, error.allowed) from error
        except UnreachableUrlError as error:
            # With a status the post has arrived, however its answer ends.
            if not status:
                raise UnavailableError(f"webhook_url: {error.problem}") from error
        return status

    async def _follow(self, url: str) -> bytes:
        target = url
        for hop in range(self._policy.max_redirects + 1):
            try:
                reached = await self._get(self._policy.accept(target))
            except RefusedUrlError as error:
                if hop == 0:
                    raise
                problem = f"after a redirect {error.problem}"
                raise RefusedUrlError(problem, error.allowed) from error
            if isinstance(reached, bytes):
                return reached
            target = reached
        limit = f"at most {self._policy.max_redirects} redirects"
        raise RefusedUrlError("the URL redirects too often", limit)

    async def _get(self, url: httpx.URL) -> bytes | str:
        """The file at ``url``, or the URL that it redirects to."""
        async with self._send("GET", url, {"Accept": "image/*"}) as response:
            if response.status in _REDIRECTS:
                return _location(url, response)
            return await self._read(response)

    @contextlib.asynccontextmanager
    async def _send(
        self, method: str, url: httpx.URL, headers: Mapping[str, str], content: bytes | None = None
    ) -> AsyncIterator[httpcore.Response]:
        target = httpcore.URL(
            scheme=url.raw_scheme, host=url.raw_host, port=_port(url), target=url.raw_path
        )
        sent = httpx.Headers(headers)
        sent.update({**_HEADERS, "Host": url.netloc.decode("ascii")})
        tls = self._tls if url.scheme == "https" else None
        connecting = self._connector.connection(_host(url), _port(url), tls)
        async with self._slots[method], connecting as stream:
            # Not httpcore's pool: it loses a place for each request cancelled while it waits.
            connection = httpcore.AsyncHTTP11Connection(target.origin, stream)
            async with connection.stream(
                method, target, headers=sent.raw, content=content
            ) as response:
                yield response

    async def _read(self, response: httpcore.Response) -> bytes:
        check_headers(response, self._policy.max_bytes)
        data = bytearray()
        async for part in response.aiter_stream():
            data += part
            if len(data) > self._policy.max_bytes:
                raise too_large(self._policy.max_bytes)
        return bytes(data)

    @contextlib.contextmanager
    def _within_timeout(self) -> Iterator[None]:
        """Hold the block to the policy's time, and turn what the network raises into UrlErrors."""
        late = f"the URL did not answer in full within {self._policy.timeout:g} seconds"
        try:
            with anyio.fail_after(self._policy.timeout):
                yield
        except (TimeoutError, httpcore.TimeoutException) as error:
            raise UnreachableUrlError(late) from error
        except httpcore.ProtocolError as error:
            raise UnreachableUrlError("the answer breaks off or is not HTTP") from error
        except (httpcore.NetworkError, OSError) as error:
            raise UnreachableUrlError(_network_problem(error)) from error


@contextlib.contextmanager
def _as_invalid_input(field: str) -> Iterator[None]:
    try:
        yield
    except UrlError as error:
        raise InvalidInputError(field, error.problem, error.allowed) from error


def _host(url: httpx.URL) -> str:
    return url.raw_host.decode("ascii")


def _port(url: httpx.URL) -> int:
    return url.port or {"http": 80, "https": 443}[url.scheme]


def _location(url: httpx.URL, response: httpcore.Response) -> str:
    location = httpx.Headers(response.headers).get("location", "")
    try:
        return str(url.join(location))
    except (httpx.InvalidURL, ValueError) as error:
        raise RefusedUrlError("the URL redirects to one that is not well-formed") from error


def _network_problem(error: Exception) -> str:
    causes = (error, error.__cause__)  # httpcore wraps what TLS raises
    if any(isinstance(cause, ssl.SSLCertVerificationError) for cause in causes):
        return "the certificate of the URL's host is not valid or not trusted"
    if any(isinstance(cause, ssl.SSLError) for cause in causes):
        return "the URL's host does not speak TLS as it should"
    return "the URL's host cannot be reached or broke off"


async def _read_a_little(response: httpcore.Response) -> None:
    """Let the other server finish a short answer before the connection closes."""
    read = 0
    async for part in response.aiter_stream():
        read += len(part)
        if read > MAX_ANSWER_BYTES:
            return
