"""Products with their true share of every pixel, and photos of them before all sorts of grounds."""

from __future__ import annotations

import dataclasses

import cv2
import numpy as np
import numpy.typing as npt

from backdrop_export.training.render.canvas import Floats, Rng, blur, grid, mix, noise
from backdrop_export.training.render.outlines import OUTLINES, Layer
from backdrop_export.training.render.products import draw_product
from backdrop_server.stages.composite import light_of, srgb_of

Pixels = npt.NDArray[np.uint8]
FINE = 2
"""A share is drawn this many times as large, then averaged."""
BODIES = 0.22
"""Share of products that are whole painted bodies, as the demo's pictures have them."""
SEE_THROUGH = ("vessel", "veil")


@dataclasses.dataclass(frozen=True, eq=False)
class Cutout:
    """``rgb`` [side, side, 3] and ``alpha`` [side, side], 0 to 1; ``rgb`` is defined everywhere."""

    kind: str
    rgb: Floats
    alpha: Floats


def draw_cutout(rng: Rng, side: int) -> Cutout:
    """One product of any kind, anywhere in the picture, blurred as a lens does."""
    if rng.random() < BODIES:
        kind, rgb, share = _body(rng, side)
    else:
        kind = list(OUTLINES)[int(rng.integers(len(OUTLINES)))]
        layer = np.zeros((side * FINE, side * FINE), np.uint8)
        OUTLINES[kind](layer, rng)
        if kind not in SEE_THROUGH and rng.random() < 0.15:
            more = np.zeros_like(layer)
            OUTLINES[str(rng.choice(["hoops", "foliage", "blob", "vessel"]))](more, rng)
            layer = np.maximum(layer, more)
        share, rgb = _placed(rng, layer, side), _paint(rng, side)
    return Cutout(kind, rgb, _in_focus(rng, share))


def _body(rng: Rng, side: int) -> tuple[str, Floats, Floats]:
    drawn = draw_product(rng, side * FINE)
    small = (side, side)
    share = cv2.resize(drawn.alpha, small, interpolation=cv2.INTER_AREA)
    weighted = cv2.resize(drawn.rgb * drawn.alpha[..., None], small, interpolation=cv2.INTER_AREA)
    rgb = weighted / np.maximum(share, 1e-3)[..., None]
    if rng.random() < 0.3:  # pale, as much on a white ground is
        rgb = 1 - (1 - rgb) * rng.uniform(0.08, 0.35)
    return drawn.kind, np.clip(rgb, 0, 1), share


def _placed(rng: Rng, layer: Layer, side: int) -> Floats:
    """Turned, scaled and moved, at the picture's size."""
    size, turn = (
        len(layer),
        float(rng.normal(0, 15)) if rng.random() < 0.7 else rng.uniform(-180, 180),
    )
    way = cv2.getRotationMatrix2D((size / 2, size / 2), turn, float(rng.uniform(0.6, 1.25)))
    way[:, 2] += rng.uniform(-0.1, 0.1, 2) * size
    moved = cv2.warpAffine(layer, way, (size, size), flags=cv2.INTER_AREA)
    small: Layer = cv2.resize(moved, (side, side), interpolation=cv2.INTER_AREA)
    return small.astype(np.float32) / 255


def _in_focus(rng: Rng, share: Floats) -> Floats:
    soft = blur(share, float(rng.uniform(0.35, 1.0)) if rng.random() < 0.9 else 1.6)
    soft[soft > 0.999], soft[soft < 0.001] = 1, 0
    return soft


def _paint(rng: Rng, side: int) -> Floats:
    """Colours of a product: plain, striped, blotched or labelled, under some light."""
    base, other = (_colour(rng) for _ in range(2))
    x, y = grid(side)
    style = rng.random()
    if style < 0.3:
        pattern = np.zeros_like(x)
    elif style < 0.55:
        wave = np.sin((x * rng.uniform(-1, 1) + y * rng.uniform(-1, 1)) * rng.uniform(10, 90))
        pattern = (wave > rng.uniform(-0.5, 0.8)).astype(np.float32)
    elif style < 0.8:
        pattern = noise(rng, side, (rng.uniform(2, 12), rng.uniform(2, 12)), 4)
    else:
        half = rng.uniform(0.03, 0.2, 2)
        pattern = ((np.abs(x - 0.5) < half[0]) & (np.abs(y - 0.5) < half[1])).astype(np.float32)
    slope = rng.uniform(-0.7, 0.7, 2) * (rng.random() < 0.7)
    light = 1.05 + slope[0] * (x - 0.5) + slope[1] * (y - 0.5)
    light += rng.uniform(0, 0.15) * np.cos(x * rng.uniform(5, 30) + rng.uniform(0, 6))
    spot = rng.uniform(0, 0.5) * np.exp(
        -((x - rng.uniform(0.3, 0.7)) ** 2 + (y - 0.4) ** 2) / 0.004
    )
    lit = mix(base, other, pattern) * light[..., None] + spot[..., None]
    clipped: Floats = np.clip(lit, 0, rng.uniform(0.93, 1)).astype(np.float32)
    return clipped


def _colour(rng: Rng) -> Floats:
    """Any colour; often pale, dark, or grey, as products are."""
    draw = rng.random()
    if draw < 0.25:
        colour = rng.uniform(0.78, 0.98) + rng.uniform(-0.02, 0.02, 3)
    elif draw < 0.4:
        colour = rng.uniform(0.02, 0.25) + rng.uniform(-0.02, 0.02, 3)
    elif draw < 0.5:
        colour = rng.uniform(0.2, 0.8) + rng.uniform(-0.03, 0.03, 3)
    else:
        colour = rng.uniform(0.03, 0.9, 3)
    clipped: Floats = np.clip(colour, 0, 1).astype(np.float32)
    return clipped


def with_shadow(rng: Rng, ground: Floats, alpha: Floats) -> Floats:
    """The ground with the soft shadow that the product throws on it, or none."""
    if rng.random() < 0.45 or not alpha.any():
        return ground
    side = len(alpha)
    rows, columns = (np.flatnonzero(alpha.max(axis=axis) > 0.5) for axis in (1, 0))
    if not rows.size or not columns.size:
        return ground
    if rng.random() < 0.5:
        x, y = grid(side)
        middle, half = columns.mean() / side, np.ptp(columns) / side * rng.uniform(0.5, 0.9) + 0.02
        away = ((x - middle) / half) ** 2 + ((y - rows.max() / side) / rng.uniform(0.02, 0.09)) ** 2
        shade = np.exp(-away)
    else:
        shift = np.array([[1, 0, rng.uniform(-0.06, 0.06) * side], [0, 1, 0.03 * side]])
        shade = blur(cv2.warpAffine(alpha, shift, (side, side)), side * rng.uniform(0.012, 0.05))
    light: Floats = 1 - float(rng.uniform(0.05, 0.5)) * shade
    return (ground * light[..., None]).astype(np.float32)


def photo_of(rng: Rng, cutout: Cutout, ground: Floats) -> Pixels:
    """The product over the ground, uint8 [side, side, 3], as a camera or an editor gives it."""
    shaded = with_shadow(rng, ground, cutout.alpha)
    front, back = (np.rint(np.clip(p, 0, 1) * 255).astype(np.uint8) for p in (cutout.rgb, shaded))
    share = cutout.alpha[..., None]
    if rng.random() < 0.5:
        rgb = srgb_of(light_of(back) + share * (light_of(front) - light_of(back)))
    else:
        rgb = np.rint(back + share * (front.astype(np.float32) - back)).astype(np.uint8)
    if rng.random() < 0.5:
        grain = rng.normal(0, rng.uniform(0.4, 3), rgb.shape)
        rgb = np.clip(np.rint(rgb + grain), 0, 255).astype(np.uint8)
    if rng.random() < 0.4:
        quality = [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(75, 98))]
        rgb = cv2.imdecode(cv2.imencode(".jpg", rgb, quality)[1], cv2.IMREAD_COLOR)
    return rgb
