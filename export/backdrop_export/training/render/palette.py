"""Palettes: the colours of one picture on another, and how far two palettes are apart."""

from __future__ import annotations

import cv2
import numpy as np

from backdrop_export.training.render.canvas import Floats


def lab(picture: Floats) -> Floats:
    """CIE L*a*b* [pixels, 3] of RGB 0..1, L 0..100."""
    converted: Floats = cv2.cvtColor(np.ascontiguousarray(picture, np.float32), cv2.COLOR_RGB2LAB)
    return converted.reshape(-1, 3)


def _root(matrix: Floats, power: float) -> Floats:
    values, vectors = np.linalg.eigh(matrix)
    root: Floats = (vectors * np.maximum(values, 1.0) ** power) @ vectors.T
    return root


def recolour(picture: Floats, reference: Floats, share: float = 1.0) -> Floats:
    """``picture`` with the mean and covariance of ``reference``'s colours in CIE L*a*b*.

    The linear Monge-Kantorovitch map (Pitie and Kokaram, 2007), taken by ``share``. Pictures are
    [side, side, 3] in 0..1.
    """
    source, target = lab(picture), lab(reference)
    mean, wanted = source.mean(axis=0), target.mean(axis=0)
    spread = _root(np.cov(source.T), 0.5)
    narrow = _root(np.cov(source.T), -0.5)
    change = narrow @ _root(spread @ np.cov(target.T) @ spread, 0.5) @ narrow
    moved = (source - mean) @ change.T + wanted
    mixed = source + share * (moved - source)
    rgb = cv2.cvtColor(mixed.reshape(picture.shape).astype(np.float32), cv2.COLOR_LAB2RGB)
    clipped: Floats = np.clip(rgb, 0, 1).astype(np.float32)
    return clipped


def palette_distance(first: Floats, second: Floats) -> float:
    """How far two pictures' palettes are apart, in units of CIE L*a*b*.

    The sliced Wasserstein distance of their pixels' colours over sixteen fixed directions.
    """
    angles = np.random.default_rng(0).normal(size=(3, 16))
    directions = angles / np.linalg.norm(angles, axis=0)
    sides = [np.sort(_sample(picture) @ directions, axis=0) for picture in (first, second)]
    return float(np.abs(sides[0] - sides[1]).mean())


def _sample(picture: Floats) -> Floats:
    return lab(cv2.resize(picture, (64, 64), interpolation=cv2.INTER_AREA))
