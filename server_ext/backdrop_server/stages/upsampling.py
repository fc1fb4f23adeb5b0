"""A coarse matte drawn along the edges of the full photo."""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

Pixels = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]

RADIUS = 2
EPSILON = 4e-4


def along_edges(share: Floats, small: Pixels, rgb: Pixels) -> Floats:
    """``share`` [h, w] of the small photo ``small`` uint8 [h, w, 3] at the size of ``rgb``: [H, W].

    The fast guided filter of He and Sun (2015): local linear models of the share in the small photo's
    grey, applied to the full photo's.
    """
    slope, offset = _guided(share, _grey(small))
    size = rgb.shape[1], rgb.shape[0]
    whole: Floats = cv2.resize(slope, size) * _grey(rgb) + cv2.resize(offset, size)
    return whole


def _grey(rgb: Pixels) -> Floats:
    grey: Floats = cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY).astype(np.float32) / 255
    return grey


def _guided(share: Floats, guide: Floats) -> tuple[Floats, Floats]:
    window = (2 * RADIUS + 1, 2 * RADIUS + 1)
    mean_guide, mean_share = cv2.blur(guide, window), cv2.blur(share, window)
    covariance = cv2.blur(guide * share, window) - mean_guide * mean_share
    variance = cv2.blur(guide * guide, window) - mean_guide**2
    slope = covariance / (variance + EPSILON)
    return cv2.blur(slope, window), cv2.blur(mean_share - slope * mean_guide, window)
