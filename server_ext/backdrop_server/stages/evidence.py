"""What is known of a photo before a network looks: its key, and how unlike its border it is."""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

from backdrop_server.stages.keying import border_distance
from backdrop_server.stages.regions import border

Pixels = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]

CHANNELS = 8
KEY = 3
"""The first of the two channels that the key has."""
FAINT, PLAIN = 12.0, 60.0
"""Lab distances from the ground at which the two channels of distance are full: white on white
needs a fine scale, dark on white a coarse one."""
LEVELS = 16
"""Of each colour in the histogram of the border."""
BORDER_DEPTH = 0.05
RAREST = 1e-4
"""A colour that the border has less of than this share is not of the border at all."""


def evidence(rgb: Pixels, keyed: Pixels | None) -> Floats:
    """What the network sees of ``rgb`` uint8 [H, W, 3]: float32 [CHANNELS, H, W], about -1 to 1.

    Red, green, blue; the keyed matte ``keyed`` uint8 [H, W], where the ground is uniform, and whether
    it is; the distance from the ground's colour, finely and coarsely; how rare a colour is at the
    border.
    """
    told = features(rgb)
    if keyed is not None:
        add_key(told, keyed)
    return told


def add_key(told: Floats, keyed: Pixels) -> None:
    """Put the keyed matte ``keyed`` uint8 [H, W] into the ``features`` of its photo."""
    told[KEY] = keyed / np.float32(255)
    told[KEY + 1] = 1


def features(rgb: Pixels) -> Floats:
    """The `evidence` of ``rgb`` uint8 [H, W, 3] but for its key: float32 [CHANNELS, H, W]."""
    height, width = rgb.shape[:2]
    told = np.zeros((CHANNELS, height, width), np.float32)
    for channel, colour in enumerate(cv2.split(rgb)):
        told[channel] = colour
    told[:3] /= np.float32(127.5)
    told[:3] -= 1
    distance = border_distance(rgb)
    if distance is not None:
        told[5] = np.minimum(distance / FAINT, 1)
        told[6] = np.minimum(distance / PLAIN, 1)
    told[7] = _rarity(rgb)
    return told


def _rarity(rgb: Pixels) -> Floats:
    """0 for the colours that the border has most of, to 1 for those that it has none of, [H, W]."""
    height, width = rgb.shape[:2]
    red, green, blue = ((colour // (256 // LEVELS)).astype(np.intp) for colour in cv2.split(rgb))
    names = (red * LEVELS + green) * LEVELS + blue
    depth = max(1, round(min(height, width) * BORDER_DEPTH))
    counts = np.bincount(names[border(height, width, depth)], minlength=LEVELS**3)
    share = _smoothed(counts.astype(np.float32).reshape((LEVELS,) * 3) / counts.sum())
    rarity: Floats = np.log(np.maximum(share, RAREST)) / np.float32(np.log(RAREST))
    found: Floats = cv2.blur(rarity.ravel().take(names), (3, 3))
    return found


def _smoothed(histogram: Floats) -> Floats:
    """Each bin with a share of its neighbours, so that noise at a bin's edge changes little."""
    for axis in range(3):
        along = np.moveaxis(histogram, axis, 0)
        smooth = along / 2
        smooth[1:] += along[:-1] / 4
        smooth[:-1] += along[1:] / 4
        smooth[[0, -1]] += along[[0, -1]] / 4  # beyond an end it goes on as it ends
        histogram = np.moveaxis(smooth, 0, axis)
    return np.ascontiguousarray(histogram)
