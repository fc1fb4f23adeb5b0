"""The size that a photo is painted at, and all such sizes: what an engine has to be built for."""

from __future__ import annotations

import math

WORKING_MULTIPLE = 64
WORKING_MAX_ASPECT = 4.0
"""The most elongated working size, as in SDXL's training buckets; longer photos are squeezed."""
WORKING_MAX_EXCESS = 1.25


def working_size(width: int, height: int, native_pixels: int) -> tuple[int, int]:
    """The size (width, height) to paint a photo at: its aspect, about ``native_pixels`` in area.

    Both sides are multiples of 64. Aspects past 4:1 count as 4:1. The area is at most 1.25 times
    ``native_pixels``, unless even 64x64 is more.
    """
    aspect = min(max(width / height, 1 / WORKING_MAX_ASPECT), WORKING_MAX_ASPECT)
    limit = max(native_pixels * WORKING_MAX_EXCESS, WORKING_MULTIPLE**2)
    longest = int(math.sqrt(limit * WORKING_MAX_ASPECT))
    sides = range(WORKING_MULTIPLE, longest + 1, WORKING_MULTIPLE)

    def misfit(size: tuple[int, int]) -> float:
        stretch = abs(math.log(size[0] / size[1] / aspect))
        return 2 * stretch + abs(math.log(size[0] * size[1] / native_pixels))

    return min(((w, h) for w in sides for h in sides if w * h <= limit), key=misfit)


def working_sizes(native_pixels: int) -> tuple[tuple[int, int], ...]:
    """All (width, height) in pixels that ``working_size`` gives for any photo, in order.

    A size that is not the best for a photo of its own aspect is the best for none: another that
    beats it there stays ahead of it everywhere, since both lose at the same rate with the stretch.
    """
    limit = max(native_pixels * WORKING_MAX_EXCESS, WORKING_MULTIPLE**2)
    longest = int(math.sqrt(limit * WORKING_MAX_ASPECT))
    sides = range(WORKING_MULTIPLE, longest + 1, WORKING_MULTIPLE)
    shapes = {(w // math.gcd(w, h), h // math.gcd(w, h)) for w in sides for h in sides}
    aspect = int(WORKING_MAX_ASPECT)
    inside = [(w, h) for w, h in shapes if max(w, h) <= aspect * min(w, h)]
    photos = [*inside, (aspect, 1), (1, aspect)]  # longer photos count as these
    return tuple(sorted({working_size(w, h, native_pixels) for w, h in photos}))
