"""The synthetic set: products before backgrounds, with known alpha, foreground and background."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from backdrop_server.stages.composite import light_of, srgb_of
from benchmarks.quality.grounds import KINDS, ground
from benchmarks.quality.products import PRODUCTS, colours_of, share_of

Pixels = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]

SIDE = 384
GROUNDS_PER_KIND = 5


@dataclasses.dataclass(frozen=True, eq=False)
class Sample:
    """``photo`` uint8 [H, W, 3]; the truth: ``alpha`` float32 [H, W], 0 to 1, ``foreground`` and
    ``background`` uint8 [H, W, 3]."""

    name: str
    kind: str
    product: str
    photo: Pixels
    alpha: Floats
    foreground: Pixels
    background: Pixels

    @property
    def core(self) -> npt.NDArray[np.bool_]:
        """Where the truth is product and nothing else, two pixels away from any edge."""
        whole = (self.alpha == 1).astype(np.uint8)
        core: npt.NDArray[np.bool_] = cv2.erode(whole, np.ones((5, 5), np.uint8)) > 0
        return core

    @property
    def band(self) -> npt.NDArray[np.bool_]:
        """The soft edge of the truth, and two pixels to either side."""
        soft = ((self.alpha > 0) & (self.alpha < 1)).astype(np.uint8)
        band: npt.NDArray[np.bool_] = cv2.dilate(soft, np.ones((5, 5), np.uint8)) > 0
        return band


def samples(photos: list[Path], side: int = SIDE) -> Iterator[Sample]:
    """Every product before every background: 12 x 4 x 5. The same each time.

    Every other picture is mixed in light, as a lens does, the others in code values, as picture
    editors do. Half of them have grain; a third went through JPEG at quality 92.
    """
    number = 0
    for kind in KINDS:
        for index in range(GROUNDS_PER_KIND):
            for product in PRODUCTS:
                yield _sample(kind, index, product, number, side, photos)
                number += 1


def _sample(
    kind: str, index: int, product: str, number: int, side: int, photos: list[Path]
) -> Sample:
    alpha = share_of(product, side)
    foreground = np.rint(colours_of(product, side, number)).astype(np.uint8)
    background = np.rint(np.clip(ground(kind, index, side, photos), 0, 255)).astype(np.uint8)
    mix = mixed_in_light if number % 2 else _mixed_in_code
    photo = _as_taken(mix(foreground, background, alpha), number)
    return Sample(
        f"{product} on {kind} {index}", kind, product, photo, alpha, foreground, background
    )


def mixed_in_light(front: Pixels, back: Pixels, alpha: Floats) -> Pixels:
    """``front`` over ``back`` by ``alpha``, in linear light."""
    light = light_of(back) + alpha[..., None] * (light_of(front) - light_of(back))
    return srgb_of(light)


def _mixed_in_code(front: Pixels, back: Pixels, alpha: Floats) -> Pixels:
    mixed = back + alpha[..., None] * (front.astype(np.float32) - back)
    code: Pixels = np.rint(mixed).astype(np.uint8)
    return code


def _as_taken(rgb: Pixels, number: int) -> Pixels:
    if number % 4 >= 2:
        grain = np.random.default_rng(number).normal(0, 1.2, rgb.shape)
        rgb = np.clip(np.rint(rgb + grain), 0, 255).astype(np.uint8)
    if number % 3 == 2:
        file = cv2.imencode(".jpg", rgb[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 92])[1]
        rgb = cv2.imdecode(file, cv2.IMREAD_COLOR)[..., ::-1].copy()
    return rgb
