"""Energy that a run used, where the processor counts it (RAPL, whole packages)."""

from __future__ import annotations

from pathlib import Path

POWERCAP = Path("/sys/class/powercap")
NONE = "the machine tells none"


class EnergyMeter:
    """Counts from when it was made. Source: the kernel's powercap interface, in microjoules."""

    def __init__(self, folder: Path = POWERCAP) -> None:
        self._packages = sorted(folder.glob("intel-rapl:[0-9]")) if folder.is_dir() else []
        self._begun = self._read()

    def joules(self) -> float | None:
        """Since the start; None where the machine tells none, or not to us."""
        ended = self._read()
        if not self._begun or self._begun.keys() != ended.keys():
            return None
        used = 0
        for package, before in self._begun.items():
            more = ended[package] - before
            if more < 0:  # the counter began anew
                more += int((package / "max_energy_range_uj").read_text())
            used += more
        return used / 1e6

    def _read(self) -> dict[Path, int]:
        try:
            return {p: int((p / "energy_uj").read_text()) for p in self._packages}
        except OSError:  # for root alone, on most machines
            return {}
