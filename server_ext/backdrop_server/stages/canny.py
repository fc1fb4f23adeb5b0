"""The edge map that the ControlNet follows: the product's outline and texture, no background."""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

LOW_THRESHOLD = 100
HIGH_THRESHOLD = 200
MARGIN = 5
"""Side, in working pixels, of the square that grows the matte, so that its outline is inside."""


def edge_map(
    working_image: npt.NDArray[np.uint8], mask: npt.NDArray[np.uint8]
) -> npt.NDArray[np.uint8]:
    """Canny edges of uint8 [H, W, 3] at and inside the matte, as uint8 [H, W] in {0, 255}.

    ``mask`` is uint8 [H, W], 255 = repaint, 0 = matte.
    """
    return at_matte(edges_of(working_image), mask)


def edges_of(working_image: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """All Canny edges of uint8 [H, W, 3], as uint8 [H, W] in {0, 255}."""
    edges: npt.NDArray[np.uint8] = cv2.Canny(working_image, LOW_THRESHOLD, HIGH_THRESHOLD)
    return edges


def at_matte(edges: npt.NDArray[np.uint8], mask: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """What of `edges_of` is at and inside the matte; ``mask`` is uint8 [H, W], 0 = matte."""
    matte = cv2.threshold(mask, 127, 255, cv2.THRESH_BINARY_INV)[1]
    near = cv2.dilate(matte, np.ones((MARGIN, MARGIN), np.uint8))
    kept: npt.NDArray[np.uint8] = cv2.bitwise_and(edges, near)
    return kept
