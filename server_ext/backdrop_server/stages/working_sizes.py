"""Every working size that a photo can get: what an engine has to be built for."""

from __future__ import annotations

import math

from backdrop_server.stages.pictures import (
    WORKING_MAX_ASPECT,
    WORKING_MAX_EXCESS,
    WORKING_MULTIPLE,
    working_size,
)


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
