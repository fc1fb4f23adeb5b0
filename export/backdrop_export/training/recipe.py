"""How the demo bundle is trained: the pictures, the schedules."""

from __future__ import annotations

import dataclasses

from backdrop_export.training.loop import Schedule


@dataclasses.dataclass(frozen=True)
class Recipe:
    """The pictures and the schedules of a run; the same recipe gives the same weights."""

    pictures: int
    vae: Schedule
    towers: Schedule
    denoiser: Schedule
    seed: int = 20_231_101
    workers: int = 2
    """Processes that train together; a schedule's batch is each one's."""


RECIPES = {
    "full": Recipe(
        pictures=6000,
        vae=Schedule(steps=4000, batch=4, rate=2e-3, average=0.995),
        towers=Schedule(steps=1200, batch=32, rate=1e-3),
        denoiser=Schedule(steps=7000, batch=16, rate=1e-3, warm_up=150, average=0.999),
    ),
    "short": Recipe(
        pictures=48,
        vae=Schedule(steps=6, batch=1, rate=2e-3, warm_up=2, keep_every=3),
        towers=Schedule(steps=6, batch=8, rate=1e-3, warm_up=2, keep_every=3),
        denoiser=Schedule(steps=6, batch=2, rate=1e-3, warm_up=2, keep_every=3),
    ),
}
"""``full`` is meant for weights that ship; ``short`` shows that the path works."""
