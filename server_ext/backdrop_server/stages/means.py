"""Weighted means around each pixel: what several stages ask of colours near an edge."""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

from backdrop_server.stages.regions import Places, taken

Floats = npt.NDArray[np.float32]

LEAST = 1e-4
"""Where less than this weight is near, the mean fades to 0."""


def mean_near(image: Floats, weight: Floats, side: int, least: float = LEAST) -> Floats:
    """The mean of ``image`` [H, W, 3] by ``weight`` [H, W] in windows of ``side`` pixels: [H, W, 3]."""
    window = (side, side)
    total = np.maximum(cv2.blur(weight, window), np.float32(least))
    sums = cv2.blur(cv2.multiply(image, in_colour(weight)), window)
    mean: Floats = cv2.divide(sums, in_colour(total))
    return mean


def means_at(image: Floats, weight: Floats, side: int, at: Places) -> Floats:
    """`mean_near` of the pixels at the places ``at`` [N] alone: [N, 3]."""
    window = (side, side)
    total = np.maximum(taken(cv2.blur(weight, window), at), np.float32(LEAST))
    sums = taken(cv2.blur(cv2.multiply(image, in_colour(weight)), window), at)
    means: Floats = sums / total[:, None]
    return means


def in_colour(weight: Floats) -> Floats:
    """``weight`` [H, W] three times over, [H, W, 3]: faster to multiply by than numpy's spreading."""
    three: Floats = cv2.merge([weight, weight, weight])
    return three
