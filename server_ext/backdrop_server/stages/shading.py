"""Soft shadows: the ground of a uniform background where a product has darkened it."""

from __future__ import annotations

import math

import cv2
import numpy as np
import numpy.typing as npt

from backdrop_server.stages.means import mean_near
from backdrop_server.stages.regions import around, touched_at_border, widened, without_specks

Floats = npt.NDArray[np.float32]
Region = npt.NDArray[np.bool_]

CHROMA = 4.0
"""Lab chroma by which a shadow may differ from its ground at the same lightness."""
DARKEST = 0.4
"""Lightness under this share of the ground's is product: an umbra that dark is thin."""
RISE = 0.6
"""Lab per pixel that a shadow may always change by; JPEG noise on a plain ground stays under it."""
FALLOFF = 0.012
"""The steepest shadow of an open form fades to 1/e within this share of the copy's short side."""
SHARPEST = 5.0
"""And within no fewer pixels: the blur of an edge is shorter."""
CONTACT, CONTACT_RISE = 12.0, 0.2
"""Beyond this Lab depth a shadow may be that of a foot on its ground, and change by so much more per
pixel for each Lab: it is steeper, and no pale product's edge is as deep."""
GAP = 0.01
"""Gaps in a product's outline under twice this share of the short side do not let a shadow in."""
DEPTHS = (100.0, 30.0, 20.0, 12.0, 6.0)
"""Lab depths of shadow to try: one deep enough to look like the product has no edge against it."""
REACH = 4
"""Pixels of the copy by which a shadow ends short of the product, as the copy is smoothed."""
SEEN = 5
"""Pixels from which a smoothed colour, four of them, and its slope are taken; cracks need fewer."""
CRACKS = 0.1
"""Pixels of edge in the ground, as a share of the short side, that show a shadow got in."""
SIDES = 384, 512
"""Shadows are sought in a copy whose long side is in this range: in a larger one is nothing that is
soft, but more noise, and in a smaller one the steepest shadow is as sharp as an edge."""


def shaded_ground(
    lab: Floats, ground: Floats, distance: Floats, outside: Region, floor: float
) -> Region:
    """The ground [H, W], grown from ``outside`` over soft shadows and gradients.

    ``distance`` [H, W]: how far ``lab`` is from the colour of the ``ground``.
    """
    height, width = outside.shape
    scale = _copy_scale(height, width)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    way = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    if size != (width, height):
        lab, ground = (cv2.resize(image, size, interpolation=way) for image in (lab, ground))
        outside = cv2.resize(outside.astype(np.float32), size, interpolation=way) > 0.5
        distance = np.sqrt(squares(lab - ground))
    shaded = _shaded(lab, ground, distance, outside, floor, max(1.0, scale))
    if size == (width, height):
        return shaded
    back = cv2.resize(shaded.astype(np.float32), (width, height), interpolation=cv2.INTER_LINEAR)
    whole: Region = back > 0.5
    return whole


def _shaded(
    lab: Floats, ground: Floats, depth: Floats, outside: Region, floor: float, enlarged: float
) -> Region:
    """`shaded_ground` in the copy, which is ``enlarged`` times as large as the picture, or 1."""
    shaded = np.ones_like(outside)
    if outside.all():
        return shaded
    short = min(outside.shape)
    radius = max(2.0, short * GAP)
    part = around(~outside, SEEN + math.ceil(radius))  # beyond it all is outside, up to the border
    fade = max(SHARPEST, short / enlarged * FALLOFF)
    depth = depth[part]
    soft = _is_soft(lab[part], ground[part], depth, floor, fade, enlarged)
    shaded[part] = _grown(outside[part], soft, depth, floor, radius, CRACKS * short)
    return shaded


def reach_of(height: int, width: int) -> int:
    """The pixels of a picture by which a shadow that was found ends short of its product."""
    return max(1, round(REACH / _copy_scale(height, width)))


def follow_shading(lab: Floats, ground: Floats, outside: Region, reach: int) -> Floats:
    """The ground's colour [H, W, 3] with the shadows on it, carried on ``reach`` under the product."""
    clear = cv2.erode(outside.view(np.uint8), np.ones((3, 3), np.uint8)).astype(np.float32)
    side = 2 * reach + 1
    shaded: Floats = cv2.add(ground, mean_near(cv2.subtract(lab, ground), clear, side, 1e-3))
    return shaded


def _copy_scale(height: int, width: int) -> float:
    """The size of the copy in which shadows are sought, by that of the picture."""
    least, most = (side / max(height, width) for side in SIDES)
    return min(max(1.0, least), most)


def _grown(
    outside: Region, soft: Region, depth: Floats, floor: float, radius: float, cracks: float
) -> Region:
    """What can be reached from ``outside`` through ``soft``, if that is no product.

    A disc of ``radius`` has to fit on the way, so that neither an outline with small gaps nor specks of
    noise lead it astray.
    """
    size = -1
    for deepest in DEPTHS:
        shaded = soft & (depth < deepest)
        size, before = np.count_nonzero(shaded), size
        if size == before:
            continue
        free = ~without_specks(~(outside | shaded), 4 * radius)
        centres = cv2.distanceTransform(free.view(np.uint8), cv2.DIST_L2, 5) > radius
        grown = widened(touched_at_border(centres, outside), radius) & free
        if _cracks(outside | grown, depth, floor) <= cracks:
            return grown
    return outside


def _cracks(ground: Region, depth: Floats, floor: float) -> int:
    """The pixels of edges in the ground: with many it holds a product's inside, next to the outside.

    The colour of ground alone is much the same on both sides of a line that is not ground.
    """
    square = np.ones((7, 7), np.uint8)
    deepest = cv2.dilate(np.where(ground, depth, 0), square)
    shallowest = cv2.erode(np.where(ground, depth, np.float32(1e3)), square)
    cracks = ~ground & (deepest - shallowest > np.maximum(2 * floor, 0.6 * deepest))
    return int(np.count_nonzero(cracks))


def _is_soft(
    lab: Floats, ground: Floats, depth: Floats, floor: float, fade: float, enlarged: float
) -> Region:
    """Where the colour could be that of shaded ground, and no edge runs.

    ``enlarged``: how much larger the copy is than the picture, 1 if it is not. The steepest shadow
    fades to 1/e within ``fade`` pixels of the picture.
    A shadow of any strength that fades over a length changes per pixel by its depth over that
    length; an edge of any strength changes by about its whole height.
    """
    smooth = cv2.GaussianBlur(lab, (0, 0), 1)
    (lightness, *chroma), (bright, *plain) = cv2.split(smooth), cv2.split(ground)
    ratio = (lightness + 16) / (bright + 16)
    green, blue = (own - ratio * its for own, its in zip(chroma, plain, strict=True))
    darker = bright - lightness
    limit = RISE + depth / fade
    limit += CONTACT_RISE * np.maximum(depth - CONTACT, 0)
    soft: Region = green * green + blue * blue < CHROMA**2
    soft &= (-2 * floor < darker) & (darker < (1 - DARKEST) * bright)
    soft &= enlarged * _slope(smooth) < limit
    return soft


def _slope(lab: Floats) -> Floats:
    """The change in Lab per pixel, [H, W]."""
    across, down = (cv2.Sobel(lab, cv2.CV_32F, *axis, scale=1 / 8) for axis in ((1, 0), (0, 1)))
    slope: Floats = np.sqrt(squares(across) + squares(down))
    return slope


def squares(image: Floats) -> Floats:
    """The sum of the squares of the three channels, [H, W]."""
    total: Floats = cv2.transform(cv2.multiply(image, image), np.ones((1, 3), np.float32))
    return total
