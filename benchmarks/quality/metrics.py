"""Metrics of mattes and of finished pictures against known truth."""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

from backdrop_server.stages.fidelity import delta_e

Pixels = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]
Region = npt.NDArray[np.bool_]


def sad(found: Pixels, true: Floats) -> float:
    """Sum of absolute differences of two mattes, in thousands of pixels, as on alphamatting.com."""
    return float(np.abs(found.astype(np.float32) / 255 - true).sum() / 1000)


def coverage(found: Pixels, core: Region) -> float:
    """The share of the true core that the found matte holds entirely."""
    return float((found[core] == 255).mean()) if core.any() else 1.0


def fringe_error(result: Pixels, truth: Pixels, band: Region) -> float:
    """Mean colour difference (CIE76) in the edge band from the product truly laid over."""
    return float(delta_e(result, truth)[band].mean())


def residue(result: Pixels, truth: Pixels, old: Pixels, new: Pixels, band: Region) -> float:
    """How much of the old background's colour is left in the band: 1 if it all is, 0 if none.

    The error's component along the way from the new background's colour to the old one's, as a
    share of that way. Pixels whose old and new backgrounds are much alike say nothing.
    """
    way = old[band].astype(np.float32) - new[band]
    error = result[band].astype(np.float32) - truth[band]
    length = (way**2).sum(axis=1)
    told = length > 20**2
    if not told.any():
        return 0.0
    return float(np.clip((error * way).sum(axis=1)[told] / length[told], 0, 1).mean())


def masked_psnr(first: Pixels, second: Pixels, region: Region) -> float:
    """Peak signal-to-noise ratio inside a region, dB; 99 where equal."""
    error = float(np.mean((first[region].astype(np.float64) - second[region]) ** 2))
    return 99.0 if error == 0 else 10 * float(np.log10(255**2 / error))


def seam(picture: Pixels, alpha: Pixels) -> float:
    """The mean gradient across the edge band over that of its surroundings on both sides.

    An outline is an edge, so this is above 1 for most good pictures: compare it with the truth's.
    """
    lightness = cv2.cvtColor(picture, cv2.COLOR_RGB2LAB)[..., 0].astype(np.float32)
    across, down = (cv2.Sobel(lightness, cv2.CV_32F, *axis) for axis in ((1, 0), (0, 1)))
    slope = np.hypot(across, down)
    solid = (alpha >= 128).astype(np.uint8)
    near, wide = (_ring(solid, radius) for radius in (2, 8))
    away = wide & ~near
    return float(slope[near].mean() / max(1e-3, slope[away].mean()))


def _ring(solid: Pixels, radius: int) -> Region:
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius + 1, 2 * radius + 1))
    ring: Region = cv2.dilate(solid, disc) != cv2.erode(solid, disc)
    return ring
