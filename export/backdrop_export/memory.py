"""The most memory that a piece of work took."""

from __future__ import annotations

import contextlib
import re
from pathlib import Path
from types import TracebackType

_RESET_PEAK = "5"
"""What Linux wants in ``clear_refs`` to begin a new ``VmHWM`` (proc(5))."""


class PeakMemory:
    """A context whose ``peak_bytes`` is then this process's largest resident size inside it."""

    peak_bytes = 0

    def __enter__(self) -> PeakMemory:
        with contextlib.suppress(OSError):  # then the peak is that of the whole process
            Path("/proc/self/clear_refs").write_text(_RESET_PEAK)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
        self.peak_bytes = int(found[1]) * 1024 if found else 0
