"""GrabCut (Rother et al. 2004): the subject before a ground that is not plain."""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

from backdrop_server.stages.composite import light_of
from backdrop_server.stages.edges import ground_in_holes, soft_edge
from backdrop_server.stages.pictures import resize
from backdrop_server.stages.regions import around, border, connected_to_border, large_parts
from backdrop_server.stages.upsampling import along_edges

Pixels = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]
Region = npt.NDArray[np.bool_]

SIDE = 384
"""Of our own network's map, too."""
ROUNDS = 3
INSET = 0.04
"""The part of the shorter side that is certain to be ground."""
GRAIN = 2
"""The most that a code value is changed by before GrabCut sees it."""
MAYBE = 0.1
"""The least share of a network's map that GrabCut starts from as subject."""
SURE = 0.9
"""The least share that is subject whatever its colours, as the white rim of a red cup is."""
FEWEST = 50
"""Pixels; a map that holds fewer says nothing."""
ALL = 0.5
"""The mean share of the picture's border beyond which a map says nothing either."""
HOLE_GAP = 5
"""Pixels; a gap in its wall of about as many leaves a hole a hole."""
HOLE_SHARE = 0.3
"""A hole has at most so much of the network's share, on average."""
HOLE_COLOUR = 12.0
"""Lab difference from the ground near a hole, within which nine of ten of its colours are."""
HOLE_REACH = 20.0
"""Pixels beyond the wall of a hole that are the ground near it."""
SAMPLES = 400
"""Colours of a hole, and of the ground near it, that are compared."""
GROUND_GAP, GROUND_REACH = 3, 8
"""Pixels from the subject where the ground is unmixed, and as far as it is taken for one colour."""
LEAST = 1e-3
"""The share of a window that is enough to tell the ground's colour."""


def grabcut(rgb: Pixels, share: Floats | None = None) -> Pixels:
    """The matte uint8 [H, W] of ``rgb`` uint8 [H, W, 3], drawn along its edges.

    ``share`` [h, w] is a network's map of the subject, where there is one: GrabCut starts from it,
    keeps what the network is sure of, and judges the rest by the photo's colours. Without one it
    separates the middle from the border, and fills holes, since it cannot tell them from pale parts.
    """
    height, width = rgb.shape[:2]
    scale = min(1.0, SIDE / max(height, width))
    small = resize(rgb, max(1, round(width * scale)), max(1, round(height * scale)))
    if min(small.shape[:2]) < 8:
        return np.zeros((height, width), np.uint8)
    near = None if share is None else _told(share, (small.shape[1], small.shape[0]))
    if near is None:
        subject = _closed(large_parts(_cut(small, np.ones(small.shape[:2], bool))))
    else:
        subject = large_parts(_cut(small, near >= MAYBE) | (near >= SURE))
        subject = _with_true_holes(subject, near, small)
    return softened(rgb, along_edges(subject.astype(np.float32), small, rgb) > 0.5)


def _told(share: Floats, size: tuple[int, int]) -> Floats | None:
    """``share`` at ``size``, width and height; None where it tells next to nothing from the rest."""
    near: Floats = cv2.resize(share, size, interpolation=cv2.INTER_AREA)
    edge = near[border(near.shape[0], near.shape[1], 1)]
    if np.count_nonzero(near >= MAYBE) < FEWEST or edge.mean() > ALL:
        return None
    return near


def _cut(rgb: Pixels, start: Region) -> Region:
    """GrabCut from ``start`` [H, W], as far as that is inside the border."""
    height, width = rgb.shape[:2]
    # Without grain, two colours and their countless equal cuts keep the search going on and on.
    grain = np.random.default_rng(0).integers(-GRAIN, GRAIN, rgb.shape, endpoint=True)
    rgb = np.clip(rgb + grain, 0, 255).astype(np.uint8)
    labels = np.where(start, cv2.GC_PR_FGD, cv2.GC_PR_BGD).astype(np.uint8)
    depth = max(1, round(min(height, width) * INSET))
    labels[border(height, width, depth)] = cv2.GC_BGD
    if not (labels == cv2.GC_PR_FGD).any():
        return np.zeros((height, width), bool)
    cv2.setRNGSeed(0)  # OpenCV keeps one generator per thread, and GrabCut starts from k-means
    cv2.grabCut(
        rgb, labels, None, np.zeros((1, 65)), np.zeros((1, 65)), ROUNDS, cv2.GC_INIT_WITH_MASK
    )
    return np.isin(labels, (cv2.GC_FGD, cv2.GC_PR_FGD))


def softened(rgb: Pixels, subject: Region) -> Pixels:
    """The matte of ``subject`` [H, W], soft along its edge by the light of the ground beside it."""
    alpha = np.zeros(subject.shape, np.uint8)
    if not subject.any():
        return alpha
    part = around(subject, 2 * GROUND_REACH)
    subject, light = subject[part], light_of(rgb[part])
    gap, window = 2 * GROUND_GAP + 1, 2 * GROUND_REACH + 1
    away = cv2.erode((~subject).astype(np.uint8), np.ones((gap, gap), np.uint8)).astype(np.float32)
    weight = cv2.blur(away, (window, window))
    ground = cv2.blur(light * away[..., None], (window, window))
    ground /= np.maximum(weight, LEAST)[..., None]
    soft = soft_edge(rgb[part], lambda near: ground[near], subject)
    alpha[part] = np.where(weight > LEAST, soft, subject * np.uint8(255))
    return alpha


def _closed(subject: Region) -> Region:
    """The subject without its holes and hairline cracks."""
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (5, 5))
    solid = cv2.morphologyEx(subject.astype(np.uint8), cv2.MORPH_CLOSE, disc)
    return ~connected_to_border(solid == 0)


def _with_true_holes(subject: Region, share: Floats, rgb: Pixels) -> Region:
    """The subject with those of its holes that look like ones: a network takes eyes for them, too.

    Their walls are thin, the network sees no product in them, and their colours are those of the
    ground nearby.
    """
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (HOLE_GAP, HOLE_GAP))
    solid = cv2.morphologyEx(subject.astype(np.uint8), cv2.MORPH_CLOSE, disc) > 0
    outside = connected_to_border(~solid)
    inside = ~subject & ~outside
    if not inside.any():
        return subject
    lab = cv2.cvtColor(rgb.astype(np.float32) / 255, cv2.COLOR_RGB2LAB)
    ground = outside & (share < MAYBE)
    _, labels = cv2.connectedComponents(ground_in_holes(inside, outside).astype(np.uint8))
    for name in range(1, labels.max() + 1):
        hole = labels == name
        if share[hole].mean() <= HOLE_SHARE and _looks_like(hole, ground, lab):
            outside |= hole
    return ~outside


def _looks_like(hole: Region, ground: Region, lab: Floats) -> bool:
    """Whether nearly every colour of ``hole`` is one of the ``ground`` nearest to it, all [H, W]."""
    if not ground.any():
        return False
    away = cv2.distanceTransform((~hole).astype(np.uint8), cv2.DIST_L2, 5)
    near = ground & (away < away[ground].min() + HOLE_REACH)
    own, theirs = _some(lab[hole]), _some(lab[near])
    nearest = np.sqrt(((own[:, None] - theirs[None]) ** 2).sum(axis=2)).min(axis=1)
    return bool(np.quantile(nearest, 0.9) <= HOLE_COLOUR)


def _some(colours: Floats) -> Floats:
    """At most SAMPLES of ``colours`` [N, 3], evenly."""
    return colours[:: -(-len(colours) // SAMPLES)]
