"""Whether every process of a tritonserver lives: Triton itself says ready while a Python stub is dead.

Triton 24.10 never starts a dead stub again; requests that need it fail until the server is started
anew. A process that was stopped (SIGSTOP) or that hangs holds up all others in the same way.
"""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Callable
from pathlib import Path

import psutil

STOPPED_FOR = 0.75
"""Seconds after which a stopped process counts as dead: a debugger's short halt does not."""
_ENDED = (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD)
_STUB = "triton_python_backend_stub"


@dataclasses.dataclass(frozen=True)
class Ailment:
    """What is wrong with a server: one clause for the log; ``process`` is its name in metrics."""

    process: str
    pid: int
    what: str

    def __str__(self) -> str:
        return f"{self.process} (process {self.pid}) {self.what}"


class Vitals:
    """Watches a tritonserver and its stubs by their process ids; asks none of them anything."""

    def __init__(self, pid: int, clock: Callable[[], float] = time.monotonic) -> None:
        """``pid`` is a server that is ready, so that all its stubs are there."""
        self._watched: dict[psutil.Process, str] = {}
        with contextlib.suppress(psutil.NoSuchProcess):  # gone already: whoever waits for it hears
            server = psutil.Process(pid)
            self._watched[server] = "tritonserver"
            for child in server.children(recursive=True):
                model = model_of(child)
                if model is not None:
                    self._watched[child] = f"the stub of {model}"
        self._clock = clock
        self._stopped_at: dict[psutil.Process, float] = {}

    @property
    def stubs(self) -> dict[int, str]:
        """Process ids of the stubs, with what they are called."""
        return {p.pid: name for p, name in self._watched.items() if name != "tritonserver"}

    def look(self) -> Ailment | None:
        """The first ailment that is seen now; None where all is well. Never waits."""
        for process, name in self._watched.items():
            what = self._ailment_of(process)
            if what is not None:
                return Ailment(name, process.pid, what)
        return None

    def memory(self) -> int:
        """Bytes that the server and its stubs hold for themselves; shared pages count for none."""
        held = 0
        for process in self._watched:
            with contextlib.suppress(psutil.Error):
                usage = process.memory_info()
                held += usage.rss - usage.shared
        return held

    def _ailment_of(self, process: psutil.Process) -> str | None:
        try:
            status = process.status() if process.is_running() else psutil.STATUS_DEAD
        except psutil.NoSuchProcess:
            status = psutil.STATUS_DEAD
        if status in _ENDED:
            return "has died"
        if status != psutil.STATUS_STOPPED:
            self._stopped_at.pop(process, None)
            return None
        since = self._stopped_at.setdefault(process, self._clock())
        return "stands still" if self._clock() - since >= STOPPED_FOR else None


def model_of(process: psutil.Process) -> str | None:
    """The model whose stub a process is; None for any other process."""
    try:
        command = process.cmdline()
    except psutil.Error:
        return None
    if len(command) < 2 or Path(command[0]).name != _STUB:
        return None
    return Path(command[1]).parent.parent.name  # <model>/<version>/<file>
