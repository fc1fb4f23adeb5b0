"""Keying: tell a product from the plain ground it stands on, its soft shadows included."""

from __future__ import annotations

import functools

import cv2
import numpy as np
import numpy.typing as npt

from backdrop_server.stages.edges import EDGE_REACH, ground_in_holes, soft_edge
from backdrop_server.stages.regions import (
    Part,
    Places,
    around,
    border,
    connected_to_border,
    large_parts,
    places,
    taken,
)
from backdrop_server.stages.shading import follow_shading, reach_of, shaded_ground, squares

Pixels = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]
Region = npt.NDArray[np.bool_]

UNIFORM_BORDER_SHARE = 0.9
"""Share of the border that must fit one smooth colour for the background to count as uniform."""
BORDER_FIT = 8.0
"""Lab distance within which a border pixel belongs to that colour."""
KEY_FLOOR = 3.0
"""Lab distance that is never taken for subject: JPEG noise on a white ground stays under it."""
SPILL = ((9, 0.12), (17, 0.04))
"""Beside an edge, windows in pixels, and the shares of its contrast that JPEG spills and rings by."""
SEEN = max(max(side for side, _ in SPILL) // 2, 2 * EDGE_REACH + 1)
"""Pixels around what is no ground from which colours count: those that spill, and those that
`soft_edge` looks at, a pixel farther out than the subject."""


def key_uniform_background(rgb: Pixels) -> Pixels | None:
    """Key out a smooth background that touches the border; None where the border is not smooth."""
    ground = _border_ground(rgb)
    if ground is None:
        return None
    weights, noise = ground
    lab, surface = _lab(rgb), _surface(weights, *rgb.shape[:2])
    floor = max(KEY_FLOOR, 3 * noise)
    distance, outside = _key(lab, surface, floor)
    shaded = shaded_ground(lab, surface, distance, outside, floor)
    alpha = np.zeros(outside.shape, np.uint8)
    whole, reach = slice(None), reach_of(*outside.shape)
    part: Part = (whole, whole)
    if (shaded & ~outside).any():
        part = around(~outside, SEEN + reach)  # beyond it all is outside, up to the border
        lab, outside = lab[part], outside[part] | shaded[part]
        surface = follow_shading(lab, surface[part], outside, reach)
        distance = np.sqrt(squares(lab - surface))
    alpha[part] = _cut_out(rgb[part], surface, distance, outside, floor)
    return alpha


def _cut_out(
    rgb: Pixels, surface: Floats, distance: Floats, outside: Region, floor: float
) -> Pixels:
    """The matte of what is not ``outside``, nor a hole, by the ``distance`` [H, W] from the ground."""
    alpha = np.zeros(outside.shape, np.uint8)
    if outside.all():
        return alpha
    part = around(~outside, SEEN)
    outside, surface = outside[part].copy(), surface[part]
    level = _level(distance[part], floor)
    outside |= connected_to_border(outside | level)
    outside |= ground_in_holes(level, outside)
    alpha[part] = soft_edge(
        rgb[part], lambda near: _rgb_light(surface[near]), large_parts(~outside)
    )
    return alpha


def border_distance(rgb: Pixels) -> Floats | None:
    """The Lab distance [H, W] from the smooth colour of the border; None where it has no such."""
    ground = _border_ground(rgb)
    if ground is None:
        return None
    return np.sqrt(squares(_lab(rgb) - _surface(ground[0], *rgb.shape[:2])))


def _key(lab: Floats, ground: Floats, floor: float) -> tuple[Floats, Region]:
    """The distance [H, W] from the ground's colour, and what is the ground from the border on."""
    distance = np.sqrt(squares(lab - ground))
    return distance, connected_to_border(cv2.GaussianBlur(distance, (3, 3), 0) < floor)


def _level(distance: Floats, floor: float) -> Region:
    """Where the colour is the ground's [H, W]; next to strong edges also what has spilt from them."""
    limit = np.full_like(distance, floor)
    for side, share in SPILL:
        square = np.ones((side, side), np.uint8)
        np.maximum(limit, share * cv2.dilate(distance, square), out=limit)
    level: Region = cv2.GaussianBlur(distance, (3, 3), 0) < limit
    return level


def _border_ground(rgb: Pixels) -> tuple[Floats, float] | None:
    """The weights [6, 3] of the border's colour and its noise in Lab; None if it has no one colour.

    A quadratic surface through the border follows the falloff of studio light.
    """
    at, points = _border_points(*rgb.shape[:2])
    colours = _lab(taken(rgb, at)[None])[0]
    fits = _near(colours, np.median(colours, axis=0), 2 * BORDER_FIT)
    if fits.mean() < UNIFORM_BORDER_SHARE:
        return None
    chosen = points[fits].astype(np.float64)  # its normal equations: a hundred times smaller
    weights = np.linalg.lstsq(chosen.T @ chosen, chosen.T @ colours[fits], rcond=None)[0]
    fits = _near(colours, points @ weights, BORDER_FIT)
    if fits.mean() < UNIFORM_BORDER_SHARE:
        return None
    residual = _lengths(colours[fits] - points[fits] @ weights)
    return weights, float(np.sqrt(np.mean(residual**2)))


@functools.lru_cache(maxsize=2)  # the network's side, and that of most of a shop's photos
def _border_points(height: int, width: int) -> tuple[Places, Floats]:
    """The places [N] of the border's pixels, and the surface's terms there, [N, 6]."""
    at = places(border(height, width, max(2, round(min(height, width) * 0.01))))
    y, x = np.divmod(at, width)
    points: Floats = np.stack(_terms(_axis(width)[x], _axis(height)[y]), axis=-1)
    return at, points


def _axis(length: int) -> Floats:
    return np.linspace(-1, 1, length, dtype=np.float32)


def _terms(x: Floats, y: Floats) -> list[Floats]:
    return [np.ones_like(x), x, y, x * x, x * y, y * y]


def _surface(weights: Floats, height: int, width: int) -> Floats:
    """The quadratic surface of ``weights`` [6, 3] as Lab colours [H, W, 3]."""
    one, x, y, xx, xy, yy = weights.astype(np.float32)
    across, down = _axis(width)[:, None], _axis(height)
    level, slope = one + across * (x + across * xx), y + across * xy
    rows = np.stack([level.ravel(), slope.ravel(), np.tile(yy, width)])
    surface: Floats = np.stack([np.ones_like(down), down, down * down], axis=1) @ rows
    return surface.reshape(height, width, 3)


def _near(colours: Floats, target: Floats, limit: float) -> Region:
    near: Region = _lengths(colours - target) < limit
    return near


def _lengths(vectors: Floats) -> Floats:
    """Of ``vectors`` [N, 3], [N]: faster than `numpy.linalg.norm` along so short an axis."""
    lengths: Floats = np.sqrt(np.einsum("ij,ij->i", vectors, vectors))
    return lengths


def _lab(rgb: Pixels) -> Floats:
    """CIE Lab, L in 0..100, of uint8 [H, W, 3]."""
    lab: Floats = cv2.cvtColor(rgb.astype(np.float32) / 255, cv2.COLOR_RGB2LAB)
    return lab


def _rgb_light(lab: Floats) -> Floats:
    """The light, 0 to 1, of Lab colours [H, W, 3]."""
    light: Floats = np.clip(cv2.cvtColor(lab, cv2.COLOR_LAB2LRGB), 0, 1)
    return light
