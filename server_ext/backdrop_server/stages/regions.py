"""Regions of a picture, bool [H, W]: their pixels, its border, and their connected parts."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

Region = npt.NDArray[np.bool_]
Array = npt.NDArray[Any]
Places = npt.NDArray[np.intp]
Part = tuple[slice, slice]

SMALLEST_PART = 0.02
"""Parts under this share of the largest part are specks, not products."""
FEW = 8
"""So many labels are compared one by one: a table, which numpy looks up by wide integers, is slower."""


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


def around(region: Region, margin: int) -> Part:
    """The part of the picture that holds ``region``, which is not empty, and a margin."""
    return _span(region.any(axis=1), margin), _span(region.any(axis=0), margin)


def _span(line: Region, margin: int) -> slice:
    found = np.flatnonzero(line)
    return slice(max(0, int(found[0]) - margin), int(found[-1]) + margin + 1)


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
    count, labels = cv2.connectedComponents(region.view(np.uint8))
    if count <= FEW:
        areas = np.array([0, *(np.count_nonzero(labels == n) for n in range(1, count))], np.intp)
    else:
        areas = np.bincount(labels.ravel())
        areas[0] = 0
    return labels, areas


def named(labels: npt.NDArray[np.int32], chosen: Region) -> Region:
    """The pixels [H, W] whose label in ``labels`` [H, W] is one of those that ``chosen`` [N] holds."""
    names = np.flatnonzero(chosen)
    if len(names) > FEW:
        return chosen.take(labels)
    found = np.zeros(labels.shape, bool)
    for name in names:
        found |= labels == name
    return found


def large_parts(region: Region) -> Region:
    """The connected parts that are not specks beside the largest."""
    labels, areas = parts_of(region)
    return named(labels, areas > SMALLEST_PART * areas.max())


def without_specks(region: Region, area: float) -> Region:
    """The connected parts of more than ``area`` pixels."""
    labels, areas = parts_of(region)
    return named(labels, areas > area)


def touched_at_border(region: Region, outside: Region) -> Region:
    """The connected parts of ``region`` that meet ``outside`` at the border of the picture."""
    count, labels = cv2.connectedComponents(region.view(np.uint8), connectivity=4)
    touched = np.zeros(count, bool)
    touched[taken(labels, places(outside & border(region.shape[0], region.shape[1], 1)))] = True
    touched[0] = False
    return named(labels, touched)


def widened(region: Region, radius: float) -> Region:
    """``region`` and all within ``radius`` pixels of it."""
    away = cv2.distanceTransform((~region).view(np.uint8), cv2.DIST_L2, 5)
    wide: Region = away <= radius
    return wide
