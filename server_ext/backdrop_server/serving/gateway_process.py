"""The gateway beside a Triton of our own: a process, started again when it dies or stands still."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping

import psutil

from backdrop_server.child_processes import spawn
from backdrop_server.settings import PREFIX
from backdrop_server.triton.vitals import STOPPED_FOR

_STOP_SECONDS = 60.0
"""More than the gateway itself takes to let requests end."""
_SHORTEST_PAUSE = 0.5
_LONGEST_PAUSE = 15.0
_SOUND_SECONDS = 5.0
"""A gateway that lived so long has started well: the next pause is the shortest again."""
_LOOK_SECONDS = 0.1


class GatewayProcess:
    """Looked after by a thread of its own, so that it lives through whatever Triton needs.

    The kernel ends the gateway with the thread that began it, and so with this process.
    """

    def __init__(self, settings: Mapping[str, str], say: Callable[[str], None]) -> None:
        """``settings``: by name, as the environment has them."""
        own = {PREFIX + name.upper(): value for name, value in settings.items()}
        self._environment = os.environ | own
        self._say = say
        self._process: subprocess.Popen[bytes] | None = None
        self._started_at = self._next_at = 0.0
        self._stopped_at: float | None = None
        self._pause = _SHORTEST_PAUSE
        self._is_over = threading.Event()
        self._keeper = threading.Thread(target=self._keep, name="gateway-keeper", daemon=True)

    def start(self) -> None:
        """Start it and look after it until ``stop``."""
        self._keeper.start()

    def stop(self) -> None:
        """Let its open requests end, and end it."""
        self._is_over.set()
        if self._keeper.ident is not None:
            self._keeper.join()

    def _keep(self) -> None:
        while not self._is_over.wait(_LOOK_SECONDS):
            self._look_after(time.monotonic())
        self._end()

    def _look_after(self, now: float) -> None:
        """Start the gateway if it does not run and its pause is over. Never waits."""
        if self._process is not None:
            reason = self._reason_to_restart(self._process, now)
            if reason is None:
                return
            self._process = self._stopped_at = None
            self._next_at = now + self._next_pause(now - self._started_at)
            self._say(f"the gateway {reason}; starting it again")
        if now >= self._next_at:
            self._started_at = now
            self._process = self._spawn()

    def _reason_to_restart(self, process: subprocess.Popen[bytes], now: float) -> str | None:
        status = process.poll()
        if status is not None:
            return f"ended by itself with status {status}"
        if not _stands_still(process.pid):
            self._stopped_at = None
            return None
        self._stopped_at = self._stopped_at or now
        if now - self._stopped_at < STOPPED_FOR:
            return None
        process.kill()
        process.wait()
        return "stood still"

    def _end(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        process.terminate()
        process.send_signal(signal.SIGCONT)
        try:
            process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def _next_pause(self, lived: float) -> float:
        longer = min(self._pause * 2, _LONGEST_PAUSE)
        self._pause = _SHORTEST_PAUSE if lived > _SOUND_SECONDS else longer
        return self._pause

    def _spawn(self) -> subprocess.Popen[bytes]:
        # Ctrl-C reaches us alone, and we end it in order.
        command = [sys.executable, "-m", "backdrop_server.gateway"]
        return spawn(command, env=self._environment)


def _stands_still(pid: int) -> bool:
    """Whether a process was stopped by a signal."""
    with contextlib.suppress(psutil.Error):
        return bool(psutil.Process(pid).status() == psutil.STATUS_STOPPED)
    return False
