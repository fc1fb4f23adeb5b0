"""Which sizes of the graphs' tensors vary, and with what: an engine is built for ranges of them."""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Mapping, Sequence

from backdrop_server.contract import NUMBERS
from backdrop_server.plan import EngineLimits


class Axis(enum.Enum):
    """What a size that varies follows from."""

    ROWS = "rows"
    SAMPLES = "samples"
    LATENT_HEIGHT = "latent height"
    LATENT_WIDTH = "latent width"
    PICTURE_HEIGHT = "picture height"
    PICTURE_WIDTH = "picture width"


_LATENT = {0: Axis.ROWS, 2: Axis.LATENT_HEIGHT, 3: Axis.LATENT_WIDTH}
_PICTURE = {0: Axis.ROWS, 1: Axis.PICTURE_HEIGHT, 2: Axis.PICTURE_WIDTH}
AXES: Mapping[str, Mapping[int, Axis]] = {
    "sample": _LATENT,
    "inpaint_latents": _LATENT,
    "edge_embeds": _LATENT,
    "working_image": _PICTURE,
    "mask": _PICTURE,
    "latents": {
        0: Axis.ROWS,
        1: Axis.SAMPLES,
        3: Axis.LATENT_HEIGHT,
        4: Axis.LATENT_WIDTH,
    },
}
"""Axes of the graphs' inputs by name; of those that are not here only the first varies."""


def axes_of(name: str) -> Mapping[int, Axis]:
    """The axes of the input ``name`` that vary."""
    return AXES.get(name, {0: Axis.ROWS})


@dataclasses.dataclass(frozen=True)
class Grid:
    """How a picture's sides and its latents' go together."""

    pixels_per_latent: int = 8
    latent_multiple: int = 8
    """Every latent side is a multiple of it: working sizes are multiples of 64 pixels."""


@dataclasses.dataclass(frozen=True)
class Span:
    """An inclusive range of a size, and the value that speed matters most for."""

    low: int
    best: int
    high: int


LatentSize = tuple[int, int]
"""Height and width."""
_BAND_EXCESS = 1.25
"""A band's box is at most this many times as large as the largest of all sizes: what is reserved
for sizes that never come. SDXL's sizes fall into five bands of at most 1.41 times its pixels; in
four, the scores of the VAE's attention for four samples would pass TensorRT's limit."""


def bands(sizes: Sequence[LatentSize]) -> list[tuple[LatentSize, ...]]:
    """``sizes`` in groups of neighbouring aspect, as few as keep each group's box small.

    A box reaches from the smallest to the largest of each side. All working sizes have about the
    same area, so that one box around all of them has four times as much as any. Without sizes
    there is one band without limits.
    """
    largest = max((height * width for height, width in sizes), default=0)
    found: list[tuple[LatentSize, ...]] = []
    for size in sorted(sizes, key=lambda size: (size[1] / size[0], size)):
        wider = (*found[-1], size) if found else (size,)
        if found and _box(wider) <= _BAND_EXCESS * largest:
            found[-1] = wider
        else:
            found.append((size,))
    return found or [()]


def _box(sizes: Sequence[LatentSize]) -> int:
    return max(height for height, _ in sizes) * max(width for _, width in sizes)


def largest_vae_tensor(shapes: Mapping[str, Sequence[int]], channels: int, grid: Grid) -> int:
    """Elements of a VAE's largest tensor for inputs of ``shapes``.

    It has ``channels`` at the picture's size, or it is the scores of the attention, which has one
    head over all latents: too wide for any fused kernel, so it is a tensor of its own.
    """
    given = {axis: shape[i] for name, shape in shapes.items() for i, axis in axes_of(name).items()}
    area = grid.pixels_per_latent**2
    if Axis.LATENT_HEIGHT in given:
        latents = given[Axis.LATENT_HEIGHT] * given[Axis.LATENT_WIDTH]
    else:
        latents = given[Axis.PICTURE_HEIGHT] * given[Axis.PICTURE_WIDTH] // area
    pictures = given[Axis.ROWS] * given.get(Axis.SAMPLES, 1)
    return pictures * max(channels * latents * area, latents**2)


def spans(limits: EngineLimits, grid: Grid, largest_side: int) -> dict[Axis, Span]:
    """The range of each axis within ``limits``; sides without a limit go up to ``largest_side``.

    ``largest_side`` is a latent side. The best size is the middle of a range of sides (the square
    picture, whose sides are about the geometric mean), and the most rows; of an engine that takes a
    single row, that one: it runs the plain graphs, a request at a time.
    """
    heights = _sides(limits.heights, [size[0] for size in limits.sizes], grid, largest_side)
    widths = _sides(limits.widths, [size[1] for size in limits.sizes], grid, largest_side)
    samples = NUMBERS["samples"]
    return {
        Axis.ROWS: Span(
            limits.min_rows, 1 if limits.min_rows == 1 else limits.max_rows, limits.max_rows
        ),
        Axis.SAMPLES: Span(int(samples.low), int(samples.low), int(samples.high)),
        Axis.LATENT_HEIGHT: heights,
        Axis.LATENT_WIDTH: widths,
        Axis.PICTURE_HEIGHT: _scaled(heights, grid.pixels_per_latent),
        Axis.PICTURE_WIDTH: _scaled(widths, grid.pixels_per_latent),
    }


def _sides(limit: tuple[int, int] | None, sizes: list[int], grid: Grid, largest: int) -> Span:
    low, high = limit or (grid.latent_multiple, largest)
    if sizes:
        low, high = min(sizes), max(sizes)
    middle = round((low * high) ** 0.5 / grid.latent_multiple) * grid.latent_multiple
    return Span(low, min(max(middle, low), high), high)


def _scaled(span: Span, factor: int) -> Span:
    return Span(span.low * factor, span.best * factor, span.high * factor)
