"""Phases of the load bench: closed and open loops against a running Triton, and two ways by turns."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterator
from typing import Any

from rich.console import Console

from backdrop_client.load import Fields, Outcome, Send, offered, poisson, saturated
from backdrop_server.triton.launcher import TritonServer
from benchmarks.load import doors, mix
from benchmarks.load.energy import EnergyMeter
from benchmarks.load.figures import dollars, figures, rows_per_call

IN_FLIGHT = 16
WARM_UP = 2
ROUNDS = 3
"""Of step batching and one at a time by turns; odd."""
ITS_LOAD = 0.8
"""The share of what one at a time can do at which the two ways' latencies are compared."""
MIXES: dict[str, Callable[[int], Iterator[Fields]]] = {"equal": mix.equal, "mixed": mix.mixed}
Row = dict[str, Any]
console = Console()


class Stretches:
    """What was sent in one stretch of time, or in several one after another, and counted meanwhile."""

    def __init__(self, server: TritonServer) -> None:
        self._server = server
        self._outcomes: list[Outcome] = []
        self._span = 0.0
        self._counted = {"calls": 0.0, "rows": 0.0}
        self._joules: float | None = 0.0

    def add(self, seconds: float, work: Callable[[], list[Outcome]]) -> None:
        """A stretch of ``seconds``, or until its last request has ended."""
        energy, before = EnergyMeter(), doors.counters(self._server.metrics_url)
        outcomes = work()
        after, joules = doors.counters(self._server.metrics_url), energy.joules()
        for name in self._counted:
            self._counted[name] += after[name] - before[name]
        none = joules is None or self._joules is None
        self._joules = None if none else (self._joules or 0.0) + (joules or 0.0)
        self._outcomes += [
            dataclasses.replace(one, arrived=one.arrived + self._span, ended=one.ended + self._span)
            for one in outcomes
        ]
        self._span += max([seconds, *(one.ended for one in outcomes if one.error is None)])

    def told(self, per_hour: float) -> Row:
        """Figures of all stretches together; ``per_hour``: dollars of the machine."""
        told = figures(self._outcomes, self._span)
        told["rows_per_call"] = rows_per_call({"calls": 0, "rows": 0}, self._counted)
        told["dollars"] = dollars(told["pictures_per_second"], per_hour)
        made = sum(one.samples for one in self._outcomes if one.error is None)
        told["joules_per_picture"] = None if self._joules is None else round(self._joules / made, 1)
        return told


class Bench:
    """Phases of ``seconds`` each against a running Triton; ``per_hour``: dollars of the machine."""

    def __init__(self, server: TritonServer, seconds: float, per_hour: float, seed: int) -> None:
        self._server = server
        self._seconds = seconds
        self._per_hour = per_hour
        self._seed = seed

    def capacity(self, send: Send, in_flight: int, kind: str = "equal", part: float = 1.0) -> Row:
        """Closed loop: so many requests always at work, for ``part`` of a phase."""
        seconds = part * self._seconds
        for fields in itertools.islice(mix.equal(0), WARM_UP):
            send(fields)
        stretch = Stretches(self._server)
        stretch.add(seconds, lambda: saturated(send, MIXES[kind](self._seed), in_flight, seconds))
        return {"in_flight": in_flight, "mix": kind, **stretch.told(self._per_hour)}

    def by_turns(self, ours: Send, locked: Send) -> tuple[Row, Row, list[Row]]:
        """Ours and one at a time in turn: the capacities of both, and their latencies.

        A machine's speed changes by a quarter within minutes; long phases one after another would
        compare two machines. The capacities are those of the round whose ratio is the median. For
        the latencies each round offers both ways the same arrivals, at ``ITS_LOAD`` of what one at
        a time could do in that round; they are told of all rounds together: a p99 needs many.
        """
        capacities: list[tuple[Row, Row]] = []
        of_locked, of_ours, rates = Stretches(self._server), Stretches(self._server), []
        for number in range(ROUNDS):
            pair = (self.capacity(ours, IN_FLIGHT, part=0.5), self.capacity(locked, 1, part=0.5))
            capacities.append(pair)
            rates.append(ITS_LOAD * pair[1]["requests_per_second"])
            for send, stretches in ((locked, of_locked), (ours, of_ours)):
                self._offer(stretches, send, rates[-1], seed=self._seed + number)
        median = sorted(capacities, key=lambda pair: times_the_pictures(*pair))[ROUNDS // 2]
        mean = round(sum(rates) / ROUNDS, 4)
        rows: list[Row] = [
            {"door": door, "mix": "equal", "offered_per_second": mean, share: ITS_LOAD, **told}
            for door, share, told in (
                ("one at a time", "share_of_own", of_locked.told(self._per_hour)),
                ("gRPC", "share_of_locked", of_ours.told(self._per_hour)),
            )
        ]
        return *median, rows

    def load(
        self,
        send: Send,
        door: str,
        rate: float,
        kind: str = "equal",
        part: float = 1.0,
        **more: Any,
    ) -> Row:
        """Open loop: Poisson arrivals at ``rate`` requests a second, for ``part`` of a phase."""
        console.print(f"{door}: {rate:.2f} requests/s, {kind}")
        stretch = Stretches(self._server)
        self._offer(stretch, send, rate, self._seed, kind, part)
        told = stretch.told(self._per_hour)
        return {"door": door, "mix": kind, "offered_per_second": round(rate, 4), **more, **told}

    def burst(self, send: Send, count: int) -> Row:
        """``count`` requests in the same moment."""
        stretch = Stretches(self._server)
        stretch.add(0.0, lambda: offered(send, mix.equal(self._seed), [0.0] * count))
        return {"together": count, **stretch.told(self._per_hour)}

    def _offer(
        self,
        stretches: Stretches,
        send: Send,
        rate: float,
        seed: int,
        kind: str = "equal",
        part: float = 1.0,
    ) -> None:
        times = poisson(rate, part * self._seconds, seed)
        stretches.add(part * self._seconds, lambda: offered(send, MIXES[kind](seed), times))


def times_the_pictures(ours: Row, theirs: Row) -> float:
    """How many times their pictures a second ours are."""
    times: float = ours["pictures_per_second"] / theirs["pictures_per_second"]
    return round(times, 2)
