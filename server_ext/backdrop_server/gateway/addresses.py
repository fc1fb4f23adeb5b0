"""Which addresses the gateway may connect to for a caller, and a connection that keeps to them."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import ipaddress
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor

import anyio
import httpcore

from backdrop_server.gateway.urls import RefusedUrlError, UnreachableUrlError

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network
Resolve = Callable[[str, int], Awaitable[Sequence[str]]]
"""Host name and port in, IP addresses out; raises OSError where the name is not known."""

MAX_ADDRESSES_TRIED = 4
MAX_LOOK_UPS = 16
"""That run at once; others wait."""

_GLOBAL_UNICAST = ipaddress.IPv6Network("2000::/3")
# Not for the public, whatever `is_global` of an older Python says of them: IANA's special-purpose
# registries, and IPv6 prefixes (Teredo, 6to4) that carry packets on to an IPv4 address.
_SPECIAL = tuple(
    ipaddress.ip_network(text)
    for text in (
        "192.0.0.0/24",
        "192.88.99.0/24",
        "2001::/23",
        "2001:db8::/32",
        "2002::/16",
        "3fff::/20",
    )
)
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
_ISATAP = 0x5EFE


def destination(address: Address) -> Address:
    """The IPv4 address that packets to an IPv4-mapped or NAT64 address end at; else the address."""
    if isinstance(address, ipaddress.IPv4Address):
        return address
    if address.ipv4_mapped is not None:
        return address.ipv4_mapped
    if address in _NAT64:
        return ipaddress.IPv4Address(int(address) & 0xFFFF_FFFF)
    return address


def is_public(address: Address) -> bool:
    """Whether ``address`` is global unicast: a host on the public internet, and not a way round."""
    end = destination(address)
    if isinstance(end, ipaddress.IPv6Address):
        # The other IPv6 blocks hold local, multicast and IPv4-compatible or translated addresses.
        if end not in _GLOBAL_UNICAST or end.scope_id is not None:
            return False
        if int(end) >> 32 & 0xFDFF_FFFF == _ISATAP:
            return False
    special = any(end in network for network in _SPECIAL)
    return end.is_global and not end.is_multicast and not special


class SystemResolver:
    """Looks names up as the system does, in its own threads: slow ones hold up no other work."""

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(MAX_LOOK_UPS, thread_name_prefix="resolve")

    async def __call__(self, host: str, port: int) -> Sequence[str]:
        """The addresses of ``host``; raises OSError where it is not known."""
        look_up = functools.partial(socket.getaddrinfo, host, port, type=socket.SOCK_STREAM)
        found = await asyncio.get_running_loop().run_in_executor(self._threads, look_up)
        return [str(entry[4][0]) for entry in found]

    def close(self) -> None:
        """Take no more look-ups and end the threads."""
        self._threads.shutdown(wait=False, cancel_futures=True)


class CheckedConnector:
    """Connects to public addresses and to those in ``networks`` only, within ``timeout`` seconds.

    A name is looked up once for each connection, and the connection is made to an address that was
    checked, so an answer of DNS that changes afterwards does not matter. Raises RefusedUrlError if
    one address of a name is not allowed, and UnreachableUrlError if the name is not known.
    """

    def __init__(self, networks: Iterable[Network], resolve: Resolve, timeout: float) -> None:
        self._networks = tuple(networks)
        self._resolve = resolve
        self._timeout = timeout
        self._backend = httpcore.AnyIOBackend()

    async def allowed_addresses(self, host: str, port: int) -> list[Address]:
        """The addresses of ``host``, at least one, every one checked; without connecting."""
        addresses = await self._addresses(host, port)
        if not all(map(self._is_allowed, addresses)):
            raise RefusedUrlError("the URL leads to a private or reserved address")
        return addresses

    async def _addresses(self, host: str, port: int) -> list[Address]:
        try:
            return [ipaddress.ip_address(host)]
        except ValueError:
            pass
        try:
            found = [ipaddress.ip_address(text) for text in await self._resolve(host, port)]
        except (OSError, ValueError) as error:
            raise UnreachableUrlError("the URL's host name is not known") from error
        if not found:
            raise UnreachableUrlError("the URL's host name is not known")
        return list(dict.fromkeys(found))

    def _is_allowed(self, address: Address) -> bool:
        end = destination(address)
        return is_public(address) or any(end in network for network in self._networks)

    @contextlib.asynccontextmanager
    async def connection(
        self, host: str, port: int, tls: ssl.SSLContext | None
    ) -> AsyncIterator[httpcore.AsyncNetworkStream]:
        """A connection to ``host``, closed with the block; with ``tls`` its certificate is checked.

        Raises httpcore's errors where nobody answers.
        """
        stream = await self._connect(host, port)
        try:
            if tls is not None:
                stream = await stream.start_tls(tls, host)
            yield stream
        finally:
            with anyio.CancelScope(shield=True):
                await stream.aclose()

    async def _connect(self, host: str, port: int) -> httpcore.AsyncNetworkStream:
        """Connect to the first address of ``host`` that answers."""
        addresses = (await self.allowed_addresses(host, port))[:MAX_ADDRESSES_TRIED]
        # Each gets its share of the time, so that one that swallows packets does not use up all.
        share = self._timeout / len(addresses)
        for address in addresses[:-1]:
            with contextlib.suppress(httpcore.ConnectError, httpcore.ConnectTimeout):
                return await self._backend.connect_tcp(str(address), port, share)
        return await self._backend.connect_tcp(str(addresses[-1]), port, share)
