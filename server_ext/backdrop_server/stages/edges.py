"""The outline of a found subject: its holes, and how much of each edge pixel is subject."""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np
import numpy.typing as npt

from backdrop_server.stages.composite import light_of
from backdrop_server.stages.means import in_colour, means_at
from backdrop_server.stages.regions import (
    Part,
    Places,
    around,
    named,
    parts_of,
    places,
    put,
    taken,
)

Pixels = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]
Region = npt.NDArray[np.bool_]

HOLE_WALL = 1.0
"""A hole's wall is thinner than this share of its width: a ring's is, that around a label is not."""
HOLE_AREA = 9
"""Pixels; less is noise."""
HOLE_ROUNDS = 3
"""Holes behind holes: a wheel's inner gaps lie behind its outer ones."""
EDGE_DEPTH = 2
"""Pixels inside the found outline that may be mixed with the background."""
EDGE_REACH = 4
"""Pixels within which the edge's unmixed colour is sought."""
OPAQUE = 0.93
"""A share above this is all subject: what is missing is noise and texture."""
CLEAR = 0.03
"""A share under this is none."""
SURE_CONTRAST = 10.0
"""Lab difference across the outline that leaves no doubt where it runs."""
SURE_SIDE = 512
SURE_REACH = 4


def ground_in_holes(level: Region, outside: Region) -> Region:
    """The parts of ``level`` (in the ground's colour) [H, W] enclosed by product that are holes in it.

    A part in the ground's colour may be a hole (a ring, a handle) or a label in that very colour.
    Round a hole, the product is thin somewhere for the hole's width.
    """
    labels, areas = parts_of(level & ~outside)
    large = areas >= HOLE_AREA
    names = np.flatnonzero(large)
    if not names.size:
        return np.zeros_like(outside)
    at = places(named(labels, large))
    of = taken(labels, at)
    widths = 2 * _extreme(np.maximum, taken(_away((labels == 0) | outside), at), of, len(areas))
    kept = np.zeros(len(areas), bool)
    for _ in range(HOLE_ROUNDS):
        walls = _extreme(
            np.minimum, taken(_away(outside | named(labels, kept)), at), of, len(areas)
        )
        thin = kept.copy()
        thin[names] |= walls[names] <= HOLE_WALL * widths[names]
        if (thin == kept).all():
            break
        kept = thin
    return named(labels, kept)


def _extreme(
    least_or_most: np.ufunc, values: Floats, of: npt.NDArray[np.int32], count: int
) -> Floats:
    """The least or the most of ``values`` [N] for each of ``count`` labels ``of`` [N]."""
    start = np.inf if least_or_most is np.minimum else 0
    found = np.full(count, start, np.float32)
    least_or_most.at(found, of, values)
    return found


def _away(region: Region) -> Floats:
    """The distance of each pixel from ``region``."""
    away: Floats = cv2.distanceTransform((~region).view(np.uint8), cv2.DIST_L2, 5)
    return away


def soft_edge(rgb: Pixels, ground: Callable[[Part], Floats], subject: Region) -> Pixels:
    """Alpha uint8 [H, W] that is soft only along the edge of ``subject`` [H, W].

    ``ground`` gives the background's light in a part of the picture, [h, w, 3]. An edge pixel is a
    mixture in light, so its share of subject is how far it lies on the way from the ground's colour to
    that of its unmixed neighbours.
    """
    solid = subject.view(np.uint8)
    side = 2 * EDGE_DEPTH + 1
    inner = cv2.erode(solid, np.ones((side, side), np.uint8), borderValue=1)
    band = (cv2.dilate(solid, np.ones((3, 3), np.uint8)) > 0) & (inner == 0)
    alpha: Pixels = inner * np.uint8(255)
    if band.any():
        part = around(band, 2 * EDGE_REACH)
        contrast = light_of(rgb[part])
        contrast -= ground(part)
        share = _share(contrast, inner[part], places(band[part])) - CLEAR
        put(alpha, places(band), np.rint(255 * np.clip(share / (OPAQUE - CLEAR), 0, 1)))
    return alpha


def _share(contrast: Floats, inner: Pixels, band: Places) -> Floats:
    """The band's shares of subject [N]; ``contrast``: light less the ground's, [H, W, 3].

    Thin parts have no unmixed pixel: there the one that differs most from the ground serves.
    """
    weight = inner.astype(np.float32)
    window = (2 * EDGE_REACH + 1, 2 * EDGE_REACH + 1)
    near = taken(cv2.blur(weight, window), band)
    whole = (
        taken(cv2.blur(cv2.multiply(contrast, in_colour(weight)), window), band)
        / np.maximum(near, 1e-4)[:, None]
    )
    length = np.sqrt(cv2.transform(cv2.multiply(contrast, contrast), np.ones((1, 3), np.float32)))
    most = taken(cv2.dilate(length, np.ones((7, 7), np.uint8)), band)
    own = taken(contrast, band)
    along = (own * whole).sum(axis=1) / np.maximum((whole**2).sum(axis=1), 1e-6)
    share: Floats = np.where(near > 1e-4, along, taken(length, band) / np.maximum(most, 1e-4))
    return share


def sureness(rgb: Pixels, alpha: Pixels) -> float:
    """The share, 0 to 1, of the outline that the photo's own colours confirm.

    There the colours within SURE_REACH pixels inside and outside differ by SURE_CONTRAST and more.
    """
    scale = min(1.0, SURE_SIDE / max(alpha.shape))
    size = max(1, round(alpha.shape[1] * scale)), max(1, round(alpha.shape[0] * scale))
    small = cv2.resize(rgb, size, interpolation=cv2.INTER_AREA)
    solid = (cv2.resize(alpha, size, interpolation=cv2.INTER_AREA) >= 128).astype(np.uint8)
    square = np.ones((3, 3), np.uint8)
    inner, wide = cv2.erode(solid, square, borderValue=1), cv2.dilate(solid, square)
    outline = solid != inner
    if not outline.any():
        return 0.0
    part = around(outline, 2 * SURE_REACH)
    at = places(outline[part])
    lab = cv2.cvtColor(small[part].astype(np.float32) / 255, cv2.COLOR_RGB2LAB)
    inside, outside = (
        means_at(lab, region[part].astype(np.float32), 2 * SURE_REACH + 1, at)
        for region in (inner, 1 - wide)
    )
    contrast = np.sqrt(((inside - outside) ** 2).sum(axis=1))
    return round(float(np.clip(contrast / SURE_CONTRAST, 0, 1).mean()), 3)
