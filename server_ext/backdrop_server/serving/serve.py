"""`backdrop serve`: a Triton of our own and the gateway before it, both started again if they die."""

from __future__ import annotations

import collections
import contextlib
import time
from collections.abc import Iterator
from typing import NoReturn

from rich.console import Console

from backdrop_server.errors import SetupError
from backdrop_server.gateway.server import make_first_key, run_gateway
from backdrop_server.serving.gateway_process import GatewayProcess
from backdrop_server.settings import Settings
from backdrop_server.triton.launcher import LaunchSettings, TritonServer

MAX_DEATHS = 5
DEATHS_WITHIN = 300.0
"""Seconds: a Triton that dies this often this fast is not started again."""
_LOOK_SECONDS = 0.1


def serve_with_own_triton(
    launch: LaunchSettings, settings: Settings, flags: dict[str, str], console: Console
) -> NoReturn:
    """Serve until interrupted. ``flags``: settings that the command line gave, as text.

    Raises SetupError with the reason where something cannot start.
    """
    deaths: collections.deque[float] = collections.deque(maxlen=MAX_DEATHS)
    gateway: GatewayProcess | None = None
    try:
        while True:
            with starting(launch, console) as server:
                launch = server.settings_with_its_ports()
                console.print(
                    f"Triton is ready: gRPC {server.grpc_url}, HTTP {server.http_url}, "
                    f"metrics {server.metrics_url}. Ctrl-C stops it.",
                    soft_wrap=True,
                )
                if gateway is None:
                    show_first_key(settings, console)
                    own = flags | {"triton_url": server.http_url}
                    gateway = GatewayProcess(own, lambda line: console.print(line, markup=False))
                    console.print(f"the gateway starts at {settings.host}:{settings.port}")
                status = _watch(server, gateway)
            deaths.append(time.monotonic())
            if len(deaths) == MAX_DEATHS and deaths[-1] - deaths[0] < DEATHS_WITHIN:
                raise SetupError(
                    f"tritonserver ended {MAX_DEATHS} times in a row, now with status {status}"
                )
            console.print(f"tritonserver ended by itself with status {status}; starting it again")
    finally:
        if gateway is not None:
            gateway.stop()


def serve_gateway_alone(settings: Settings, console: Console) -> None:
    """Serve before a Triton elsewhere, in this process."""
    show_first_key(settings, console)
    run_gateway(settings)


def show_first_key(settings: Settings, console: Console) -> None:
    """On the first start with this database: make a key and print it, this once."""
    text = make_first_key(settings)
    if text is not None:
        console.print(
            f"first key, shown this once: {text} (more: backdrop keys create)",
            soft_wrap=True,
            markup=False,
        )


@contextlib.contextmanager
def starting(launch: LaunchSettings, console: Console) -> Iterator[TritonServer]:
    """A Triton, started with a sign of life on the console, and stopped at the end."""
    server = TritonServer(launch, lambda line: _print_line(console, line))
    try:
        with console.status("starting Triton and loading the engines"):
            server.start()
        yield server
    finally:
        with console.status("stopping Triton"):
            server.stop()


def _watch(server: TritonServer, gateway: GatewayProcess) -> int:
    """Look after both until Triton ends; its exit status."""
    try:
        while (status := server.poll()) is None:
            gateway.look_after()
            time.sleep(_LOOK_SECONDS)
    except BaseException:
        gateway.stop()  # before Triton: it has requests there
        raise
    return status


def _print_line(console: Console, line: str) -> None:
    """A line of Triton's log as it is: brackets in it are no markup."""
    console.print(line, markup=False, soft_wrap=True)
