"""What the logs of killed gateways say of the attempts that they made at jobs."""

from __future__ import annotations

import dataclasses
import itertools
import json
import time
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from tests.gateway.servers import GatewayProcess

_MILLISECOND = 0.001
"""The logs' resolution."""


@dataclasses.dataclass(frozen=True)
class Happening:
    """An attempt begun, or a job's end; ``gateway`` is one start of a process, ``at`` epoch s."""

    event: str
    at: float
    gateway: str
    job: str
    attempt: int


class Deaths:
    """Kills gateways and starts them again; knows when each start of a process was killed."""

    def __init__(self) -> None:
        self.killed_at: dict[str, float] = {}

    def kill(self, gateway: GatewayProcess) -> None:
        """Kill -9, noted under the name that this start of the gateway has in its log."""
        name = [line["gateway"] for line in _lines(gateway) if line["message"] == "serving"][-1]
        self.killed_at[name] = time.time()
        gateway.kill()


def read_histories(gateways: Sequence[GatewayProcess]) -> dict[str, list[Happening]]:
    """By job: what happened to it in any of the gateways, in the order of time."""
    found = [
        Happening(line["message"], _seconds(line), line["gateway"], line["job"], line["attempt"])
        for gateway in gateways
        for line in _lines(gateway)
        if line["message"] in ("attempt begun", "job ended")
    ]
    histories: dict[str, list[Happening]] = defaultdict(list)
    for happening in sorted(found, key=lambda one: (one.at, one.attempt)):
        histories[happening.job].append(happening)
    return histories


def check_history(history: Sequence[Happening], deaths: Deaths) -> None:
    """No two gateways worked on the job at once, and none after its end.

    An attempt follows another only where the process of that one was killed first.
    """
    attempts = [one for one in history if one.event == "attempt begun"]
    for before, after in itertools.pairwise(attempts):
        assert after.attempt > before.attempt
        assert deaths.killed_at[before.gateway] <= after.at + _MILLISECOND
    ends = [one for one in history if one.event == "job ended"]
    assert len(ends) <= 1  # none: killed between the end in the database and the line in the log
    for end in ends:
        assert history[-1] is end
        assert (end.gateway, end.attempt) == (attempts[-1].gateway, attempts[-1].attempt)


def _lines(gateway: GatewayProcess) -> list[dict[str, Any]]:
    lines = gateway.log_file.read_text().splitlines()
    return [json.loads(line) for line in lines if line.startswith("{") and line.endswith("}")]


def _seconds(line: dict[str, Any]) -> float:
    text, _, milliseconds = line["time"].partition(",")
    return time.mktime(time.strptime(text, "%Y-%m-%d %H:%M:%S")) + int(milliseconds) / 1000
