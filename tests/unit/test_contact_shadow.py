"""The dark rim where a product stands: its light half goes with the ground, at every size."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from backdrop_client import examples
from backdrop_server.stages.pictures import Picture, decode
from backdrop_server.stages.subject import find_matte

FOOT = 0.88
"""Below it, the example shows only the bottle's teal foot, its shadow and the ground."""
WIDTH = 0.3
"""Of the foot, as a share of the picture's."""


@pytest.mark.parametrize("side", [256, 320, 384, 512, 768, 1024, 1536])
def test_no_light_rim_is_left_under_a_foot(side: int) -> None:
    photo = decode(examples.path("product.jpg").read_bytes(), "image").rgb
    rgb = cv2.resize(photo, (side, side), interpolation=cv2.INTER_AREA)
    foot = slice(round(FOOT * side), side)
    alpha = find_matte(Picture(rgb)).alpha[foot]
    assert np.count_nonzero(alpha == 255) > 0.005 * side * side, "the foot itself is kept"
    light = rgb[foot].min(axis=2) > 110  # grey: the foot has little red
    left = alpha[light].sum() / 255 / (WIDTH * side)
    assert left < 1, f"a rim of {left:.2f} pixels"
