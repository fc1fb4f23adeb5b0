"""Drawn products with a known share of every pixel, and known colours."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import cv2
import numpy as np
import numpy.typing as npt

Pixels = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]

FINE = 4
"""A share is drawn this many times as large, then averaged."""


def share_of(name: str, side: int) -> Floats:
    """The product's share of each pixel, float32 [side, side], 0 to 1, as a lens would blur it."""
    big = np.zeros((side * FINE, side * FINE), np.uint8)
    PRODUCTS[name](big, side * FINE)
    share = cv2.resize(big, (side, side), interpolation=cv2.INTER_AREA).astype(np.float32) / 255
    blurred: Floats = cv2.GaussianBlur(share, (0, 0), 0.6)
    blurred[blurred > 0.999] = 1
    blurred[blurred < 0.001] = 0
    return blurred


def colours_of(name: str, side: int, seed: int) -> Floats:
    """The product's own sRGB colours, float32 [side, side, 3], 0 to 255; defined everywhere."""
    draw = np.random.default_rng(seed)
    if name.startswith("pale"):
        base, accent = np.array([[222, 222, 220], [208, 210, 214]], np.float32)
    else:
        base, accent = draw.uniform(15, 170, (2, 3)).astype(np.float32)
    y, x = np.mgrid[: 1 : side * 1j, : 1 : side * 1j].astype(np.float32)
    stripes = (np.sin((x * draw.uniform(-1, 1) + y) * draw.uniform(20, 60)) > 0.3)[..., None]
    light = (1.12 - 0.3 * x + 0.1 * np.cos(9 * y))[..., None]
    spot = 70 * np.exp(-((x - 0.42) ** 2 + (y - 0.4) ** 2) / 0.002)[..., None]
    lit: Floats = np.clip(np.where(stripes, accent, base) * light + spot, 0, 245)
    return lit.astype(np.float32)


def _box(x0: float, y0: float, x1: float, y1: float, big: Pixels, s: int, value: int = 255) -> None:
    cv2.rectangle(big, (int(x0 * s), int(y0 * s)), (int(x1 * s), int(y1 * s)), value, -1)


def _oval(
    x: float, y: float, a: float, b: float, big: Pixels, s: int, width: float = 0, value: int = 255
) -> None:
    """An ellipse; ``width`` 0: filled."""
    line = -1 if width == 0 else max(1, int(width * s))
    cv2.ellipse(big, (int(x * s), int(y * s)), (int(a * s), int(b * s)), 0, 0, 360, value, line)


def _bottle(big: Pixels, s: int) -> None:
    _oval(0.5, 0.75, 0.18, 0.06, big, s)
    _box(0.32, 0.42, 0.68, 0.75, big, s)
    _oval(0.5, 0.42, 0.18, 0.1, big, s)
    _box(0.45, 0.15, 0.55, 0.4, big, s)


def _mug(big: Pixels, s: int) -> None:
    _oval(0.68, 0.5, 0.12, 0.13, big, s, width=0.035)
    _box(0.3, 0.3, 0.66, 0.76, big, s)
    _oval(0.48, 0.76, 0.18, 0.04, big, s)


def _ring(big: Pixels, s: int) -> None:
    _oval(0.5, 0.54, 0.25, 0.25, big, s, width=0.04)
    _oval(0.5, 0.26, 0.06, 0.05, big, s)


def _chain(big: Pixels, s: int) -> None:
    for step in range(26):
        turn = np.pi * (0.05 + 0.9 * step / 25)
        x, y = 0.5 - 0.33 * np.cos(turn), 0.2 + 0.45 * np.sin(turn)
        _oval(x, y, 0.024, 0.017, big, s, width=0.007)
    _oval(0.5, 0.72, 0.07, 0.09, big, s)


def _wheel(big: Pixels, s: int) -> None:
    _oval(0.5, 0.5, 0.3, 0.3, big, s, width=0.04)
    for turn in np.arange(0, np.pi, np.pi / 8):
        dx, dy = 0.3 * np.cos(turn), 0.3 * np.sin(turn)
        ends = [(int((0.5 + k * dx) * s), int((0.5 + k * dy) * s)) for k in (-1, 1)]
        cv2.line(big, ends[0], ends[1], 255, max(1, int(0.006 * s)), cv2.LINE_AA)
    _oval(0.5, 0.5, 0.06, 0.06, big, s)


def _comb(big: Pixels, s: int) -> None:
    _box(0.2, 0.32, 0.8, 0.42, big, s)
    for tooth in range(24):
        x = 0.205 + tooth * 0.0255
        _box(x, 0.4, x + 0.009, 0.68, big, s)


def _shoe(big: Pixels, s: int) -> None:
    outline = [[0.18, 0.66], [0.2, 0.4], [0.3, 0.36], [0.42, 0.42], [0.55, 0.52], [0.78, 0.58]]
    outline += [[0.84, 0.66], [0.82, 0.7], [0.2, 0.7]]
    cv2.fillPoly(big, [(np.array(outline) * s).astype(np.int32)], 255, cv2.LINE_AA)


def _glass(big: Pixels, s: int) -> None:
    """A tumbler: rim, walls and foot hide what is behind, the bowl a third of it."""
    _box(0.34, 0.24, 0.66, 0.78, big, s, value=85)
    _box(0.34, 0.24, 0.365, 0.78, big, s)
    _box(0.635, 0.24, 0.66, 0.78, big, s)
    _box(0.34, 0.72, 0.66, 0.78, big, s)
    _oval(0.5, 0.24, 0.16, 0.03, big, s, width=0.015)


def _plant(big: Pixels, s: int) -> None:
    """A pot with leaves on thin stems."""
    _box(0.4, 0.62, 0.6, 0.8, big, s)
    draw = np.random.default_rng(11)
    for x, y in draw.uniform((0.25, 0.15), (0.75, 0.5), (14, 2)):
        stem = (int(0.5 * s), int(0.64 * s)), (int(x * s), int(y * s))
        cv2.line(big, *stem, 255, max(1, int(0.007 * s)), cv2.LINE_AA)
        cv2.ellipse(
            big, stem[1], (int(0.05 * s), int(0.018 * s)), draw.uniform(0, 180), 0, 360, 255, -1
        )


PRODUCTS: Mapping[str, Callable[[Pixels, int], None]] = {
    "bottle": _bottle,
    "mug": _mug,
    "ring": _ring,
    "chain": _chain,
    "wheel": _wheel,
    "comb": _comb,
    "shoe": _shoe,
    "glass": _glass,
    "plant": _plant,
    "pale bottle": _bottle,
    "pale mug": _mug,
    "pale shoe": _shoe,
}
