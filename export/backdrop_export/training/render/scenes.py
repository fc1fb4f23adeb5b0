"""The twelve scenes by name."""

from __future__ import annotations

from collections.abc import Callable

from backdrop_export.training.render import nature, rooms
from backdrop_export.training.render.canvas import Floats, Rng, finish

PAINTERS: dict[str, Callable[[Rng, int], Floats]] = {
    "beach": nature.beach,
    "forest": nature.forest,
    "desert": nature.desert,
    "snow": nature.snow,
    "night city": rooms.night_city,
    "marble studio": rooms.marble_studio,
    "wooden table": rooms.wooden_table,
    "kitchen": rooms.kitchen,
    "meadow": nature.meadow,
    "mountains": nature.mountains,
    "sunset": nature.sunset,
    "water": nature.water,
}


def paint_scene(rng: Rng, scene: str, side: int) -> Floats:
    """A look of ``scene``, float32 [side, side, 3] in 0..1."""
    return finish(rng, PAINTERS[scene](rng, side))
