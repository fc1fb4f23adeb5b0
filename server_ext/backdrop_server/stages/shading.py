"""Soft shadows: the ground of a uniform background where a product has darkened it."""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

from backdrop_server.stages.means import mean_near
from backdrop_server.stages.regions import touched_at_border, widened, without_specks

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
CRACKS = 0.1
"""Pixels of edge in the ground, as a share of the short side, that show a shadow got in."""
SIDES = 384, 512
"""Shadows are sought in a copy whose long side is in this range: in a larger one is nothing that is
soft, but more noise, and in a smaller one the steepest shadow is as sharp as an edge."""


def shaded_ground(lab: Floats, ground: Floats, outside: Region, floor: float) -> Region:
    """The ground [H, W], grown from ``outside`` over soft shadows and gradients."""
    height, width = outside.shape
    scale = _copy_scale(height, width)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    way = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    small_lab, small_ground, share = (
        image if size == (width, height) else cv2.resize(image, size, interpolation=way)
        for image in (lab, ground, outside.astype(np.float32))
    )
    depth = np.sqrt(squares(small_lab - small_ground))
    soft = _is_soft(small_lab, small_ground, depth, floor, max(1.0, scale))
    small = _grown(share > 0.5, soft, depth, floor)
    back = cv2.resize(small.astype(np.float32), (width, height), interpolation=cv2.INTER_LINEAR)
    shaded: Region = back > 0.5
    return shaded


def reach_of(height: int, width: int) -> int:
    """The pixels of a picture by which a shadow that was found ends short of its product."""
    return max(1, round(REACH / _copy_scale(height, width)))


def follow_shading(lab: Floats, ground: Floats, outside: Region) -> Floats:
    """The ground's colour [H, W, 3] with the shadows on it, carried on a little under the product."""
    reach = reach_of(*outside.shape)
    clear = cv2.erode(outside.view(np.uint8), np.ones((3, 3), np.uint8)).astype(np.float32)
    side = 2 * max(reach, round(min(lab.shape[:2]) * GAP / 2)) + 1
    shaded: Floats = cv2.add(ground, mean_near(cv2.subtract(lab, ground), clear, side, 1e-3))
    return shaded


def _copy_scale(height: int, width: int) -> float:
    """The size of the copy in which shadows are sought, by that of the picture."""
    least, most = (side / max(height, width) for side in SIDES)
    return min(max(1.0, least), most)


def _grown(outside: Region, soft: Region, depth: Floats, floor: float) -> Region:
    """What can be reached from ``outside`` through ``soft``, if that is no product.

    A disc has to fit on the way, so that neither an outline with small gaps nor specks of noise
    lead it astray.
    """
    radius = max(2.0, min(outside.shape) * GAP)
    size = -1
    for deepest in DEPTHS:
        shaded = soft & (depth < deepest)
        size, before = np.count_nonzero(shaded), size
        if size == before:
            continue
        free = ~without_specks(~(outside | shaded), 4 * radius)
        centres = cv2.distanceTransform(free.view(np.uint8), cv2.DIST_L2, 5) > radius
        grown = widened(touched_at_border(centres, outside), radius) & free
        if not _has_entered(outside | grown, depth, floor):
            return grown
    return outside


def _has_entered(ground: Region, depth: Floats, floor: float) -> bool:
    """Whether edges run through the ground: then it holds a product's inside, next to the outside.

    The colour of ground alone is much the same on both sides of a line that is not ground.
    """
    square = np.ones((7, 7), np.uint8)
    deepest = cv2.dilate(np.where(ground, depth, 0), square)
    shallowest = cv2.erode(np.where(ground, depth, np.float32(1e3)), square)
    cracks = ~ground & (deepest - shallowest > np.maximum(2 * floor, 0.6 * deepest))
    return bool(np.count_nonzero(cracks) > CRACKS * min(ground.shape))


def _is_soft(lab: Floats, ground: Floats, depth: Floats, floor: float, enlarged: float) -> Region:
    """Where the colour could be that of shaded ground, and no edge runs.

    ``enlarged``: how much larger the copy is than the picture, 1 if it is not.
    A shadow of any strength that fades over a length changes per pixel by its depth over that
    length; an edge of any strength changes by about its whole height.
    """
    smooth = cv2.GaussianBlur(lab, (0, 0), 1)
    (lightness, *chroma), (bright, *plain) = cv2.split(smooth), cv2.split(ground)
    ratio = (lightness + 16) / (bright + 16)
    green, blue = (own - ratio * its for own, its in zip(chroma, plain, strict=True))
    darker = bright - lightness
    limit = RISE + depth / max(SHARPEST, min(depth.shape) / enlarged * FALLOFF)
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
