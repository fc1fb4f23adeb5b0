"""Whether the product is unchanged, and whether it has grown: numbers for every report."""

from __future__ import annotations

import dataclasses

import cv2
import numpy as np
import numpy.typing as npt

Pixels = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]
Region = npt.NDArray[np.bool_]

SIDE = 512
"""Expansion is sought in a copy of at most this long side: it is large where it matters."""
EXPANSION_REACH = 0.12
"""How far beyond the outline to look, as a share of the subject's own size."""
EXPANSION_LIKE = 6.0
"""Lab distance within which a pixel outside looks like the product's nearest edge."""


@dataclasses.dataclass(frozen=True)
class Fidelity:
    """One picture against its photo. Colour differences are CIE76 in the core, where alpha is 255.

    ``expansion``: the area outside the matte that continues the product, as a share of its area.
    """

    changed_pixels: int
    max_delta_e: float
    mean_delta_e: float
    expansion: float


def fidelity(photo: Pixels, alpha: Pixels, picture: Pixels) -> Fidelity:
    """Compare ``picture`` with ``photo``, both uint8 [H, W, 3], where ``alpha`` uint8 [H, W] is 255."""
    core = alpha == 255
    changed = _differs(photo, picture) & core
    count = int(np.count_nonzero(changed))
    worst = mean = 0.0
    if count:  # where no bit differs, neither does a colour
        difference = delta_e(photo[changed][None], picture[changed][None])
        worst = float(difference.max())
        mean = float(difference.sum() / np.count_nonzero(core))
    return Fidelity(count, round(worst, 3), round(mean, 4), round(expansion(alpha, picture), 5))


def delta_e(first: Pixels, second: Pixels) -> Floats:
    """The colour difference CIE76 of two pictures uint8 [H, W, 3], float32 [H, W]."""
    difference = _lab(first) - _lab(second)
    distance: Floats = np.sqrt((difference**2).sum(axis=2))
    return distance


def expansion(alpha: Pixels, picture: Pixels) -> float:
    """E = area(out and not in) / area(in): how much of the surroundings continues the product.

    After the object expansion of Eshratifar et al. (2024), who segment the output with a network;
    here a pixel outside counts if it is joined to the outline by pixels in the colour of the
    product's nearest edge. A background in the product's own colour counts too.
    """
    scale = min(1.0, SIDE / max(alpha.shape))
    size = max(1, round(alpha.shape[1] * scale)), max(1, round(alpha.shape[0] * scale))
    small, subject = (cv2.resize(i, size, interpolation=cv2.INTER_AREA) for i in (picture, alpha))
    inside, outside = subject >= 250, subject <= 5
    if not inside.any() or not outside.any():
        return 0.0
    reach = EXPANSION_REACH * np.sqrt(np.count_nonzero(inside))
    near = _surroundings(inside, reach)  # nothing counts beyond it
    inside, outside = inside[near], outside[near]
    away, nearest = _nearest_inside(inside)
    lab, asked = _lab(small[near]), outside & (away < reach)
    unlike = lab[asked] - lab[inside][nearest[asked]]
    alike = np.zeros_like(asked)
    alike[asked] = np.sqrt((unlike**2).sum(axis=1)) < EXPANSION_LIKE
    grown = _joined(alike, ~outside) & outside
    return float(np.count_nonzero(grown) / np.count_nonzero(inside))


def _differs(first: Pixels, second: Pixels) -> Region:
    """Where any channel differs; ``any`` over the last axis takes five times as long."""
    bits = cv2.bitwise_xor(first, second)
    differs: Region = (bits[..., 0] | bits[..., 1] | bits[..., 2]) != 0
    return differs


def _surroundings(inside: Region, reach: float) -> tuple[slice, slice]:
    """The smallest rectangle with all that is within ``reach`` pixels of the inside."""
    margin = int(reach) + 2
    rows, columns = (np.flatnonzero(inside.any(axis=axis)) for axis in (1, 0))
    top, left = (max(0, int(found[0]) - margin) for found in (rows, columns))
    bottom, right = (int(found[-1]) + margin + 1 for found in (rows, columns))
    return slice(top, bottom), slice(left, right)


def _nearest_inside(inside: Region) -> tuple[Floats, npt.NDArray[np.int64]]:
    """The distance to the inside, and the index of its nearest pixel among all inside."""
    away, labels = cv2.distanceTransformWithLabels(
        (~inside).astype(np.uint8), cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_PIXEL
    )
    order = np.zeros(labels.max() + 1, np.int64)
    order[labels[inside]] = np.arange(np.count_nonzero(inside))
    return away, order[labels]


def _joined(region: Region, seed: Region) -> Region:
    """The connected parts of ``region`` that touch ``seed``."""
    _, labels = cv2.connectedComponents((region | seed).astype(np.uint8), connectivity=4)
    touched = np.zeros(labels.max() + 1, bool)
    touched[labels[seed]] = True
    joined: Region = touched[labels] & region
    return joined


def _lab(rgb: Pixels) -> Floats:
    lab: Floats = cv2.cvtColor(rgb.astype(np.float32) / 255, cv2.COLOR_RGB2LAB)
    return lab
