"""Whether the product is unchanged, and whether it has grown: numbers for every report."""

from __future__ import annotations

import dataclasses

import cv2
import numpy as np
import numpy.typing as npt

from backdrop_server.stages.regions import Places, places, taken

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


@dataclasses.dataclass(frozen=True, eq=False)
class Surroundings:
    """Where a product's continuation is sought, in a copy of ``size``, width and height.

    ``window``: the part [h, w] of the copy beyond which nothing counts. In it ``inside`` and
    ``outside`` bool [h, w]; the pixels ``asked`` [N], and of each the ``nearest`` one inside,
    both counted row by row.
    """

    size: tuple[int, int]
    window: tuple[slice, slice]
    inside: Region
    outside: Region
    asked: Places
    nearest: Places


@dataclasses.dataclass(frozen=True, eq=False)
class Product:
    """What pictures are compared with: ``photo`` uint8 [H, W, 3], ``core`` uint8 [H, W], 1 where its
    matte is 255, and the ``surroundings``, None where all or nothing is product."""

    photo: Pixels
    core: Pixels
    surroundings: Surroundings | None


def product_of(photo: Pixels, alpha: Pixels) -> Product:
    """The product of ``photo`` uint8 [H, W, 3] by ``alpha`` uint8 [H, W], to compare pictures with."""
    return Product(photo, (alpha == 255).view(np.uint8), surroundings_of(alpha))


def fidelity(product: Product, picture: Pixels) -> Fidelity:
    """Compare ``picture`` uint8 [H, W, 3] with the photo in the product's core and around it."""
    count, worst, mean = 0, 0.0, 0.0
    if cv2.norm(product.photo, picture, cv2.NORM_INF, product.core):
        changed = _differs(product.photo, picture) & (product.core > 0)
        count = int(np.count_nonzero(changed))
        difference = delta_e(product.photo[changed][None], picture[changed][None])
        worst = float(difference.max())
        mean = float(difference.sum() / np.count_nonzero(product.core))
    grown = expansion(product.surroundings, picture)
    return Fidelity(count, round(worst, 3), round(mean, 4), round(grown, 5))


def delta_e(first: Pixels, second: Pixels) -> Floats:
    """The colour difference CIE76 of two pictures uint8 [H, W, 3], float32 [H, W]."""
    difference = _lab(first) - _lab(second)
    distance: Floats = np.sqrt((difference**2).sum(axis=2))
    return distance


def surroundings_of(alpha: Pixels) -> Surroundings | None:
    """The surroundings of the product by its matte ``alpha`` uint8 [H, W]; None without any."""
    scale = min(1.0, SIDE / max(alpha.shape))
    size = max(1, round(alpha.shape[1] * scale)), max(1, round(alpha.shape[0] * scale))
    subject = cv2.resize(alpha, size, interpolation=cv2.INTER_AREA)
    inside, outside = subject >= 250, subject <= 5
    if not inside.any() or not outside.any():
        return None
    reach = EXPANSION_REACH * np.sqrt(np.count_nonzero(inside))
    window = _window(inside, reach)
    inside, outside = inside[window], outside[window]
    away, labels = cv2.distanceTransformWithLabels(
        (~inside).view(np.uint8), cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_PIXEL
    )
    asked, within = places(outside & (away < reach)), places(inside)
    inside_of = np.zeros(labels.max() + 1, np.intp)
    inside_of[taken(labels, within)] = within
    nearest = inside_of[taken(labels, asked)]
    return Surroundings(size, window, inside, outside, asked, nearest)


def expansion(around: Surroundings | None, picture: Pixels) -> float:
    """E = area(out and not in) / area(in): how much of the surroundings continues the product.

    After the object expansion of Eshratifar et al. (2024), who segment the output with a network;
    here a pixel outside counts if it is joined to the outline by pixels in the colour of the
    product's nearest edge. A background in the product's own colour counts too.
    """
    if around is None:
        return 0.0
    small = cv2.resize(picture, around.size, interpolation=cv2.INTER_AREA)
    lab = _lab(small[around.window]).reshape(-1, 3)
    unlike = lab.take(around.asked, axis=0) - lab.take(around.nearest, axis=0)
    alike = np.zeros(len(lab), bool)
    alike[around.asked] = np.einsum("ij,ij->i", unlike, unlike) < EXPANSION_LIKE**2
    grown = _joined(alike.reshape(around.inside.shape), ~around.outside) & around.outside
    return float(np.count_nonzero(grown) / np.count_nonzero(around.inside))


def _window(inside: Region, reach: float) -> tuple[slice, slice]:
    """The smallest rectangle with all that is within ``reach`` pixels of the inside."""
    margin = int(reach) + 2
    rows, columns = (np.flatnonzero(inside.any(axis=axis)) for axis in (1, 0))
    top, left = (max(0, int(found[0]) - margin) for found in (rows, columns))
    bottom, right = (int(found[-1]) + margin + 1 for found in (rows, columns))
    return slice(top, bottom), slice(left, right)


def _differs(first: Pixels, second: Pixels) -> Region:
    """Where any channel differs; ``any`` over the last axis takes five times as long."""
    bits = cv2.bitwise_xor(first, second)
    differs: Region = (bits[..., 0] | bits[..., 1] | bits[..., 2]) != 0
    return differs


def _joined(region: Region, seed: Region) -> Region:
    """The connected parts of ``region`` that touch ``seed``."""
    _, labels = cv2.connectedComponents((region | seed).view(np.uint8), connectivity=4)
    touched = np.zeros(labels.max() + 1, bool)
    touched[taken(labels, places(seed))] = True
    joined: Region = touched.take(labels) & region
    return joined


def _lab(rgb: Pixels) -> Floats:
    lab: Floats = cv2.cvtColor(rgb.astype(np.float32) / 255, cv2.COLOR_RGB2LAB)
    return lab
