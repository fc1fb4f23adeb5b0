"""Regions of a picture, bool [H, W]: its border, and their connected parts."""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

Region = npt.NDArray[np.bool_]

SMALLEST_PART = 0.02
"""Parts under this share of the largest part are specks, not products."""


def border(height: int, width: int, depth: int) -> Region:
    """The outermost ``depth`` pixels of a picture."""
    frame = np.ones((height, width), bool)
    frame[depth : height - depth, depth : width - depth] = False
    return frame


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


def without_specks(region: Region, area: float) -> Region:
    """The connected parts of more than ``area`` pixels."""
    _, labels, stats, _ = cv2.connectedComponentsWithStats(region.astype(np.uint8))
    kept = stats[:, cv2.CC_STAT_AREA] > area
    kept[0] = False
    rest: Region = kept[labels]
    return rest


def touched_at_border(region: Region, outside: Region) -> Region:
    """The connected parts of ``region`` that meet ``outside`` at the border of the picture."""
    _, labels = cv2.connectedComponents(region.astype(np.uint8), connectivity=4)
    touched = np.zeros(labels.max() + 1, bool)
    touched[labels[outside & border(region.shape[0], region.shape[1], 1)]] = True
    touched[0] = False
    parts: Region = touched[labels]
    return parts


def widened(region: Region, radius: float) -> Region:
    """``region`` and all within ``radius`` pixels of it."""
    away = cv2.distanceTransform((~region).astype(np.uint8), cv2.DIST_L2, 5)
    wide: Region = away <= radius
    return wide
