"""Grounds that products are photographed before: plain, lit, painted scenes, clutter."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from backdrop_export.training.render.canvas import Floats, Rng, blur, grid, mix, noise
from backdrop_export.training.render.palette import recolour
from backdrop_export.training.render.scenes import PAINTERS, paint_scene


def draw_backdrop(rng: Rng, side: int) -> Floats:
    """A ground of any kind, [side, side, 3] in 0..1."""
    names, shares = list(BACKDROPS), np.array([share for share, _ in BACKDROPS.values()])
    name = names[int(rng.choice(len(names), p=shares / shares.sum()))]
    return np.clip(BACKDROPS[name][1](rng, side), 0, 1).astype(np.float32)


def _flat(colour: npt.NDArray[Any], side: int) -> Floats:
    return np.broadcast_to(np.asarray(colour, np.float32), (side, side, 3)).copy()


def _white(rng: Rng, side: int) -> Floats:
    return _flat(np.clip(rng.uniform(0.93, 1.0) + rng.uniform(-0.012, 0.012, 3), 0, 1), side)


def _coloured(rng: Rng, side: int) -> Floats:
    return _flat(rng.uniform(0.02, 0.97, 3), side)


def _studio(rng: Rng, side: int) -> Floats:
    """A wall whose light falls off to the sides and the corners."""
    x, y = grid(side)
    tilt, fall = rng.uniform(-0.25, 0.25, 2), rng.uniform(0, 0.4)
    light = 1 + tilt[0] * (x - 0.5) + tilt[1] * (y - 0.5)
    light -= fall * ((x - 0.5) ** 2 + (y - rng.uniform(0.3, 0.7)) ** 2)
    colour = rng.uniform(0.3, 0.95, 3) if rng.random() < 0.6 else np.full(3, rng.uniform(0.5, 1))
    wall: Floats = _flat(colour, side) * light[..., None]
    return wall


def _horizon(rng: Rng, side: int) -> Floats:
    """A wall and a table or floor, each nearly plain."""
    wall, floor = (_studio(rng, side) for _ in range(2))
    line = blur((grid(side)[1] > rng.uniform(0.45, 0.85)).astype(np.float32), rng.uniform(0.5, 9))
    return mix(wall, floor, line)


def _scene(rng: Rng, side: int) -> Floats:
    names = list(PAINTERS)
    painted = paint_scene(rng, names[int(rng.integers(len(names)))], side)
    if rng.random() < 0.5:
        painted = painted[:, ::-1]
    return blur(np.ascontiguousarray(painted), rng.uniform(0, 2))


def _texture(rng: Rng, side: int) -> Floats:
    """Fractal noise in three colours: stone, cloth, grass, wood, by how it is stretched."""
    first, second, third = rng.uniform(0.02, 0.98, (3, 3)).astype(np.float32)
    cells = (float(rng.uniform(2, 90)), float(rng.uniform(2, 90)))
    octaves = int(rng.integers(2, 6))
    coarse = noise(rng, side, (rng.uniform(2, 8), rng.uniform(2, 8)), 4)
    painted = mix(mix(first, second, noise(rng, side, cells, octaves, rng.uniform(0.4, 0.9))),
                  third, coarse)  # fmt: skip
    return blur(painted, rng.uniform(0, 1.5))


def _clutter(rng: Rng, side: int) -> Floats:
    """Things over things, of all sizes: the dead leaves of Lee, Mumford and Huang (2001)."""
    picture = _texture(rng, side)
    palette = rng.uniform(0.02, 0.98, (int(rng.integers(2, 7)), 3))
    largest, count = rng.uniform(0.05, 0.35), int(rng.integers(60, 500))
    for _ in range(count):
        radius = np.minimum(0.008 / rng.uniform(0.02, 1), largest) * side
        centre, stretch = rng.uniform(0, side, 2), rng.uniform(0.2, 1, 2)
        colour = palette[int(rng.integers(len(palette)))] * rng.uniform(0.5, 1.3) + rng.normal(
            0, 0.04, 3
        )
        axes = np.maximum(1, radius * stretch).astype(int)
        if rng.random() < 0.6:
            cv2.ellipse(picture, centre.astype(int).tolist(), axes.tolist(),
                        rng.uniform(0, 180), 0, 360, colour.tolist(), -1, cv2.LINE_AA)  # fmt: skip
        else:
            corners = cv2.boxPoints((centre.tolist(), (2 * axes).tolist(), rng.uniform(0, 180)))
            cv2.fillPoly(picture, [np.rint(corners).astype(np.int32)], colour.tolist(), cv2.LINE_AA)
    light = 0.6 + 0.8 * noise(rng, side, (3, 3), 3)
    grainy = picture * light[..., None] + 0.25 * (noise(rng, side, (40, 40), 3) - 0.5)[..., None]
    return blur(np.clip(grainy, 0, 1).astype(np.float32), rng.uniform(0, 3))


def _recoloured(rng: Rng, side: int) -> Floats:
    """Clutter or a texture in a scene's colours."""
    pattern = (_clutter if rng.random() < 0.6 else _texture)(rng, side)
    return recolour(pattern, _scene(rng, side))


BACKDROPS: dict[str, tuple[float, Callable[[Rng, int], Floats]]] = {
    "white": (0.2, _white), "coloured": (0.1, _coloured), "studio": (0.13, _studio),
    "horizon": (0.05, _horizon), "scene": (0.17, _scene), "texture": (0.1, _texture),
    "clutter": (0.15, _clutter), "recoloured": (0.1, _recoloured),
}  # fmt: skip
"""The share of pictures before each kind of ground, and what draws it."""
