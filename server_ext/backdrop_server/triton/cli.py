"""The server's part of the ``backdrop`` command."""

from __future__ import annotations

import collections
import contextlib
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, NoReturn

import typer
from rich.console import Console
from rich.markup import escape

from backdrop_server.errors import BackdropError, SetupError
from backdrop_server.triton.demo import run_demo
from backdrop_server.triton.launcher import LaunchSettings, TritonServer

console = Console(stderr=True, highlight=False)

MAX_DEATHS = 5
DEATHS_WITHIN = 300.0
"""Seconds: a server that dies this often this fast is not started again."""

Repository = Annotated[Path, typer.Option(help="A built model repository (backdrop-export).")]
Port = Annotated[int, typer.Option(help="0 takes any free port.", min=0, max=65535)]
Host = Annotated[
    str,
    typer.Option(
        help="IPv4 address to listen on. Triton has no keys: others than loopback only behind "
        "something that has."
    ),
]
Binary = Annotated[Path | None, typer.Option(help="This tritonserver instead of the one found.")]
StartTimeout = Annotated[
    float,
    typer.Option(
        help="Seconds until the models must be ready; TensorRT's provider builds its engines then.",
        min=1,
    ),
]
LogFile = Annotated[Path | None, typer.Option(help="File for the server's whole log.")]


def register(app: typer.Typer) -> None:
    """Add the server's commands to ``app``."""
    app.command()(serve)
    app.command()(demo)


def serve(
    repository: Repository,
    host: Host = "127.0.0.1",
    http_port: Port = 8000,
    grpc_port: Port = 8001,
    metrics_port: Port = 8002,
    tritonserver: Binary = None,
    log_file: LogFile = None,
    start_timeout: StartTimeout = 600.0,
) -> None:
    """Serve a built repository until interrupted; start it again if it dies."""
    settings = LaunchSettings(
        repository, host, http_port, grpc_port, metrics_port, tritonserver, log_file, start_timeout
    )
    # SIGTERM takes the same way out as Ctrl-C, also where a shell had it ignored: nothing is left.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.default_int_handler)
    try:
        _serve_again_and_again(settings)
    except KeyboardInterrupt:
        console.print("stopped")
    except SetupError as error:
        _fail(str(error))


def _serve_again_and_again(settings: LaunchSettings) -> NoReturn:
    deaths: collections.deque[float] = collections.deque(maxlen=MAX_DEATHS)
    while True:
        with _start(settings) as server:
            settings = server.settings_with_its_ports()
            console.print(
                f"Triton is ready: gRPC {server.grpc_url}, HTTP {server.http_url}, "
                f"metrics {server.metrics_url}. Ctrl-C stops it.",
                soft_wrap=True,
            )
            status = server.wait()
        deaths.append(time.monotonic())
        if len(deaths) == MAX_DEATHS and deaths[-1] - deaths[0] < DEATHS_WITHIN:
            _fail(f"tritonserver ended {MAX_DEATHS} times in a row, now with status {status}")
        console.print(f"tritonserver ended by itself with status {status}; starting it again")


def demo(
    repository: Repository,
    out: Annotated[Path, typer.Option(help="Folder for the pictures.")],
    tritonserver: Binary = None,
    log_file: LogFile = None,
) -> None:
    """Start a server on free ports, send one request over gRPC and one over HTTP, stop it."""
    settings = LaunchSettings(
        repository,
        http_port=0,
        grpc_port=0,
        metrics_port=0,
        tritonserver=tritonserver,
        log_file=log_file,
    )
    try:
        with _start(settings) as server:
            run_demo(server, out, console)
    except KeyboardInterrupt:
        _fail("interrupted")
    except BackdropError as error:
        _fail(str(error))


@contextlib.contextmanager
def _start(settings: LaunchSettings) -> Iterator[TritonServer]:
    server = TritonServer(settings, _print_line)
    try:
        with console.status("starting Triton and loading the engines"):
            server.start()
        yield server
    finally:
        with console.status("stopping Triton"):
            server.stop()


def _print_line(line: str) -> None:
    """A line of Triton's log as it is: brackets in it are no markup."""
    console.print(line, markup=False, soft_wrap=True)


def _fail(reason: str) -> NoReturn:
    console.print(f"[red]error:[/] {escape(reason)}", soft_wrap=True)
    sys.exit(1)
