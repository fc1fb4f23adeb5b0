"""Servers on loopback that answer as a test wants, count who connects, and record what was sent."""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import ipaddress
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

Answer = Callable[[str, asyncio.StreamWriter], Awaitable[None]]
"""What a server does with a request: its path, and where to write."""


@dataclass
class LocalServer:
    """A running server: ``heads`` are the request heads, ``bodies`` what was sent after them."""

    port: int = 0
    connections: int = 0
    heads: list[bytes] = field(default_factory=list)
    bodies: list[bytes] = field(default_factory=list)


@contextlib.asynccontextmanager
async def serve(
    answer: Answer,
    tls: ssl.SSLContext | None = None,
    host: str = "127.0.0.1",
    port: int = 0,
    greeting: bytes = b"",
) -> AsyncIterator[LocalServer]:
    """Serve ``answer`` until the block ends; one request for each connection.

    ``greeting`` is sent before anything is read.
    """
    local = LocalServer()
    tasks: set[asyncio.Task[None]] = set()

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        local.connections += 1
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        writer.write(greeting)
        try:
            with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
                await _exchange(local, answer, reader, writer)
        except asyncio.CancelledError:
            pass  # the block ended
        finally:
            writer.transport.abort()

    server = await asyncio.start_server(handle, host, port, ssl=tls)
    local.port = server.sockets[0].getsockname()[1]
    try:
        yield local
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for _ in range(10):  # let the loop close what was aborted, or failed at TLS
            await asyncio.sleep(0)


async def _exchange(
    local: LocalServer, answer: Answer, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> None:
    head = await reader.readuntil(b"\r\n\r\n")
    local.heads.append(head)
    if b"content-length:" in head.lower():
        length = int(head.lower().split(b"content-length:")[1].split(b"\r\n")[0])
        local.bodies.append(await reader.readexactly(length))
    await answer(head.split()[1].decode(), writer)
    await writer.drain()
    writer.close()
    await writer.wait_closed()


def raw(data: bytes) -> Answer:
    """Answer these very bytes."""

    async def answer(path: str, writer: asyncio.StreamWriter) -> None:
        writer.write(data)

    return answer


def reply(
    body: bytes, kind: str | None = "image/png", status: int = 200, extra: str = ""
) -> Answer:
    """Answer a whole, well-formed response; ``extra`` are header lines, each with its CRLF."""
    declared = f"Content-Type: {kind}\r\n" if kind else ""
    head = f"HTTP/1.1 {status} X\r\n{declared}Content-Length: {len(body)}\r\n{extra}\r\n"
    return raw(head.encode("latin-1") + body)


def chunked(body: bytes) -> Answer:
    """Answer a picture in one chunk."""
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Type: image/png\r\n\r\n"
    return raw(head + b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body))


def redirect(location: str, status: int = 302) -> Answer:
    """Answer a redirect to ``location``."""
    return reply(b"", None, status, f"Location: {location}\r\n")


def drip(head: bytes, piece: bytes, seconds: float) -> Answer:
    """Answer ``head``, then ``piece`` every ``seconds`` without end."""

    async def answer(path: str, writer: asyncio.StreamWriter) -> None:
        writer.write(head)
        while True:
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(seconds)

    return answer


async def silence(path: str, writer: asyncio.StreamWriter) -> None:
    """Never answer."""
    await asyncio.sleep(3600)


def by_path(answers: dict[str, Answer]) -> Answer:
    """Answer each path in its own way."""

    async def answer(path: str, writer: asyncio.StreamWriter) -> None:
        await answers[path](path, writer)

    return answer


def certificate(folder: Path, *names: str) -> tuple[Path, ssl.SSLContext]:
    """A self-signed certificate for host names or addresses, and a server's context with it."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "test")])
    now = datetime.datetime.now(datetime.timezone.utc)
    signed = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName(list(map(_alternative, names))), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    path = folder / "certificate.pem"
    path.write_bytes(signed.public_bytes(serialization.Encoding.PEM))
    key_path = folder / "key.pem"
    key_path.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(path, key_path)
    return path, context


def _alternative(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)
