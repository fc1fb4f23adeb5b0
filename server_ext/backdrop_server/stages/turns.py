"""Whose turn it is when more rows want a step than one engine call takes.

A full call costs the same a row however many wait beside it, so nothing is gained by letting all of
them take every step together: all would end late. They take it one after another, in the order of fair
queueing (Demers, Keshav and Shenker, 1989, at the grain of a step): by when each would be through with
`OWN_SHARE` of its steps if all shared every step. Equal requests are served in the order of their
coming; a small one still ends before a large one that came first, but passes it only if it comes before
the clock has gone `OWN_SHARE` times the steps that the large one has more.
"""

from __future__ import annotations

from collections.abc import Sequence

from backdrop_server.stages.batches import group_by_size
from backdrop_server.stages.denoise import State

OWN_SHARE = 0.6
"""After how much of its own steps a request is due: the more, the sooner small ones end, the later
large ones. At 1, of callers who ask anew as soon as they are served, the slowest in a hundred wait a
tenth longer than if all shared every step; at 0.6 no longer, and all together still wait less."""


class Turns:
    """Picks who steps; counts the steps that each would have taken if all had shared them.

    The count goes by those who are in flight, not by those who would still be if all had shared:
    with these, a caller who asks anew as soon as he has his picture comes before large ones again and
    again, on steps that his last request no longer wants.
    """

    def __init__(self, row_limit: int) -> None:
        """``row_limit``: rows of one engine call."""
        self._row_limit = row_limit
        self._steps = 0.0

    def enter(self, state: State) -> None:
        """Say when a new request is due."""
        state.due = self._steps + OWN_SHARE * state.total

    def take(self, states: Sequence[State]) -> list[list[State]]:
        """Those of ``states``, all in flight, that step now: of each size a call, the first due first.

        A request that alone has more rows than a call is taken by itself. What is first due of its
        size is always taken; one that does not fit in any more lets a smaller one in.
        """
        taken = [self._filled(group) for group in group_by_size(states)]
        if states:
            rows = sum(state.rows for group in taken for state in group)
            self._steps += rows / sum(state.rows for state in states)
        return taken

    def _filled(self, group: Sequence[State]) -> list[State]:
        first, *others = sorted(group, key=lambda state: state.due)
        taken, room = [first], self._row_limit - first.rows
        for state in others:
            if state.rows <= room:
                taken.append(state)
                room -= state.rows
        return taken
