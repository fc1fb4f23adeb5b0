"""Who goes first where all share the cores: the loop, since everybody waits for its next step."""

from __future__ import annotations

import os

NICENESS = 15
"""An engine's threads meet after every layer: while one of them waits for a core, the others spin."""


def behind_the_loop() -> None:
    """Let this thread, and those that it starts, run in what `denoise` leaves of the cores.

    They still get a share of a thirtieth, and all that the loop's threads do not use.
    """
    os.nice(NICENESS)
