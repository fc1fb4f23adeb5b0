"""Who goes first where all share the cores: the engines, since everybody waits for them."""

from __future__ import annotations

import os

NICENESS = 15
"""An engine's threads meet after every layer: while one of them waits for a core, the others spin."""


def behind_the_engines() -> None:
    """Let this thread, and those that it starts, run in what the engines leave of the cores.

    They still get a share of a thirtieth, and all that the engines' threads do not use.
    """
    os.nice(NICENESS)
