"""How much of the product's own edges a raw picture shows inside the product's outline."""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

from backdrop_server.stages.canny import edge_map

TOLERANCE = 2
"""Pixels by which an edge may be off."""
Pixels = npt.NDArray[np.uint8]


def edge_agreement(picture: Pixels, photo: Pixels, mask: Pixels) -> float:
    """F1 of the edges of ``picture`` against those of ``photo``, at and inside the matte, 0 to 1.

    Pictures are uint8 [H, W, 3] of one size; ``mask`` is uint8 [H, W], 255 = repaint. The picture's
    thresholds are halved, since what a VAE gives is softer than a photo.
    """
    wanted = edge_map(photo, mask) > 0
    near = cv2.dilate(np.where(mask < 128, 255, 0).astype(np.uint8), np.ones((5, 5), np.uint8))
    found = (cv2.Canny(picture, 50, 100) > 0) & (near > 0)
    hits = (found & _grown(wanted)).sum()
    met = (wanted & _grown(found)).sum()
    precision = hits / max(1, found.sum())
    recall = met / max(1, wanted.sum())
    return float(2 * precision * recall / max(1e-9, precision + recall))


def _grown(edges: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    size = 2 * TOLERANCE + 1
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (size, size))
    grown: npt.NDArray[np.bool_] = cv2.dilate(edges.astype(np.uint8), disc) > 0
    return grown
