"""Products: shaded bodies with caps, labels and lines, and the shadow that they throw."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import cv2
import numpy as np

from backdrop_export.training.render.canvas import Floats, Rng, choose, grid, mix, ramp

COLOURS: dict[str, tuple[float, float, float]] = {
    "red": (0.80, 0.12, 0.12), "orange": (0.95, 0.50, 0.10), "yellow": (0.95, 0.82, 0.18),
    "green": (0.15, 0.55, 0.25), "blue": (0.15, 0.30, 0.75), "purple": (0.45, 0.20, 0.60),
    "pink": (0.93, 0.55, 0.65), "brown": (0.42, 0.26, 0.15), "black": (0.08, 0.08, 0.09),
    "white": (0.93, 0.93, 0.91), "grey": (0.55, 0.56, 0.58), "teal": (0.10, 0.50, 0.52),
    "gold": (0.83, 0.66, 0.28),
}  # fmt: skip


@dataclasses.dataclass(frozen=True, eq=False)
class Product:
    """A product in its place: ``rgb`` [side, side, 3] where ``alpha`` [side, side] is not 0.

    ``shadow`` [side, side] is how much light it takes from the ground.
    """

    kind: str
    colour: str
    rgb: Floats
    alpha: Floats
    shadow: Floats


@dataclasses.dataclass(frozen=True)
class Place:
    """Where a product stands: middle, foot, height and half width in shares of the side."""

    x: float
    foot: float
    tall: float
    half: float
    light: float
    """From -1, light from the left, to 1."""


Profile = Callable[[Floats], Floats]


def _bottle(v: Floats) -> Floats:
    return 0.34 + 0.66 * ramp(v, 0.20, 0.42)


def _jar(v: Floats) -> Floats:
    return np.where(v < 0.22, 0.86, 0.8 + 0.2 * ramp(v, 0.22, 0.36)).astype(np.float32)


def _can(v: Floats) -> Floats:
    return 0.90 + 0.10 * ramp(v, 0.02, 0.10) - 0.10 * ramp(v, 0.92, 0.99)


def _tube(v: Floats) -> Floats:
    return np.where(v > 0.86, 0.62, 1.0 - 0.30 * v).astype(np.float32)


def _vase(v: Floats) -> Floats:
    belly = 0.55 + 0.45 * np.sin(np.clip((v - 0.12) / 0.88, 0, 1) * 2.5)
    return np.where(v < 0.12, 0.62 - v, belly).astype(np.float32)


def _lamp(v: Floats) -> Floats:
    shade = 0.55 + 0.9 * v
    stem = np.where(v < 0.88, 0.10, 0.55)
    return np.where(v < 0.48, shade, stem).astype(np.float32)


def _cup(v: Floats) -> Floats:
    return (1.0 - 0.22 * v**2).astype(np.float32)


def _perfume(v: Floats) -> Floats:
    return np.where(v < 0.24, 0.36, np.where(v < 0.30, 0.22, 1.0)).astype(np.float32)


TURNED: dict[str, tuple[Profile, float, float]] = {
    "bottle": (_bottle, 0.34, 0.20), "jar": (_jar, 0.80, 0.22), "can": (_can, 0.50, 0.06),
    "tube": (_tube, 0.36, 0.86), "vase": (_vase, 0.60, 0.0), "lamp": (_lamp, 0.62, 0.48),
    "cup": (_cup, 0.85, 0.0), "perfume": (_perfume, 0.62, 0.24),
}  # fmt: skip
"""Profile (half width over height), width over height, and where the cap ends."""

KINDS = (*TURNED, "box", "shoe", "watch", "bag")


def draw_product(rng: Rng, side: int) -> Product:
    """One product of any kind, standing in the lower middle of the picture."""
    kind = KINDS[int(rng.integers(len(KINDS)))]
    name = list(COLOURS)[int(rng.integers(len(COLOURS)))]
    colour = choose(rng, [COLOURS[name]])
    light = float(rng.uniform(-1, 1))
    x, foot = float(rng.uniform(0.38, 0.62)), float(rng.uniform(0.76, 0.92))
    tall = float(rng.uniform(0.34, 0.60))
    if kind in TURNED:
        place = Place(x, foot, tall, tall * TURNED[kind][1] / 2, light)
        rgb, alpha = _turned(rng, side, kind, colour, place)
    else:
        wide = {"box": 0.42, "shoe": 1.0, "watch": 0.45, "bag": 0.55}[kind]
        short = tall * (0.62 if kind == "shoe" else 1.0)
        place = Place(x, foot, short, min(0.30, short * wide), light)
        rgb, alpha = _SHAPES[kind](rng, side, colour, place)
    return Product(kind, name, np.clip(rgb, 0, 1), alpha, _shadow(alpha, place))


def _shadow(alpha: Floats, place: Place) -> Floats:
    """Dark contact under the foot and a soft shadow that falls to the side."""
    side = alpha.shape[0]
    x, y = grid(side)
    contact = np.exp(
        -(((x - place.x) / (place.half * 1.15)) ** 4) - ((y - place.foot) / 0.018) ** 2
    )
    lean = place.x - place.light * (0.5 * place.half)
    soft = np.exp(
        -(((x - lean) / (place.half * 1.7)) ** 2) - ((y - place.foot - 0.008) / 0.045) ** 2
    )
    return np.clip(0.55 * contact + 0.42 * soft, 0, 0.85).astype(np.float32)


def _body_place(side: int, place: Place) -> tuple[Floats, Floats]:
    """Coordinates of the body: u -1..1 across, v 0 (top) to 1 (foot)."""
    x, y = grid(side)
    return (x - place.x) / place.half, (y - place.foot + place.tall) / place.tall


def _turned(rng: Rng, side: int, kind: str, colour: Floats, place: Place) -> tuple[Floats, Floats]:
    profile, _, cap = TURNED[kind]
    u, v = _body_place(side, place)
    width = profile(np.clip(v, 0, 1))
    foot_bow = 0.022 * (1 - np.clip(u, -1, 1) ** 2)
    inside = np.clip((width - np.abs(u)) * place.half * side + 0.5, 0, 1)
    inside *= np.clip(v * place.tall * side + 0.5, 0, 1)
    inside *= np.clip((1 + foot_bow - v) * place.tall * side + 0.5, 0, 1)
    around = np.clip(u / np.maximum(width, 1e-3), -1, 1)
    paint = _coat(rng, u, v + foot_bow, colour, cap)
    alpha = inside.astype(np.float32)
    if kind == "cup":
        alpha, paint = _handle(side, place, alpha, paint, colour)
    return _lit(rng, paint, around, place.light), alpha


def _lit(rng: Rng, paint: Floats, around: Floats, light: float) -> Floats:
    """Paint on a round body: lambert's cosine, a darker rim, a vertical highlight."""
    facing = np.sqrt(np.clip(1 - around**2, 0, 1))
    lambert = 0.50 + 0.55 * np.clip(facing * 0.75 + around * light * 0.65, 0, 1)
    gloss = np.exp(-(((around - 0.5 * light) / 0.11) ** 2)) * float(rng.uniform(0.1, 0.5))
    lit: Floats = (paint * lambert[..., None] + gloss[..., None]).astype(np.float32)
    return lit


def _coat(rng: Rng, u: Floats, v: Floats, colour: Floats, cap: float) -> Floats:
    """The body's colour with a cap, a label of lines, or bands."""
    paint = np.broadcast_to(colour, (*u.shape, 3)).astype(np.float32)
    other = choose(rng, list(COLOURS.values()))
    if np.abs(other - colour).sum() < 0.7:
        other = 1 - other * np.float32(0.9)
    if cap:
        paint = mix(paint, other, ((v > cap) if cap > 0.8 else (v < cap)).astype(np.float32))
    low, high = float(rng.uniform(0.44, 0.54)), float(rng.uniform(0.74, 0.88))
    if rng.random() < 0.7:
        half = float(rng.uniform(0.5, 0.85))
        label = ((np.abs(u) < half) & (v > low) & (v < high)).astype(np.float32)
        ground = other if rng.random() < 0.5 else np.array((0.95, 0.94, 0.90), np.float32)
        ground = np.where(np.abs(ground - colour).sum() < 0.6, 1 - ground, ground)
        paint = mix(paint, ground, label)
        return mix(paint, 1 - ground, label * _print(rng, u / half, (v - low) / (high - low)))
    bands = np.zeros_like(u)
    for centre in rng.uniform(low, high, int(rng.integers(1, 4))):
        bands = np.maximum(bands, (np.abs(v - centre) < rng.uniform(0.015, 0.05)))
    return mix(paint, other, bands.astype(np.float32))


def _print(rng: Rng, u: Floats, v: Floats) -> Floats:
    """What stands on a label: a mark and lines of writing; 1 where it is printed."""
    marks = np.zeros_like(u, dtype=bool)
    style = int(rng.integers(3))
    if style == 0:
        marks |= np.hypot(u, (v - 0.36) * 1.4) < 0.30
    elif style == 1:
        marks |= (np.abs(u) + np.abs(v - 0.36) * 1.6) < 0.42
    else:
        marks |= (np.abs(u) < 0.72) & (np.abs(v - 0.3) < 0.14)
    for row in (0.70, 0.86):
        marks |= (np.abs(v - row) < 0.045) & (np.abs(u) < rng.uniform(0.35, 0.75))
    return marks.astype(np.float32)


def _handle(
    side: int, place: Place, alpha: Floats, paint: Floats, colour: Floats
) -> tuple[Floats, Floats]:
    ring = np.zeros((side, side), np.float32)
    middle = (place.x + place.half, place.foot - place.tall * 0.52)
    centre = tuple(int(value * side * 8) for value in middle)
    axes = (int(place.half * 0.45 * side * 8), int(place.tall * 0.25 * side * 8))
    thick = max(2, int(place.half * 0.18 * side))
    cv2.ellipse(ring, centre, axes, 0, -90, 90, 1.0, thick, cv2.LINE_AA, 3)
    outside = ring * (1 - alpha)
    return np.maximum(alpha, ring), mix(paint, colour * np.float32(0.85), outside)


def _polygon(side: int, corners: list[tuple[float, float]]) -> Floats:
    layer = np.zeros((side, side), np.float32)
    points = (np.array(corners) * side * 8).astype(np.int32)
    cv2.fillPoly(layer, [points], 1.0, cv2.LINE_AA, 3)
    return layer


def _box(rng: Rng, side: int, colour: Floats, place: Place) -> tuple[Floats, Floats]:
    turn = float(rng.uniform(0.25, 0.75))
    left, right = place.x - place.half, place.x + place.half
    edge = left + (right - left) * turn
    top, foot, rise = place.foot - place.tall, place.foot, 0.035
    faces = (
        [(left, top + rise), (edge, top + rise * 1.5), (edge, foot), (left, foot - rise)],
        [(edge, top + rise * 1.5), (right, top + rise), (right, foot - rise), (edge, foot)],
        [(left, top + rise), (edge, top + rise * 1.5), (right, top + rise), (edge, top + 0.01)],
    )
    u, v = _body_place(side, place)
    rgb = np.zeros((side, side, 3), np.float32)
    alpha = np.zeros((side, side), np.float32)
    light = place.light
    for index, (corners, shade) in enumerate(
        zip(faces, (0.8 - 0.25 * light, 0.8 + 0.25 * light, 1.1), strict=True)
    ):
        layer = _polygon(side, corners)
        middle = -1 + turn if index == 0 else turn
        width = turn if index == 0 else 1 - turn
        coat = np.broadcast_to(colour, (side, side, 3))
        if index < 2:
            coat = _coat(rng, (u - middle) / max(width, 0.1), v, colour, 0.0)
        rgb = mix(rgb, coat * np.float32(shade), layer)
        alpha = np.maximum(alpha, layer)
    return rgb, alpha


def _shoe(rng: Rng, side: int, colour: Floats, place: Place) -> tuple[Floats, Floats]:
    def at(u: float, v: float) -> tuple[float, float]:
        return place.x + u * place.half * flip, place.foot - (1 - v) * place.tall

    flip = 1.0 if rng.random() < 0.5 else -1.0
    upper = [(-0.98, 0.84), (-1.0, 0.40), (-0.86, 0.06), (-0.70, 0.0), (-0.34, 0.10), (-0.05, 0.30),
             (0.40, 0.48), (0.80, 0.58), (0.98, 0.74), (1.0, 0.84)]  # fmt: skip
    sole = [(-1.0, 0.82), (1.02, 0.82), (1.0, 0.97), (0.9, 1.0), (-0.96, 1.0)]
    body, rubber = (_polygon(side, [at(*spot) for spot in shape]) for shape in (upper, sole))
    u, v = _body_place(side, place)
    shade = (1.05 - 0.35 * v)[..., None]
    rgb = colour * shade
    stripe = choose(rng, [(0.95, 0.95, 0.95), (0.1, 0.1, 0.1), (0.9, 0.3, 0.2)])
    slanted = np.abs(np.mod(u * flip * 4 + v * 1.6, 1) - 0.5) < 0.13
    rgb = mix(rgb, stripe, (slanted & (np.abs(u) < 0.55) & (v > 0.3)).astype(np.float32))
    toe = ((u * flip > 0.66) & (v > 0.5)).astype(np.float32)
    rgb = mix(rgb, np.clip(colour * 0.7, 0, 1), toe)
    rgb = mix(rgb, np.array((0.92, 0.91, 0.88), np.float32), rubber)
    return rgb.astype(np.float32), np.maximum(body, rubber)


def _watch(rng: Rng, side: int, colour: Floats, place: Place) -> tuple[Floats, Floats]:
    u, v = _body_place(side, place)
    radius = np.hypot(u, (v - 0.5) * place.tall / place.half)
    pixel = place.half * side
    case = np.clip((1.0 - radius) * pixel + 0.5, 0, 1)
    strap = np.clip((0.62 - np.abs(u)) * pixel + 0.5, 0, 1) * ((v > 0) & (v < 1))
    links = 0.8 + 0.25 * (np.mod(v * 16, 1) > 0.25)
    metal = choose(rng, [(0.80, 0.80, 0.82), (0.83, 0.66, 0.28), (0.20, 0.20, 0.22)])
    dial = choose(rng, [(0.95, 0.95, 0.93), (0.08, 0.09, 0.12), (0.10, 0.20, 0.40)])
    rgb = colour * links[..., None].astype(np.float32)
    rgb = mix(rgb, metal * (0.8 + 0.3 * ramp(-v, -1, 0))[..., None], case.astype(np.float32))
    rgb = mix(rgb, dial, np.clip((0.80 - radius) * pixel, 0, 1).astype(np.float32))
    angle = np.arctan2(u, -(v - 0.5))
    hours = (np.abs(np.mod(angle * 12 / 6.283 + 0.5, 1) - 0.5) < 0.10) & (
        np.abs(radius - 0.68) < 0.07
    )
    hands = np.zeros_like(u, dtype=bool)
    for turn, length in zip(rng.uniform(-3.1, 3.1, 2), (0.42, 0.62), strict=True):
        along = u * np.sin(turn) - (v - 0.5) * place.tall / place.half * np.cos(turn)
        across = u * np.cos(turn) + (v - 0.5) * place.tall / place.half * np.sin(turn)
        hands |= (np.abs(across) < 0.06) & (along > 0) & (along < length)
    rgb = mix(rgb, 1 - dial, (hours | hands).astype(np.float32))
    return rgb.astype(np.float32), np.maximum(case, strap).astype(np.float32)


def _bag(rng: Rng, side: int, colour: Floats, place: Place) -> tuple[Floats, Floats]:
    u, v = _body_place(side, place)
    width = 0.80 + 0.2 * ramp(v, 0.3, 0.95)
    body = np.clip((width - np.abs(u)) * place.half * side + 0.5, 0, 1)
    body *= np.clip((v - 0.34) * place.tall * side, 0, 1) * np.clip(
        (1 - v) * place.tall * side, 0, 1
    )
    arch = np.hypot(u / 0.55, (v - 0.36) / 0.34)
    handle = (np.abs(arch - 0.92) < 0.09) & (v < 0.4)
    flap = ((v < 0.62 - 0.08 * u**2) & (v > 0.34)).astype(np.float32)
    rgb = mix(colour, np.clip(colour * 0.75, 0, 1), flap) * (1.1 - 0.35 * v + 0.1 * u)[..., None]
    seam = np.abs(v - 0.62 + 0.08 * u**2) < 0.012
    rgb = mix(rgb, colour * np.float32(0.35), (seam | handle).astype(np.float32))
    clasp = (np.abs(u) < 0.12) & (np.abs(v - 0.62) < 0.05)
    rgb = mix(rgb, choose(rng, [(0.85, 0.70, 0.30), (0.85, 0.85, 0.88)]), clasp.astype(np.float32))
    return rgb.astype(np.float32), np.maximum(body, handle).astype(np.float32)


_SHAPES = {"box": _box, "shoe": _shoe, "watch": _watch, "bag": _bag}


def stand(scene: Floats, product: Product) -> Floats:
    """The scene with the product and its shadow in it."""
    shaded = scene * (1 - product.shadow * (1 - product.alpha))[..., None]
    return mix(shaded, product.rgb, product.alpha)
