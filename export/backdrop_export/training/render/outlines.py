"""Outlines that are hard to cut out: hoops, chains, spokes, bars, leaves, stems, glass.

Each draws its share of the pixels into a layer, uint8 [side, side], 0 to 255; places are shares of
the side, within 0.1 to 0.9.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from backdrop_export.training.render.canvas import Rng

Layer = npt.NDArray[np.uint8]
Points = npt.NDArray[Any]
_SHIFT = 4


def _at(points: Points, side: int) -> npt.NDArray[np.int32]:
    places: npt.NDArray[np.int32] = np.rint(points * side * 2**_SHIFT).astype(np.int32)
    return places


def fill(layer: Layer, points: Points, value: int = 255) -> None:
    """A filled polygon through ``points`` [N, 2]."""
    cv2.fillPoly(layer, [_at(points, len(layer))], value, cv2.LINE_AA, _SHIFT)


def stroke(layer: Layer, points: Points, width: float, value: int = 255) -> None:
    """A line through ``points`` [N, 2]."""
    thick = max(1, round(width * len(layer)))
    cv2.polylines(layer, [_at(points, len(layer))], False, value, thick, cv2.LINE_AA, _SHIFT)


def oval(centre: Points, axes: Points, turn: float = 0.0) -> Points:
    """Points [64, 2] of an ellipse turned by ``turn`` radians."""
    angle = np.linspace(0, 2 * np.pi, 64)
    return centre + _turned(np.stack([np.cos(angle), np.sin(angle)], axis=1) * axes, turn)


def _turned(points: Points, turn: float) -> Points:
    cos, sin = np.cos(turn), np.sin(turn)
    turned: Points = points @ np.array([[cos, sin], [-sin, cos]])
    return turned


def _curve(rng: Rng, start: Points, end: Points, bend: float, count: int = 24) -> Points:
    """A bent line [count, 2] from ``start`` to ``end``."""
    t = np.linspace(0, 1, count)[:, None]
    middle = (start + end) / 2 + rng.uniform(-bend, bend, 2)
    curve: Points = (1 - t) ** 2 * start + 2 * t * (1 - t) * middle + t**2 * end
    return curve


def blob(layer: Layer, rng: Rng) -> None:
    """A body with a smooth outline, sometimes with a hole."""
    angle = np.linspace(0, 2 * np.pi, 120, endpoint=False)
    radius = np.full_like(angle, rng.uniform(0.2, 0.32))
    for wave in range(2, 7):
        radius *= 1 + rng.normal(0, 0.22 / wave) * np.cos(wave * angle + rng.uniform(0, 6.3))
    squash = rng.uniform(0.5, 1, 2)
    outline = np.stack([np.cos(angle), np.sin(angle)], axis=1) * radius[:, None] * squash
    fill(layer, 0.5 + outline)
    if rng.random() < 0.35:
        fill(layer, 0.5 + outline * rng.uniform(0.3, 0.8) + rng.uniform(-0.02, 0.02, 2), 0)


def angular(layer: Layer, rng: Rng) -> None:
    """A body of straight edges, sometimes with a window in it."""
    count = int(rng.integers(3, 8))
    angle = np.sort(rng.uniform(0, 2 * np.pi, count)) + rng.uniform(0, 6)
    points = np.stack([np.cos(angle), np.sin(angle)], axis=1) * rng.uniform(0.15, 0.38, (count, 1))
    fill(layer, 0.5 + points)
    width, height = rng.uniform(0.08, 0.3, 2)
    box = np.array([[-width, -height], [width, -height], [width, height], [-width, height]])
    fill(layer, 0.5 + _turned(box, rng.uniform(-0.2, 0.2)))
    if rng.random() < 0.3:
        fill(layer, 0.5 + box * rng.uniform(0.4, 0.85), 0)


def hoops(layer: Layer, rng: Rng) -> None:
    """Rings, frames and handles, with or without something solid on them."""
    for _ in range(int(rng.integers(1, 4))):
        centre, axes = rng.uniform(0.38, 0.62, 2), rng.uniform(0.08, 0.28, 2)
        points = oval(centre, axes, rng.uniform(0, 3.1))
        stroke(layer, points, rng.uniform(0.006, 0.06))
        if rng.random() < 0.5:
            fill(layer, oval(points[int(rng.integers(64))], rng.uniform(0.02, 0.09, 2)))


def chain(layer: Layer, rng: Rng) -> None:
    """Links or beads along a hanging or lying line, with a pendant or a loop."""
    line = _curve(rng, rng.uniform((0.1, 0.1), (0.35, 0.6)), rng.uniform((0.65, 0.1), (0.9, 0.6)),
                  0.7, int(rng.integers(14, 46)))  # fmt: skip
    size = np.array([rng.uniform(0.016, 0.035), rng.uniform(0.008, 0.022)])
    width = rng.uniform(0.004, 0.011)
    beads = rng.random() < 0.3
    for before, here in itertools.pairwise(line):
        points = oval(here, size, np.arctan2(*(here - before)[::-1]))
        if beads:
            fill(layer, points)
        else:
            stroke(layer, points, width)
    if rng.random() < 0.6:
        fill(layer, oval(line[len(line) // 2] + (0, 0.05), rng.uniform(0.03, 0.1, 2)))


def spokes(layer: Layer, rng: Rng) -> None:
    """A rim or two, a hub, and thin spokes, seen from a side."""
    axes = rng.uniform(0.22, 0.36) * np.array([1.0, rng.uniform(0.5, 1.0)])
    stroke(layer, oval(np.full(2, 0.5), axes), rng.uniform(0.008, 0.05))
    if rng.random() < 0.4:
        stroke(layer, oval(np.full(2, 0.5), axes * rng.uniform(0.4, 0.8)), rng.uniform(0.005, 0.02))
    fill(layer, oval(np.full(2, 0.5), axes * rng.uniform(0.08, 0.3)))
    width, skew = rng.uniform(0.004, 0.016), rng.uniform(0, 0.5)
    for angle in np.arange(0, 2 * np.pi, 2 * np.pi / rng.integers(5, 26)):
        ends = [np.array([np.cos(a), np.sin(a)]) for a in (angle, angle + skew)]
        stroke(layer, np.stack([0.5 + ends[1] * axes * 0.1, 0.5 + ends[0] * axes]), width)


def bars(layer: Layer, rng: Rng) -> None:
    """Racks, baskets, forks and rakes: many bars across a few rails."""
    count, rails = int(rng.integers(4, 26)), int(rng.integers(1, 4))
    left, right = rng.uniform(0.12, 0.25), rng.uniform(0.75, 0.88)
    top, foot = rng.uniform(0.15, 0.3), rng.uniform(0.55, 0.85)
    slant, width = rng.uniform(-0.08, 0.08), (right - left) / count * rng.uniform(0.15, 0.6)
    for x in np.linspace(left, right, count):
        stroke(layer, np.array([[x, top], [x + slant, foot]]), max(width, 0.004))
    for y in rng.uniform(top, foot, rails):
        shift = slant * (y - top) / (foot - top)
        stroke(layer, np.array([[left + shift, y], [right + shift, y]]), rng.uniform(0.006, 0.09))


def sticks(layer: Layer, rng: Rng) -> None:
    """Stools, stands and lamps: a top on thin legs."""
    top, foot = rng.uniform(0.2, 0.5), rng.uniform(0.7, 0.88)
    half, splay = rng.uniform(0.08, 0.3), rng.uniform(0.8, 1.4)
    thick, width = rng.uniform(0.02, 0.14), rng.uniform(0.006, 0.03)
    for place in np.linspace(-1, 1, int(rng.integers(2, 5))):
        stroke(layer, np.array([[0.5 + place * half * 0.8, top], [0.5 + place * half * splay, foot]]),
               width)  # fmt: skip
    if rng.random() < 0.6:
        y = rng.uniform(top, foot)
        stroke(layer, np.array([[0.5 - half, y], [0.5 + half, y]]), width)
    fill(layer, oval(np.array([0.5, top]), np.array([half, thick])))


def leaf(base: Points, tip: Points, half: float) -> Points:
    """Points [48, 2] of a pointed leaf."""
    t = np.linspace(0, 1, 24)[:, None]
    along = tip - base
    side = np.array([-along[1], along[0]]) / max(1e-6, float(np.hypot(*along))) * half
    swell = np.sin(np.pi * t**0.8)
    return np.concatenate(
        [base + t * along + side * swell, (base + t * along - side * swell)[::-1]]
    )


def foliage(layer: Layer, rng: Rng) -> None:
    """Bent stems with leaves or blossoms out of a pot, or without one."""
    root = np.array([0.5, rng.uniform(0.6, 0.8)])
    width, half = rng.uniform(0.004, 0.012), rng.uniform(0.008, 0.04)
    for _ in range(int(rng.integers(3, 16))):
        stem = _curve(rng, root, rng.uniform((0.15, 0.1), (0.85, 0.6)), 0.15)
        stroke(layer, stem, width)
        for base in stem[rng.integers(8, 24, int(rng.integers(1, 6)))]:
            angle, length = rng.uniform(0, 2 * np.pi), rng.uniform(0.04, 0.14)
            tip = base + length * np.array([np.cos(angle), np.sin(angle)])
            fill(layer, leaf(base, tip, half))
    if rng.random() < 0.7:
        wide, deep = rng.uniform(0.05, 0.14), rng.uniform(0.06, 0.16)
        across = np.array([[-1, 0], [1, 0], [0.8, 1], [-0.8, 1]])
        fill(layer, root + across * (wide, deep))


def strands(layer: Layer, rng: Rng) -> None:
    """A body with a fringe of thin strands: brushes, tassels, fur."""
    blob(layer, rng)
    centre = np.full(2, 0.5)
    width, reach = rng.uniform(0.003, 0.008), rng.uniform(0.2, 0.4)
    start = rng.uniform(0, 6.3)
    for angle in start + np.linspace(0, rng.uniform(1, 6.3), int(rng.integers(15, 90))):
        way = np.array([np.cos(angle), np.sin(angle)])
        stroke(layer, _curve(rng, centre + way * 0.1, centre + way * reach, 0.06, 10), width)


def vessel(layer: Layer, rng: Rng) -> None:
    """Glass: a bowl that lets light through, with a rim, walls, a foot, and something in it."""
    clear, wall = int(rng.integers(15, 170)), rng.uniform(0.005, 0.03)
    rise = np.linspace(0, 1, 30)
    belly = rng.uniform(-0.3, 0.3) * np.sin(np.pi * rise) + rng.uniform(-0.35, 0.25) * rise
    half = rng.uniform(0.1, 0.24) * np.clip(1 + belly, 0.25, 2)
    top, foot = rng.uniform(0.15, 0.35), rng.uniform(0.62, 0.85)
    y = top + (foot - top) * rise
    left, right = (np.stack([0.5 + way * half, y], axis=1) for way in (-1, 1))
    fill(layer, np.concatenate([left, right[::-1]]), clear)
    if rng.random() < 0.5:
        level = int(rng.integers(3, 26))
        fill(
            layer,
            np.concatenate([left[level:], right[level:][::-1]]),
            int(rng.integers(clear, 256)),
        )
    edge = 255 if rng.random() < 0.6 else int(rng.integers(clear, 256))
    for side in (left, right):
        stroke(layer, side, wall, edge)
    for index in (0, -1):
        flat = np.array([half[index], rng.uniform(0.01, 0.035)])
        stroke(layer, oval(np.array([0.5, y[index]]), flat), wall * rng.uniform(0.5, 1), edge)
    if rng.random() < 0.7:
        depth = rng.uniform(0.01, 0.08)
        base = np.array([[-1, 0], [1, 0], [1, 1], [-1, 1]]) * (half[-1], depth)
        fill(layer, np.array([0.5, foot - depth / 2]) + base, edge)
    if rng.random() < 0.5:
        shine = 0.5 + rng.uniform(-0.6, 0.6) * half
        stroke(layer, np.stack([shine, y], axis=1)[4:22], rng.uniform(0.008, 0.03),
               int(rng.integers(clear, 256)))  # fmt: skip


def veil(layer: Layer, rng: Rng) -> None:
    """A sheet that is half there: film, cloth, tinted plastic, within a frame or none."""
    share = int(rng.integers(50, 225))
    drawn = np.zeros_like(layer)
    (angular if rng.random() < 0.5 else blob)(drawn, rng)
    outline, _ = cv2.findContours(
        (drawn > 127).astype(np.uint8), cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE
    )
    np.maximum(layer, (drawn.astype(np.float32) * share / 255).astype(np.uint8), out=layer)
    if rng.random() < 0.7:
        thick = max(1, round(rng.uniform(0.006, 0.03) * len(layer)))
        cv2.drawContours(layer, outline, -1, 255, thick, cv2.LINE_AA)


OUTLINES: dict[str, Callable[[Layer, Rng], None]] = {
    "blob": blob, "angular": angular, "hoops": hoops, "chain": chain, "spokes": spokes,
    "bars": bars, "sticks": sticks, "foliage": foliage, "strands": strands, "vessel": vessel,
    "veil": veil,
}  # fmt: skip
