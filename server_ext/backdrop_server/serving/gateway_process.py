"""The gateway beside a Triton of our own: a process, started again when it dies."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping

from backdrop_server.child_processes import spawn
from backdrop_server.settings import PREFIX

_STOP_SECONDS = 60.0
"""More than the gateway itself takes to let requests end."""
_SHORTEST_PAUSE = 0.5
_LONGEST_PAUSE = 15.0
_QUIET_SECONDS = 60.0
"""A gateway that lived so long has started well: the next pause is the shortest again."""


class GatewayProcess:
    """Looked after from the main thread: the kernel ends the gateway with the thread that began it."""

    def __init__(self, settings: Mapping[str, str], say: Callable[[str], None]) -> None:
        """``settings``: by name, as the environment has them."""
        own = {PREFIX + name.upper(): value for name, value in settings.items()}
        self._environment = os.environ | own
        self._say = say
        self._process: subprocess.Popen[bytes] | None = None
        self._started_at = 0.0
        self._next_at = 0.0
        self._pause = _SHORTEST_PAUSE

    def look_after(self) -> None:
        """Start the gateway if it does not run and its pause is over. Never waits."""
        now = time.monotonic()
        if self._process is not None:
            status = self._process.poll()
            if status is None:
                return
            self._process = None
            self._next_at = now + self._next_pause(now - self._started_at)
            self._say(f"the gateway ended by itself with status {status}; starting it again")
        if now >= self._next_at:
            self._started_at = now
            self._process = self._spawn()

    def stop(self) -> None:
        """Let its open requests end, and end it."""
        process, self._process = self._process, None
        if process is None:
            return
        process.terminate()
        try:
            process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def _next_pause(self, lived: float) -> float:
        longer = min(self._pause * 2, _LONGEST_PAUSE)
        self._pause = _SHORTEST_PAUSE if lived > _QUIET_SECONDS else longer
        return self._pause

    def _spawn(self) -> subprocess.Popen[bytes]:
        # Ctrl-C reaches us alone, and we end it in order.
        command = [sys.executable, "-m", "backdrop_server.gateway"]
        return spawn(command, env=self._environment)
