"""The product's own pixels back over the painted background, at the photo's resolution."""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

from backdrop_server.stages.pictures import resize
from backdrop_server.stages.regions import places, put, taken

_LINEAR_STEPS = 65_535
WRAP = 0.5
"""The most that harmonising takes of an edge pixel's own colour."""
WRAP_SIDE = 15
"""The window, in pixels, whose light falls on an edge."""


def _linear_of_srgb() -> npt.NDArray[np.float32]:
    """Light, 0 to 1, of each 8-bit sRGB value (IEC 61966-2-1)."""
    value = np.arange(256) / 255
    light = np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)
    linear: npt.NDArray[np.float32] = light.astype(np.float32)
    return linear


def _srgb_of_linear() -> npt.NDArray[np.uint8]:
    """8-bit sRGB value of light in steps of 1 / 65535."""
    light = np.arange(_LINEAR_STEPS + 1) / _LINEAR_STEPS
    value = np.where(light <= 0.0031308, light * 12.92, 1.055 * light ** (1 / 2.4) - 0.055)
    srgb: npt.NDArray[np.uint8] = np.rint(value * 255).astype(np.uint8)
    return srgb


_LINEAR = _linear_of_srgb()
_SRGB = _srgb_of_linear()


def light_of(srgb: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    """Light, 0 to 1, of 8-bit sRGB values of any shape."""
    return _LINEAR[srgb]


def srgb_of(light: npt.NDArray[np.float32]) -> npt.NDArray[np.uint8]:
    """8-bit sRGB values of light, 0 to 1, of any shape."""
    srgb: npt.NDArray[np.uint8] = _SRGB[np.rint(light * _LINEAR_STEPS).astype(np.intp)]
    return srgb


def paste_back(
    photo: npt.NDArray[np.uint8],
    alpha: npt.NDArray[np.uint8],
    background: npt.NDArray[np.uint8],
) -> npt.NDArray[np.uint8]:
    """Lay ``photo`` uint8 [H0, W0, 3] over ``background`` uint8 [H, W, 3] resized to its size.

    ``alpha`` is uint8 [H0, W0]. Where it is 255 the result is the photo bit for bit, where it is 0
    the background; between, the two are mixed in linear light. Returns uint8 [H0, W0, 3].
    """
    height, width = alpha.shape
    behind = resize(background, width, height)
    whole = (alpha == 255).view(np.uint8)
    result: npt.NDArray[np.uint8] = cv2.copyTo(photo, whole, behind.copy())
    band = places((alpha > 0) & (alpha < 255))
    put(result, band, _mix(taken(photo, band), taken(behind, band), taken(alpha, band)))
    return result


def darken(
    background: npt.NDArray[np.uint8], shadow: npt.NDArray[np.uint8]
) -> npt.NDArray[np.uint8]:
    """``background`` uint8 [H, W, 3] with the light taken that ``shadow`` uint8 [H, W] says."""
    dark = places(shadow > 0)
    result = background.copy()
    left = 1 - taken(shadow, dark).astype(np.float32) / 255
    put(result, dark, srgb_of(light_of(taken(background, dark)) * left[:, None]))
    return result


def harmonize(
    foreground: npt.NDArray[np.uint8],
    alpha: npt.NDArray[np.uint8],
    background: npt.NDArray[np.uint8],
) -> npt.NDArray[np.uint8]:
    """``foreground`` uint8 [H, W, 3] with the light of ``background``, of its size, in the edge band.

    A light wrap: the less a pixel is product, the more of the blurred surroundings shines round it.
    Where ``alpha`` uint8 [H, W] is 255 not a bit changes.
    """
    band = places((alpha > 0) & (alpha < 255))
    around = taken(cv2.blur(background, (WRAP_SIDE, WRAP_SIDE)), band)
    wrap = np.rint(WRAP * (255 - taken(alpha, band).astype(np.float32))).astype(np.uint8)
    result = foreground.copy()
    put(result, band, _mix(around, taken(foreground, band), wrap))
    return result


def _mix(
    front: npt.NDArray[np.uint8], back: npt.NDArray[np.uint8], alpha: npt.NDArray[np.uint8]
) -> npt.NDArray[np.uint8]:
    """Mix pixels uint8 [N, 3] in linear light by ``alpha`` uint8 [N]."""
    share = alpha[:, None].astype(np.float32) / 255
    return srgb_of(_LINEAR[back] + share * (_LINEAR[front] - _LINEAR[back]))
