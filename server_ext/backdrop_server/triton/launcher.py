"""Starting a tritonserver on a built repository, and stopping it cleanly."""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import errno
import http.client
import os
import re
import secrets
import shutil
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import IO

from backdrop_server.child_processes import spawn
from backdrop_server.errors import SetupError
from backdrop_server.triton.board import SHM_FOLDER, Board, board_path
from backdrop_server.triton.install import TritonInstall, find_tritonserver
from backdrop_server.triton.leftovers import end_group, sweep_dead_servers
from backdrop_server.triton.warmup import warm_up

_HARMLESS = ("NVML", "DCGM", "CudaDriverHelper", "CUDA memory pool", "pinned memory", "CUDA driver")
_RESTRICTED_HTTP = "shared-memory,model-repository,trace,logging"
_BACKEND_LINE = re.compile(r'^backend: *"(\w+)"', re.MULTILINE)
_LOG_TEXT = re.compile(r'^[WE]\d{4} .*?\] "(.*)"$')
_LOAD_FAILURE = re.compile(r"failed to load '(\w+)' version \d+: (?:[A-Z][\w ]*: )*(.*)")
_TRACE = r"\n\nAt:\n"  # as Triton's log writes line ends
_IDLE_CLIENTS = "HTTP service connections"
_IDLE_GRACE = 1.0
"""Seconds that an answer may take to its client after `postprocess` is done with it."""
_TRITON_SCRATCH = Path("/tmp")  # noqa: S108 (where Triton makes python_env_*, whatever TMPDIR says)
_EVERY_ADDRESS = "0.0.0.0"  # noqa: S104 (only where the operator asks for it)


@dataclasses.dataclass(frozen=True)
class LaunchSettings:
    """What a server is started with; a port of 0 means any free one."""

    repository: Path
    host: str = "127.0.0.1"
    http_port: int = 8000
    grpc_port: int = 8001
    metrics_port: int = 8002
    tritonserver: Path | None = None
    log_file: Path | None = None
    start_timeout: float = 180.0
    stop_timeout: float = 10.0
    cache_bytes: int = 64 * 2**20
    """The most that answers of the text and image encoders take; the oldest go first."""
    first_pictures: bool = True
    """Make pictures before the server counts as started; a repository of other models has none."""


class TritonServer:
    """A running tritonserver; a context manager that stops it."""

    def __init__(self, settings: LaunchSettings, on_line: Callable[[str], None] = print) -> None:
        """``on_line`` gets the server's own warnings and errors, harmless ones left out."""
        if not (settings.repository / "replace_background" / "config.pbtxt").is_file():
            raise SetupError(
                f"{settings.repository} is not a built model repository; "
                "make one with: backdrop-export repository"
            )
        self._settings = settings
        self._on_line = on_line
        self._install = find_tritonserver(settings.tritonserver)
        self.http_port, self.grpc_port, self.metrics_port = _claim_ports(settings)
        self._process: subprocess.Popen[str] | None = None
        self._log_reader = threading.Thread()
        self._runtime: Path | None = None
        self._scratch: set[Path] = set()
        self._last_lines: collections.deque[str] = collections.deque(maxlen=200)
        self._prefix = f"backdrop-{os.getpid()}-{secrets.token_hex(4)}-"

    @property
    def pid(self) -> int:
        """Process id of the tritonserver."""
        if self._process is None:
            raise SetupError("the server is not started")
        return self._process.pid

    @property
    def http_url(self) -> str:
        """Host and port for ``tritonclient.http``."""
        return f"{self._reachable}:{self.http_port}"

    @property
    def grpc_url(self) -> str:
        """Host and port for ``tritonclient.grpc``."""
        return f"{self._reachable}:{self.grpc_port}"

    @property
    def metrics_url(self) -> str:
        """Host and port of the metrics page."""
        return f"{self._reachable}:{self.metrics_port}"

    @property
    def _reachable(self) -> str:
        """Where this machine reaches the server: a server on every address is on loopback too."""
        return "127.0.0.1" if self._settings.host == _EVERY_ADDRESS else self._settings.host

    def settings_with_its_ports(self) -> LaunchSettings:
        """Its settings with the ports that it took, to start it again at the same ones."""
        return dataclasses.replace(
            self._settings,
            http_port=self.http_port,
            grpc_port=self.grpc_port,
            metrics_port=self.metrics_port,
        )

    def start(self) -> None:
        """Start, and wait until pictures can be made. Raises SetupError with the reason.

        Call it from a thread that lives as long as the server: the kernel ends the server with it.
        """
        sweep_dead_servers()
        others = set(_TRITON_SCRATCH.glob("python_env_*"))
        try:
            self._launch()
            try:
                self._wait_until_ready()
            finally:
                self._scratch = set(_TRITON_SCRATCH.glob("python_env_*")) - others
            if self._settings.first_pictures:
                warm_up(self.grpc_url)
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Let requests in flight end, end the server and its stubs, remove what they leave.

        Takes at most ``stop_timeout``; an idle client's open connection does not hold it up.
        """
        process = self._process
        try:
            if process is not None:
                process.terminate()
                self._drain(process)
        finally:
            if process is not None:
                end_group(process.pid)
                process.wait()
                self._log_reader.join()
                board_path(process.pid).unlink(missing_ok=True)
            self._process = None
            self._remove_leftovers()

    def _launch(self) -> None:
        self._last_lines.clear()
        self._runtime = Path(tempfile.mkdtemp(prefix=f"backdrop-{os.getpid()}-"))
        needed = _backends_of(self._settings.repository)
        backends = self._install.backend_folder(needed, self._runtime)
        log = _open_log(self._settings.log_file or Path(os.devnull))
        try:
            self._process = _spawn(self._install, self._command(backends))
        except OSError as error:
            log.close()
            raise SetupError(f"cannot run {self._install.binary}: {error.strerror}") from None
        self._log_reader = threading.Thread(
            target=self._read_log, args=(self._process.stdout, log), daemon=True
        )
        self._log_reader.start()

    def _drain(self, process: subprocess.Popen[str]) -> None:
        """Wait for the end of the server, or until only idle clients keep it, or time is up."""
        now = busy_at = time.monotonic()
        deadline = now + self._settings.stop_timeout
        while process.poll() is None and now < min(deadline, busy_at + _IDLE_GRACE):
            time.sleep(0.05)
            now = time.monotonic()
            if not self._waits_for_idle_clients(process):
                busy_at = now

    def _waits_for_idle_clients(self, process: subprocess.Popen[str]) -> bool:
        """Whether Triton waits for open HTTP connections although no request is in the server."""
        last_line = self._last_lines[-1] if self._last_lines else ""
        return _IDLE_CLIENTS in last_line and _is_empty(board_path(process.pid))

    def _remove_leftovers(self) -> None:
        for file in SHM_FOLDER.glob(f"{self._prefix}*"):
            file.unlink(missing_ok=True)
        if self._runtime is not None:
            shutil.rmtree(self._runtime, ignore_errors=True)
        for folder in self._scratch:  # empty; still there only if the server was killed
            with contextlib.suppress(OSError):
                folder.rmdir()

    def is_ready(self) -> bool:
        """Whether Triton says that all models can serve."""
        # Not urllib: that one would send this through the proxy that the environment names.
        connection = http.client.HTTPConnection(self._reachable, self.http_port, timeout=2)
        try:
            connection.request("GET", "/v2/health/ready")
            return connection.getresponse().status == 200
        except (http.client.HTTPException, OSError):
            return False
        finally:
            connection.close()

    def kill(self) -> None:
        """End the server and its stubs at once, with all requests in it; ``stop`` does the rest."""
        if self._process is not None:
            end_group(self._process.pid)

    def poll(self) -> int | None:
        """The exit status of the server's process; None while it runs."""
        if self._process is None:
            raise SetupError("the server is not started")
        return self._process.poll()

    def __enter__(self) -> TritonServer:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    def _command(self, backends: Path) -> list[str]:
        token, host = secrets.token_hex(16), self._settings.host
        return [
            str(self._install.binary),
            f"--model-repository={self._settings.repository.resolve()}",
            f"--backend-directory={backends}",
            f"--backend-config=python,shm-region-prefix-name={self._prefix}",
            f"--cache-directory={self._install.caches}",
            f"--cache-config=local,size={self._settings.cache_bytes}",
            *(f"--http-address={host}", f"--http-port={self.http_port}"),
            *(f"--grpc-address={host}", f"--grpc-port={self.grpc_port}"),
            *(f"--metrics-address={host}", f"--metrics-port={self.metrics_port}"),
            f"--http-restricted-api={_RESTRICTED_HTTP}:backdrop-token={token}",
            f"--grpc-restricted-protocol={_RESTRICTED_HTTP}:backdrop-token={token}",
            f"--exit-timeout-secs={max(1, int(self._settings.stop_timeout) - 2)}",
            "--log-verbose=0",
            # Our configurations are whole; completing them would start every stub twice.
            "--disable-auto-complete-config",
            f"--model-load-thread-count={len(os.sched_getaffinity(0))}",  # each is a process at work
            "--grpc-infer-allocation-pool-size=1",  # idle request objects keep their pictures
        ]

    def _wait_until_ready(self) -> None:
        deadline = time.monotonic() + self._settings.start_timeout
        while not self.is_ready():
            if self._process is None or self._process.poll() is not None:
                raise SetupError(f"tritonserver did not start: {self._reason()}")
            if time.monotonic() > deadline:
                seconds = self._settings.start_timeout
                raise SetupError(
                    f"tritonserver was not ready after {seconds:.0f} s; --start-timeout allows more"
                )
            time.sleep(0.1)

    def _reason(self) -> str:
        """Why the server ended, in its own words without traces: the first failure counts."""
        self._log_reader.join(timeout=5)  # it ends with the server
        lines = [_sentence(line) for line in self._last_lines if _is_error(line)]
        failures = [match for match in map(_LOAD_FAILURE.search, lines) if match]
        if failures:
            model, reason = failures[0].groups()
            return f"model {model}: {reason}"
        return next(iter(lines), "it printed no reason")

    def _read_log(self, output: IO[str], log: IO[str]) -> None:
        with output, log:
            for line in output:
                log.write(line)
                log.flush()
                self._last_lines.append(line.rstrip())
                if _is_error(line):
                    self._on_line(_sentence(line))


def _open_log(path: Path) -> IO[str]:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return path.open("a", encoding="utf-8")
    except OSError as error:
        raise SetupError(f"cannot write the log file {path}: {error.strerror}") from None


def _spawn(install: TritonInstall, command: list[str]) -> subprocess.Popen[str]:
    return spawn(
        command,
        env=install.environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    )


def _backends_of(repository: Path) -> set[str]:
    """Names in the ``backend`` lines of a repository."""
    configs = repository.glob("*/config.pbtxt")
    return {name for path in configs for name in _BACKEND_LINE.findall(path.read_text())}


def _is_error(line: str) -> bool:
    """Whether a log line is a warning or an error that a user should see."""
    return line[:1] in "WE" and line[1:2].isdigit() and not any(s in line for s in _HARMLESS)


def _sentence(line: str) -> str:
    """What a log line says, without time, place in Triton's source, and Python trace."""
    found = _LOG_TEXT.match(line.rstrip())
    return (found[1] if found else line.rstrip()).partition(_TRACE)[0]


def _is_empty(path: Path) -> bool:
    """Whether the board at ``path`` says that no request is in its server."""
    if not path.exists():
        return False
    with contextlib.closing(Board(path)) as board:
        return board.count_live() == 0


def _claim_ports(settings: LaunchSettings) -> tuple[int, int, int]:
    wanted = (settings.http_port, settings.grpc_port, settings.metrics_port)
    sockets = []
    try:
        for port in wanted:
            probe = socket.socket()
            sockets.append(probe)
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((settings.host, port))
            except OSError as error:
                if error.errno != errno.EADDRINUSE:
                    reason = f"cannot listen on {settings.host}: {error.strerror or error}"
                    raise SetupError(reason) from None
                raise SetupError(f"port {port} is taken; choose another one") from None
            if port and wanted.count(port) > 1:
                raise SetupError(f"port {port} is given twice; each protocol needs its own")
        http_port, grpc_port, metrics_port = (probe.getsockname()[1] for probe in sockets)
        return http_port, grpc_port, metrics_port
    finally:
        for probe in sockets:
            probe.close()
