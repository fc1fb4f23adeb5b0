"""Who steps when more rows are in flight than one engine call takes."""

from __future__ import annotations

import dataclasses
import math
import random
from collections.abc import Callable, Sequence

import numpy as np
import pytest

from backdrop_server.stages.denoise import State
from backdrop_server.stages.turns import OWN_SHARE, Turns
from tests.unit.test_denoise import make_encoded, start

LIMIT = 8


@dataclasses.dataclass
class Flight:
    """States by name, and when each came and ended: in rows evaluated so far."""

    take: Callable[[Sequence[State]], list[list[State]]]
    enter: Callable[[State], None]
    rows_done: int = 0
    live: dict[str, State] = dataclasses.field(default_factory=dict)
    ended: dict[str, int] = dataclasses.field(default_factory=dict)

    def add(self, name: str, samples: int, steps: int) -> None:
        state = start(seeds=tuple(range(samples)), scheduler="Euler", num_inference_steps=steps)
        self.enter(state)
        self.live[name] = state

    def step(self) -> list[str]:
        (group,) = self.take(list(self.live.values()))
        for state in group:
            state.evaluations += 1
        self.rows_done += sum(state.rows for state in group)
        stepped = [name for name, state in self.live.items() if state in group]
        for name in stepped:
            if self.live[name].finished:
                self.ended[name] = self.rows_done
                del self.live[name]
        return stepped

    def finish(self) -> dict[str, int]:
        while self.live:
            self.step()
        return self.ended


def by_turns() -> Flight:
    one = Turns(LIMIT)
    return Flight(one.take, one.enter)


def shared() -> Flight:
    """All take every step, however many calls that makes."""
    return Flight(lambda states: [list(states)], lambda state: None)


def test_all_that_fit_into_a_call_step_together() -> None:
    flight = by_turns()
    for name, samples in (("a", 1), ("b", 2), ("c", 1)):
        flight.add(name, samples, 5)
    assert flight.step() == ["a", "b", "c"]


def test_equal_requests_end_in_the_order_in_which_they_came() -> None:
    flight = by_turns()
    for name in "abcdefghij":
        flight.add(name, 1, 5)
    assert flight.step() == ["a", "b", "c", "d"]
    ended = flight.finish()
    assert list(ended) == list("abcdefghij")
    assert [ended[name] for name in "dhj"] == [40, 80, 100]


def test_a_place_that_a_large_one_leaves_is_filled() -> None:
    flight = by_turns()
    for name, samples, steps in (("a", 3, 5), ("b", 2, 6), ("c", 1, 7)):
        flight.add(name, samples, steps)
    assert flight.step() == ["a", "c"]


def test_one_that_is_larger_than_a_call_is_taken_alone() -> None:
    flight = by_turns()
    flight.add("a", 5, 5)
    flight.add("b", 1, 20)
    assert flight.step() == ["a"]


def test_each_size_has_a_call_of_its_own() -> None:
    one = Turns(LIMIT)
    small = [start(scheduler="Euler") for _ in range(6)]
    wide = start(make_encoded(128, 64), scheduler="Euler")
    for state in (*small, wide):
        one.enter(state)
    groups = one.take([*small, wide])
    assert sorted(len(group) for group in groups) == [1, LIMIT // small[0].rows]


LOADS = {
    "a small one after large ones": [(0, 4, 50), (0, 4, 50), (0, 4, 50), (40, 1, 5)],
    "a large one among many small ones": [(0, 4, 20), *((8 * n, 1, 5) for n in range(40))],
    "all kinds": [(11 * n, 1 + n % 4, 5 + 7 * (n % 5)) for n in range(30)],
}


@pytest.mark.parametrize("load", LOADS.values(), ids=LOADS)
def test_nobody_ends_later_than_if_all_shared_every_step(load: list[tuple[int, int, int]]) -> None:
    ended = {}
    for way in (by_turns, shared):
        flight, coming = way(), [*enumerate(load)]
        while coming or flight.live:
            while coming and (coming[0][1][0] <= flight.rows_done or not flight.live):
                number, (_, samples, steps) = coming.pop(0)
                flight.add(str(number), samples, steps)
            flight.step()
        ended[way] = flight.ended
    rounding = 4 * LIMIT  # rows come in whole steps, and those of a call in whole requests
    late = [ended[by_turns][name] - ended[shared][name] for name in ended[shared]]
    assert max(late) <= rounding
    assert sum(late) < 0


def test_those_who_left_do_not_hold_up_the_clock() -> None:
    one = Turns(LIMIT)
    for _ in range(50):
        one.enter(start(scheduler="Euler", num_inference_steps=50))  # and none of them goes on
    large = start(scheduler="Euler", num_inference_steps=50, seeds=(1, 2, 3))
    one.enter(large)
    for _ in range(30):
        one.take([large])
        large.evaluations += 1
    late = start(scheduler="Euler", num_inference_steps=30, seeds=(1, 2, 3))
    one.enter(late)
    assert one.take([late, large]) == [[large]]


def test_a_stream_without_end_does_not_keep_a_large_one_waiting() -> None:
    """Each of four places asks anew as soon as it is served, for 10 steps; the large one wants 50.
    While it waits, 8 of the 12 rows in flight are evaluated: 10 steps are 6.7 of the clock."""
    flight = by_turns()
    for place in range(4):
        flight.add(f"{place}", 1, 10)
    flight.add("large", 2, 50)
    passed = 0
    while "large" in flight.live:
        flight.step()
        for place in range(4):
            if f"{place}" not in flight.live:
                passed += 1
                flight.add(f"{place}", 1, 10)
    waited = 4 * math.ceil(OWN_SHARE * (50 - 10) / (10 * 8 / 12))
    beside = 2 * 5  # two places of a call are left while it takes its 50 steps
    assert passed == waited + beside


def waits(flight: Flight, seed: int) -> list[int]:
    """Rows evaluated while each of 300 requests was in flight; each of 16 places asks anew at once."""
    kinds = random.Random(seed)
    begun: dict[str, int] = {}
    while len(flight.ended) < 300:
        while len(flight.live) < 16:
            name, steps = str(len(begun)), kinds.choice((6, 10, 10, 10, 15, 20, 30))
            begun[name] = flight.rows_done
            flight.add(name, samples=kinds.choice((1, 1, 1, 2, 2, 4)), steps=steps)
        flight.step()
    return [end - begun[name] for name, end in flight.ended.items()]


def test_callers_who_ask_anew_at_once_wait_no_longer_than_if_all_shared() -> None:
    """Over four loads, in the mean and for the slowest in a hundred."""
    pairs = [(waits(by_turns(), seed), waits(shared(), seed)) for seed in range(4)]
    for figure in (np.mean, lambda waited: np.percentile(waited, 99)):
        assert np.mean([figure(by) / figure(sharing) for by, sharing in pairs]) < 1
