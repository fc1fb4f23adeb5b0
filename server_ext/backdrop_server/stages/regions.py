"""Regions of a picture, bool [H, W]: their pixels, its border, and their connected parts."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

Region = npt.NDArray[np.bool_]
Array = npt.NDArray[Any]
Places = npt.NDArray[np.intp]

SMALLEST_PART = 0.02
"""Parts under this share of the largest part are specks, not products."""


def places(region: Region) -> Places:
    """Where the pixels of ``region`` are, counted row by row: [N].

    `taken` and `put` by places are ten times as fast as numpy's by a region.
    """
    return np.flatnonzero(region)


def taken(image: Array, at: Places) -> Array:
    """The pixels of ``image`` [H, W] or [H, W, C] at the places ``at`` [N]: [N] or [N, C]."""
    return image.reshape(-1, *image.shape[2:]).take(at, axis=0)


def put(image: Array, at: Places, values: Array) -> None:
    """Set the pixels of ``image`` [H, W] or [H, W, C] at ``at`` [N] to ``values`` [N] or [N, C].

    Raises AttributeError for an image that is not in one piece.
    """
    pixels = image.view()
    pixels.shape = (-1, *image.shape[2:])  # in place: reshaping could make a copy
    pixels[at] = values


def border(height: int, width: int, depth: int) -> Region:
    """The outermost ``depth`` pixels of a picture."""
    frame = np.ones((height, width), bool)
    frame[depth : height - depth, depth : width - depth] = False
    return frame


def connected_to_border(region: Region) -> Region:
    """The connected parts of ``region`` that touch the border of the picture."""
    framed = cv2.copyMakeBorder(region.view(np.uint8), 1, 1, 1, 1, cv2.BORDER_CONSTANT, value=1)
    _, labels = cv2.connectedComponents(framed, connectivity=4)
    connected: Region = labels[1:-1, 1:-1] == labels[0, 0]
    return connected


def parts_of(region: Region) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.intp]]:
    """The connected parts' labels [H, W], 0 beside the region, and the area of each, 0 of label 0."""
    _, labels = cv2.connectedComponents(region.view(np.uint8))
    areas = np.bincount(labels.ravel())
    areas[0] = 0
    return labels, areas


def large_parts(region: Region) -> Region:
    """The connected parts that are not specks beside the largest."""
    labels, areas = parts_of(region)
    large: Region = (areas > SMALLEST_PART * areas.max()).take(labels)
    return large


def without_specks(region: Region, area: float) -> Region:
    """The connected parts of more than ``area`` pixels."""
    labels, areas = parts_of(region)
    rest: Region = (areas > area).take(labels)
    return rest


def touched_at_border(region: Region, outside: Region) -> Region:
    """The connected parts of ``region`` that meet ``outside`` at the border of the picture."""
    _, labels = cv2.connectedComponents(region.view(np.uint8), connectivity=4)
    touched = np.zeros(labels.max() + 1, bool)
    touched[taken(labels, places(outside & border(region.shape[0], region.shape[1], 1)))] = True
    touched[0] = False
    parts: Region = touched.take(labels)
    return parts


def widened(region: Region, radius: float) -> Region:
    """``region`` and all within ``radius`` pixels of it."""
    away = cv2.distanceTransform((~region).view(np.uint8), cv2.DIST_L2, 5)
    wide: Region = away <= radius
    return wide
