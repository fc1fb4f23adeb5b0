"""The product's own colours at its soft edge, without the old background that shone through."""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

from backdrop_server.stages.composite import light_of, srgb_of
from backdrop_server.stages.means import in_colour, mean_near
from backdrop_server.stages.regions import Places, around, places, put, taken

Pixels = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]

FAR = 0.03
"""Radius of the first look at the neighbours, as a share of the short side."""
NEAR = 3
"""Radius of the second, in pixels."""
SHRINK = 4
"""The first look needs no fine detail, so it is at a quarter of the size."""
PURITY = 4
"""Neighbours count by this power of their share: a mixed one says little of either colour."""
FAR_POWER = 4
"""The first look counts by this power of that: it can go further for what is pure."""
TRACE = 0.01
"""Mean weight of neighbours so small that those further away say as much."""
SLACK = 0.1
"""What noise may take from the mixture: more follows the neighbours, less the pixel."""


def estimate_foreground(photo: Pixels, alpha: Pixels) -> Pixels:
    """The foreground colours of ``photo`` uint8 [H, W, 3] under ``alpha`` uint8 [H, W].

    Where alpha is 255 or 0 the photo comes back bit for bit. Between, a pixel is a mixture, in light,
    of two unknown colours. Each is taken from the neighbours on its own side, first from far, then
    from near, and both times corrected so that the two mix to the pixel: the local step of multi-level
    foreground estimation (Germer et al. 2020) on the weighted means of Forte (2021).
    """
    return with_colours(photo, alpha, edge_colours(photo, alpha))


def edge_colours(photo: Pixels, alpha: Pixels) -> Pixels:
    """Of `estimate_foreground` what differs from the photo: uint8 [N, 3].

    N pixels have an ``alpha`` that is neither 0 nor 255; row by row.
    """
    band = soft_part(alpha)
    if not band.any():
        return np.empty((0, 3), np.uint8)
    far = max(2, round(FAR * min(alpha.shape) / SHRINK))
    window = around(band, NEAR + SHRINK * far)
    return _estimate(photo[window], alpha[window], places(band[window]), far)


def with_colours(photo: Pixels, alpha: Pixels, colours: Pixels) -> Pixels:
    """``photo`` uint8 [H, W, 3] with ``colours`` uint8 [N, 3] where ``alpha`` is neither 0 nor 255."""
    if not len(colours):
        return photo
    result = photo.copy()
    put(result, places(soft_part(alpha)), colours)
    return result


def soft_part(alpha: Pixels) -> npt.NDArray[np.bool_]:
    """Where ``alpha`` uint8 [H, W] is neither 0 nor 255."""
    band: npt.NDArray[np.bool_] = (alpha > 0) & (alpha < 255)
    return band


def _estimate(photo: Pixels, alpha: Pixels, band: Places, far: int) -> Pixels:
    """The foreground colours of the band's pixels, uint8 [N, 3]."""
    light, share = np.ascontiguousarray(light_of(photo)), alpha.astype(np.float32) / 255
    mixed, part = taken(light, band), taken(share, band)[:, None]
    pure, pure_back = cv2.pow(share, PURITY), cv2.pow(1 - share, PURITY)
    far_front, far_back = (
        taken(_far_mean(light, cv2.pow(way, FAR_POWER), far), band) for way in (pure, pure_back)
    )
    front, back = _corrected(far_front, far_back, mixed, part)
    put(light, band, front)
    near_front = taken(mean_near(light, pure, 2 * NEAR + 1), band)
    put(light, band, back)
    near_back = taken(mean_near(light, pure_back, 2 * NEAR + 1), band)
    front, _ = _corrected(near_front, near_back, mixed, part)
    return srgb_of(np.clip(front, 0, 1))


def _corrected(front: Floats, back: Floats, mixed: Floats, part: Floats) -> tuple[Floats, Floats]:
    """The two colours nearest to ``front`` and ``back`` [N, 3] that mix to ``mixed`` by ``part``."""
    rest = mixed - part * front - (1 - part) * back
    rest /= part**2 + (1 - part) ** 2 + SLACK
    return front + part * rest, back + (1 - part) * rest


def _far_mean(light: Floats, weight: Floats, radius: int) -> Floats:
    height, width = weight.shape
    size = max(1, width // SHRINK), max(1, height // SHRINK)
    small = cv2.resize(cv2.multiply(light, in_colour(weight)), size, interpolation=cv2.INTER_AREA)
    small_weight = cv2.resize(weight, size, interpolation=cv2.INTER_AREA)
    mean = _filled(small, small_weight, radius)
    whole: Floats = cv2.resize(mean, (width, height), interpolation=cv2.INTER_LINEAR)
    return whole


def _filled(sums: Floats, weight: Floats, radius: int) -> Floats:
    """The mean around each pixel of what was already multiplied by ``weight``.

    The less of it is near, the more is taken from further away, at half the size each time: inside
    glass nothing pure is near.
    """
    height, width = weight.shape
    if min(height, width) <= radius:
        whole = sums.sum(axis=(0, 1)) / max(float(weight.sum()), 1e-12)
        return np.broadcast_to(whole, sums.shape).astype(np.float32)
    half = (width + 1) // 2, (height + 1) // 2
    fewer, lighter = (cv2.resize(i, half, interpolation=cv2.INTER_AREA) for i in (sums, weight))
    beyond = cv2.resize(_filled(fewer, lighter, radius), (width, height))
    window = (2 * radius + 1, 2 * radius + 1)
    near = cv2.blur(weight, window)[..., None]
    mean: Floats = (cv2.blur(sums, window) + TRACE * beyond) / (near + TRACE)
    return mean
