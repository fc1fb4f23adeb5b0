"""Matting networks: their published input sizes, normalisation and licences, and how they are run."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

Pixels = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]
Arrays = Mapping[str, npt.NDArray[Any]]
Run = Callable[[Arrays], Mapping[str, npt.NDArray[Any]]]

_IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_HALF = (0.5, 0.5, 0.5), (1.0, 1.0, 1.0)
SOLID, EMPTY = 0.95, 0.05
"""Shares beyond these are all subject or none: a network says 0.99 where a core must be exact."""
FOUND_NOTHING = 0.1
"""A map whose values differ by less holds no subject; stretching it would draw noise."""


@dataclasses.dataclass(frozen=True)
class MattingSpec:
    """A published network: RGB of 0 to 1, resized to ``side`` x ``side``, less ``mean``, by ``std``.

    The first output [1, 1, side, side] is the map; ``logits``: before its sigmoid; ``stretched``: the
    published code stretches it to 0 to 1; ``by_brightest``: it divides the picture by its largest
    value. ``source``: where it is published; ``repositories``: hub ids that this licence covers.
    """

    side: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    licence: str
    source: str
    logits: bool = False
    stretched: bool = True
    by_brightest: bool = False
    commercial: bool = True
    repositories: tuple[str, ...] = ()


MATTING_SPECS: Mapping[str, MattingSpec] = {
    "u2net": MattingSpec(
        320, *_IMAGENET, "Apache-2.0", "github.com/xuebinqin/U-2-Net", by_brightest=True
    ),
    "isnet": MattingSpec(1024, *_HALF, "Apache-2.0", "github.com/xuebinqin/DIS"),
    "birefnet": MattingSpec(
        1024, *_IMAGENET, "MIT", "github.com/ZhengPeng7/BiRefNet", logits=True, stretched=False
    ),
    "rmbg-1.4": MattingSpec(
        1024, *_HALF, "bria-rmbg-1.4, non-commercial", "huggingface.co/briaai/RMBG-1.4",
        commercial=False, repositories=("briaai/RMBG-1.4",),
    ),
    "rmbg-2.0": MattingSpec(
        1024, *_IMAGENET, "CC BY-NC 4.0", "huggingface.co/briaai/RMBG-2.0",
        logits=False, stretched=False, commercial=False, repositories=("briaai/RMBG-2.0",),
    ),
}  # fmt: skip


@dataclasses.dataclass(frozen=True, eq=False)
class MattingNetwork:
    """A network that is at hand: ``run`` takes and gives arrays by name."""

    kind: str
    run: Run
    input_name: str
    output_name: str

    def alpha(self, rgb: Pixels) -> Pixels:
        """The matte uint8 [H, W] of ``rgb`` uint8 [H, W, 3]; all 0 where it finds no subject."""
        spec = MATTING_SPECS[self.kind]
        output = self.run({self.input_name: network_input(rgb, spec)})[self.output_name]
        share = _share(np.asarray(output, np.float32).reshape(output.shape[-2:]), spec)
        whole = cv2.resize(share, (rgb.shape[1], rgb.shape[0]), interpolation=cv2.INTER_LINEAR)
        alpha: Pixels = np.rint(255 * np.clip((whole - EMPTY) / (SOLID - EMPTY), 0, 1)).astype(
            np.uint8
        )
        return alpha


def network_input(rgb: Pixels, spec: MattingSpec) -> Floats:
    """What the network sees of ``rgb`` uint8 [H, W, 3]: float32 [1, 3, side, side]."""
    size = (spec.side, spec.side)
    shrinks = max(rgb.shape[:2]) > spec.side
    small = cv2.resize(rgb, size, interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)
    brightest = max(1, int(small.max())) if spec.by_brightest else 255
    scaled = small.astype(np.float32) / brightest
    normal = (scaled - np.array(spec.mean, np.float32)) / np.array(spec.std, np.float32)
    return np.ascontiguousarray(normal.transpose(2, 0, 1)[None])


def _share(output: Floats, spec: MattingSpec) -> Floats:
    share = 1 / (1 + np.exp(-np.clip(output, -60, 60))) if spec.logits else output
    low, high = float(share.min()), float(share.max())
    if high - low < FOUND_NOTHING:
        return np.zeros_like(output)
    stretched: Floats = (share - low) / (high - low) if spec.stretched else share
    return stretched
