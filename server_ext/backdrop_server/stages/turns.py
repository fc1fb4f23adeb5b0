"""Whose turn it is when more rows want a step than one engine call takes.

A full call costs the same a row however many wait beside it, so nothing is gained by letting all of
them take every step together: all would end late. They end in the order in which they would end if
they did, but one after another, and so none later than that (the Fair Sojourn Protocol of Friedman
and Henderson, 2003, at the grain of a step). Equal requests are served in the order of their coming; a
small one still ends before a large one that came first.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence

from backdrop_server.stages.denoise import State, group_by_size


class Turns:
    """Picks who steps; keeps count of the steps that all would have taken together."""

    def __init__(self, row_limit: int) -> None:
        """``row_limit``: rows of one engine call."""
        self._row_limit = row_limit
        self._steps = 0.0
        self._sharing: list[tuple[float, int, int]] = []
        """Due, ``id`` and rows of those who would still be at work if all shared every step."""

    def enter(self, state: State) -> None:
        """Say when a new request is due."""
        state.due = self._steps + state.total
        heapq.heappush(self._sharing, (state.due, id(state), state.rows))

    def leave(self, state: State) -> None:
        """Forget a request that ends before its last step: it would share no step any more."""
        self._sharing = [one for one in self._sharing if one[:2] != (state.due, id(state))]
        heapq.heapify(self._sharing)

    def take(self, states: Sequence[State]) -> list[list[State]]:
        """Those of ``states`` that step now: of each size one engine call, the first due first.

        A request that alone has more rows than a call is taken by itself. What is first due of its
        size is always taken; one that does not fit in any more lets a smaller one in.
        """
        taken = [self._filled(group) for group in group_by_size(states)]
        self._count(sum(state.rows for group in taken for state in group))
        return taken

    def _filled(self, group: Sequence[State]) -> list[State]:
        first, *others = sorted(group, key=lambda state: state.due)
        taken, room = [first], self._row_limit - first.rows
        for state in others:
            if state.rows <= room:
                taken.append(state)
                room -= state.rows
        return taken

    def _count(self, rows: float) -> None:
        """Note that so many rows were evaluated: by all who share, as many for each as it has."""
        while self._sharing:
            together = sum(rows for *_, rows in self._sharing)
            due = self._sharing[0][0]
            until_due = (due - self._steps) * together
            if rows < until_due:
                self._steps += rows / together
                return
            self._steps = due
            rows -= until_due
            heapq.heappop(self._sharing)
