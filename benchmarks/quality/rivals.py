"""What the server's way is measured against: thresholding, and what `rembg` does without a network."""

from __future__ import annotations

import importlib.util

import cv2
import numpy as np
import numpy.typing as npt

Pixels = npt.NDArray[np.uint8]

REMBG_ERODE, REMBG_FOREGROUND, REMBG_BACKGROUND = 10, 240, 10
"""The defaults of `rembg`'s option ``alpha_matting``."""


def threshold(rgb: Pixels) -> Pixels:
    """A hard matte, uint8 [H, W] in {0, 255}: distance from the border's median colour, by Otsu."""
    edge = np.concatenate([rgb[0], rgb[-1], rgb[:, 0], rgb[:, -1]])
    distance = np.linalg.norm(rgb.astype(np.float32) - np.median(edge, axis=0), axis=2)
    grey = np.clip(distance, 0, 255).astype(np.uint8)
    hard: Pixels = cv2.threshold(grey, 0, 255, cv2.THRESH_BINARY | cv2.THRESH_OTSU)[1]
    return hard


def can_run_rembg() -> bool:
    """Whether pymatting, which does rembg's matting, is installed."""
    return importlib.util.find_spec("pymatting") is not None


def rembg(rgb: Pixels, mask: Pixels) -> tuple[Pixels, Pixels]:
    """`rembg`'s alpha matting after its network: alpha uint8 [H, W], foreground uint8 [H, W, 3].

    A trimap from ``mask`` uint8 [H, W], then closed-form matting (Levin et al. 2008) and multi-level
    foreground estimation (Germer et al. 2020), as ``rembg.bg.alpha_matting_cutout`` does.
    """
    from pymatting import estimate_alpha_cf, estimate_foreground_ml

    square = np.ones((REMBG_ERODE, REMBG_ERODE), np.uint8)
    trimap = np.full(mask.shape, 0.5)
    trimap[cv2.erode((mask > REMBG_FOREGROUND).astype(np.uint8), square) > 0] = 1
    trimap[cv2.erode((mask < REMBG_BACKGROUND).astype(np.uint8), square, borderValue=1) > 0] = 0
    image = rgb / 255.0
    alpha = estimate_alpha_cf(image, trimap)
    foreground = estimate_foreground_ml(image, alpha)
    return (
        np.rint(np.clip(alpha, 0, 1) * 255).astype(np.uint8),
        np.rint(np.clip(foreground, 0, 1) * 255).astype(np.uint8),
    )
