"""`backdrop serve`: a Triton of our own and the gateway before it, both started again if they die."""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Iterator
from typing import NoReturn

from rich.console import Console

from backdrop_server.errors import SetupError
from backdrop_server.gateway.server import make_first_key, run_gateway
from backdrop_server.serving.gateway_process import GatewayProcess
from backdrop_server.settings import Settings
from backdrop_server.triton.launcher import LaunchSettings, TritonServer
from backdrop_server.triton.supervisor import Supervisor

MAX_FAILURES = 5
"""A Triton that cannot be started again so often in a row is given up."""
_SHORTEST_PAUSE = 0.5
_LONGEST_PAUSE = 2.0
_SOUND_SECONDS = 2.0
"""A Triton that was ready for so long is started again at once; else after longer and longer pauses.
One that its first requests kill does not get there: they wait for it, and come at once."""
_LOOK_SECONDS = 0.1


def serve_with_own_triton(
    launch: LaunchSettings, settings: Settings, flags: dict[str, str], console: Console
) -> NoReturn:
    """Serve until interrupted. ``flags``: settings that the command line gave, as text.

    Raises SetupError with the reason where something cannot start.
    """
    launch = dataclasses.replace(launch, cache_bytes=settings.triton_cache * 2**20)
    gateway: GatewayProcess | None = None
    restarts = _Restarts()
    try:
        while True:
            try:
                with starting(launch, console) as server:
                    # The next one is proven by the requests that wait for it.
                    launch = dataclasses.replace(
                        server.settings_with_its_ports(), first_pictures=False
                    )
                    restarts.ready()
                    _say_ready(server, console)
                    gateway = gateway or _start_gateway(server, settings, flags, console)
                    reason = _watch(server, gateway, settings)
            except SetupError as error:
                if gateway is None or restarts.failed_too_often():
                    raise
                reason = str(error)
            console.print(f"{reason}; starting it again", markup=False, soft_wrap=True)
            time.sleep(restarts.pause())
    finally:
        if gateway is not None:
            gateway.stop()


class _Restarts:
    """How long to wait before Triton is started again, and when that is given up."""

    def __init__(self) -> None:
        self._pause = _SHORTEST_PAUSE
        self._ready_at = -_SOUND_SECONDS
        self._failures = 0

    def ready(self) -> None:
        """Triton can make pictures."""
        self._ready_at = time.monotonic()
        self._failures = 0

    def failed_too_often(self) -> bool:
        """Whether this failure to start was one too many."""
        self._failures += 1
        return self._failures >= MAX_FAILURES

    def pause(self) -> float:
        """Seconds: none for a Triton that was sound, more and more for one that was not."""
        if not self._failures and time.monotonic() - self._ready_at >= _SOUND_SECONDS:
            self._pause = _SHORTEST_PAUSE
            return 0.0
        now, self._pause = self._pause, min(2 * self._pause, _LONGEST_PAUSE)
        return now


def _say_ready(server: TritonServer, console: Console) -> None:
    console.print(
        f"Triton is ready: gRPC {server.grpc_url}, HTTP {server.http_url}, "
        f"metrics {server.metrics_url}. Ctrl-C stops it.",
        soft_wrap=True,
    )


def _start_gateway(
    server: TritonServer, settings: Settings, flags: dict[str, str], console: Console
) -> GatewayProcess:
    show_first_key(settings, console)
    own = flags | {"triton_url": server.http_url}
    gateway = GatewayProcess(own, lambda line: console.print(line, markup=False))
    gateway.start()
    console.print(f"the gateway starts at {settings.host}:{settings.port}")
    return gateway


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


def _watch(server: TritonServer, gateway: GatewayProcess, settings: Settings) -> str:
    """Wait until Triton is ill, and end it then; why."""
    supervisor = Supervisor(server, settings.triton_memory)
    try:
        while (reason := supervisor.look()) is None:
            time.sleep(_LOOK_SECONDS)
    except BaseException:
        gateway.stop()  # before Triton: it has requests there
        raise
    server.kill()  # at once: its clients hear of it, and ask again
    return reason


def _print_line(console: Console, line: str) -> None:
    """A line of Triton's log as it is: brackets in it are no markup."""
    console.print(line, markup=False, soft_wrap=True)
