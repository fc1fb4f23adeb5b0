"""Keying: tell a product from the plain ground it stands on, its soft shadows included."""

from __future__ import annotations

import functools

import cv2
import numpy as np
import numpy.typing as npt

from backdrop_server.stages.edges import ground_in_holes, soft_edge
from backdrop_server.stages.means import mean_near

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
SHADING_CHROMA = 4.0
"""Lab chroma by which a shadow may differ from its ground at the same lightness."""
SHADING_DARKEST = 0.4
"""Lightness under this share of the ground's is product: an umbra that dark is thin."""
SHADING_RISE = 0.6
"""Lab per pixel that a shadow may always change by; JPEG noise on a plain ground stays under it."""
SHADING_FALLOFF = 0.0075
"""The steepest shadow, that of a foot on its ground, fades to 1/e within this share of the picture's
short side."""
SHADING_SHARPEST = 3.8
"""And within so many of the picture's pixels: the blur of an edge is shorter."""
SHADING_GAP = 0.01
"""Gaps in a product's outline under twice this share of the short side do not let a shadow in."""
SHADING_DEPTHS = (100.0, 30.0, 20.0, 12.0, 6.0)
"""Lab depths of shadow to try: one deep enough to look like the product has no edge against it."""
SHADING_REACH = 4
"""Pixels of the copy by which a shadow ends short of the product, as the copy is smoothed."""
SHADING_CRACKS = 0.1
"""Pixels of edge in the ground, as a share of the short side, that show a shadow got in."""
SHADING_SIDES = 384, 512
"""Shadows are sought in a copy whose long side is in this range: in a larger one is nothing that is
soft, but more noise, and in a smaller one the steepest shadow is as sharp as an edge."""
SMALLEST_PART = 0.02
"""Parts under this share of the largest part are specks, not products."""


def key_uniform_background(rgb: Pixels) -> Pixels | None:
    """Key out a smooth background that touches the border; None where the border is not smooth."""
    ground = _border_ground(rgb)
    if ground is None:
        return None
    weights, noise = ground
    lab, surface = _lab(rgb), _surface(weights, *rgb.shape[:2])
    floor = max(KEY_FLOOR, 3 * noise)
    distance, outside = _key(lab, surface, floor)
    shaded = _shaded_ground(lab, surface, outside, floor)
    if (shaded & ~outside).any():
        reach = round(SHADING_REACH / _copy_scale(*outside.shape))
        surface = _follow_shading(lab, surface, outside | shaded, reach)
        distance, level = _key(lab, surface, floor)
        outside |= shaded | (level & _widened(shaded, reach))
    level = _level(distance, floor)
    outside |= connected_to_border(outside | level)
    outside |= ground_in_holes(level, outside)
    return soft_edge(rgb, _rgb_light(surface), large_parts(~outside))


def border_distance(rgb: Pixels) -> Floats | None:
    """The Lab distance [H, W] from the smooth colour of the border; None where it has no such."""
    ground = _border_ground(rgb)
    if ground is None:
        return None
    return np.sqrt(_squares(_lab(rgb) - _surface(ground[0], *rgb.shape[:2])))


def _key(lab: Floats, ground: Floats, floor: float) -> tuple[Floats, Region]:
    """The distance [H, W] from the ground's colour, and what is the ground from the border on."""
    distance = np.sqrt(_squares(lab - ground))
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
    y, x, points = _border_points(*rgb.shape[:2])
    colours = _lab(rgb[y, x][None])[0]
    fits = _near(colours, np.median(colours, axis=0), 2 * BORDER_FIT)
    if fits.mean() < UNIFORM_BORDER_SHARE:
        return None
    chosen = points[fits].astype(np.float64)  # its normal equations: a hundred times smaller
    weights = np.linalg.lstsq(chosen.T @ chosen, chosen.T @ colours[fits], rcond=None)[0]
    fits = _near(colours, points @ weights, BORDER_FIT)
    if fits.mean() < UNIFORM_BORDER_SHARE:
        return None
    residual = np.linalg.norm(colours[fits] - points[fits] @ weights, axis=1)
    return weights, float(np.sqrt(np.mean(residual**2)))


@functools.lru_cache(maxsize=2)  # the network's side, and that of most of a shop's photos
def _border_points(
    height: int, width: int
) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp], Floats]:
    """Rows and columns [N] of the border's pixels, and the surface's terms there, [N, 6]."""
    y, x = np.nonzero(border(height, width, max(2, round(min(height, width) * 0.01))))
    points: Floats = np.stack(_terms(_axis(width)[x], _axis(height)[y]), axis=-1)
    return y, x, points


def border(height: int, width: int, depth: int) -> Region:
    """The outermost ``depth`` pixels of a picture."""
    frame = np.ones((height, width), bool)
    frame[depth : height - depth, depth : width - depth] = False
    return frame


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
    near: Region = np.linalg.norm(colours - target, axis=1) < limit
    return near


def connected_to_border(region: Region) -> Region:
    """The connected parts of ``region`` that touch the border of the picture."""
    _, labels = cv2.connectedComponents(region.astype(np.uint8), connectivity=4)
    edge = np.concatenate([labels[0], labels[-1], labels[:, 0], labels[:, -1]])
    touching = np.zeros(labels.max() + 1, bool)
    touching[edge] = True
    touching[0] = False
    connected: Region = touching[labels]
    return connected


def large_parts(region: Region) -> Region:
    """The connected parts that are not specks beside the largest."""
    _, labels, stats, _ = cv2.connectedComponentsWithStats(region.astype(np.uint8))
    areas = stats[:, cv2.CC_STAT_AREA].copy()
    areas[0] = 0
    large: Region = (areas > SMALLEST_PART * areas.max())[labels]
    return large


# --- soft shadows ---------------------------------------------------------------------------------


def _shaded_ground(lab: Floats, ground: Floats, outside: Region, floor: float) -> Region:
    """The ground [H, W], grown from ``outside`` over soft shadows and gradients."""
    height, width = outside.shape
    scale = _copy_scale(height, width)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    way = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    small_lab, small_ground, share = (
        cv2.resize(image, size, interpolation=way)
        for image in (lab, ground, outside.astype(np.float32))
    )
    depth = np.sqrt(_squares(small_lab - small_ground))
    falloff = max(SHADING_SHARPEST * max(1, scale), min(size) * SHADING_FALLOFF)
    soft = _is_soft(small_lab, small_ground, depth, floor, falloff)
    small = _grown(share > 0.5, soft, depth, floor)
    back = cv2.resize(small.astype(np.float32), (width, height), interpolation=cv2.INTER_LINEAR)
    shaded: Region = back > 0.5
    return shaded


def _copy_scale(height: int, width: int) -> float:
    """The size of the copy in which shadows are sought, by that of the picture."""
    least, most = (side / max(height, width) for side in SHADING_SIDES)
    return min(max(1.0, least), most)


def _grown(outside: Region, soft: Region, depth: Floats, floor: float) -> Region:
    """What can be reached from ``outside`` through ``soft``, if that is no product.

    A disc has to fit on the way, so that neither an outline with small gaps nor specks of noise
    lead it astray.
    """
    radius = max(2.0, min(outside.shape) * SHADING_GAP)
    size = -1
    for deepest in SHADING_DEPTHS:
        shaded = soft & (depth < deepest)
        size, before = np.count_nonzero(shaded), size
        if size == before:
            continue
        free = ~_without_specks(~(outside | shaded), 4 * radius)
        centres = cv2.distanceTransform(free.astype(np.uint8), cv2.DIST_L2, 5) > radius
        grown = _widened(_touched_at_border(centres, outside), radius) & free
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
    return bool(np.count_nonzero(cracks) > SHADING_CRACKS * min(ground.shape))


def _is_soft(lab: Floats, ground: Floats, depth: Floats, floor: float, falloff: float) -> Region:
    """Where the colour could be that of shaded ground, and no edge runs.

    ``falloff``: the pixels within which the steepest shadow fades to 1/e.
    A shadow of any strength that fades over a length changes per pixel by its depth over that
    length; an edge of any strength changes by about its whole height.
    """
    smooth = cv2.GaussianBlur(lab, (0, 0), 1)
    (lightness, *chroma), (bright, *plain) = cv2.split(smooth), cv2.split(ground)
    ratio = (lightness + 16) / (bright + 16)
    green, blue = (own - ratio * its for own, its in zip(chroma, plain, strict=True))
    darker = bright - lightness
    limit = SHADING_RISE + depth / falloff
    soft: Region = green * green + blue * blue < SHADING_CHROMA**2
    soft &= (-2 * floor < darker) & (darker < (1 - SHADING_DARKEST) * bright)
    soft &= _slope(smooth) < limit
    return soft


def _slope(lab: Floats) -> Floats:
    """The change in Lab per pixel, [H, W]."""
    across, down = (cv2.Sobel(lab, cv2.CV_32F, *axis, scale=1 / 8) for axis in ((1, 0), (0, 1)))
    slope: Floats = np.sqrt(_squares(across) + _squares(down))
    return slope


def _without_specks(region: Region, area: float) -> Region:
    _, labels, stats, _ = cv2.connectedComponentsWithStats(region.astype(np.uint8))
    kept = stats[:, cv2.CC_STAT_AREA] > area
    kept[0] = False
    rest: Region = kept[labels]
    return rest


def _touched_at_border(region: Region, outside: Region) -> Region:
    """The connected parts of ``region`` that meet ``outside`` at the border of the picture."""
    _, labels = cv2.connectedComponents(region.astype(np.uint8), connectivity=4)
    touched = np.zeros(labels.max() + 1, bool)
    touched[labels[outside & border(region.shape[0], region.shape[1], 1)]] = True
    touched[0] = False
    parts: Region = touched[labels]
    return parts


def _widened(region: Region, radius: float) -> Region:
    """``region`` and all within ``radius`` pixels of it."""
    away = cv2.distanceTransform((~region).astype(np.uint8), cv2.DIST_L2, 5)
    wide: Region = away <= radius
    return wide


def _follow_shading(lab: Floats, ground: Floats, outside: Region, reach: int) -> Floats:
    """The ground's colour with the shadows on it, carried on ``reach`` pixels under the product."""
    clear = cv2.erode(outside.astype(np.uint8), np.ones((3, 3), np.uint8)).astype(np.float32)
    side = 2 * max(reach, round(min(lab.shape[:2]) * SHADING_GAP / 2)) + 1
    shaded: Floats = cv2.add(ground, mean_near(cv2.subtract(lab, ground), clear, side, 1e-3))
    return shaded


# --- shared ---------------------------------------------------------------------------------------


def _lab(rgb: Pixels) -> Floats:
    """CIE Lab, L in 0..100, of uint8 [H, W, 3]."""
    lab: Floats = cv2.cvtColor(rgb.astype(np.float32) / 255, cv2.COLOR_RGB2LAB)
    return lab


def _rgb_light(lab: Floats) -> Floats:
    """The light, 0 to 1, of Lab colours [H, W, 3]."""
    light: Floats = np.clip(cv2.cvtColor(lab, cv2.COLOR_LAB2LRGB), 0, 1)
    return light


def _squares(image: Floats) -> Floats:
    """The sum of the squares of the three channels, [H, W]."""
    total: Floats = cv2.transform(cv2.multiply(image, image), np.ones((1, 3), np.float32))
    return total
