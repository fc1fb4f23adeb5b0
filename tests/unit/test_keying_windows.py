"""Keying looks only around what is no ground yet; the whole picture gives the same matte."""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt
import pytest

from backdrop_server.stages import keying, regions, shading
from backdrop_server.stages.regions import Part, Region

Pixels = npt.NDArray[np.uint8]
SIZES = ((200, 140), (384, 300), (512, 512), (700, 450), (1100, 800), (24, 512), (900, 60))


def photo(width: int, height: int, shape: str, grain: float) -> Pixels:
    """A product on a pale ground that falls off, its soft shadow beside it."""
    short = min(width, height)
    x, y, radius = width // 2, height // 2, short // 5
    if shape == "at the border":
        radius = short // 10
        y = height - radius // 2
    solid = np.zeros((height, width), np.float32)
    thick = max(2, radius // 3) if shape == "ring" else -1
    cv2.circle(solid, (x, y), radius, 1, thick, cv2.LINE_AA)
    cast = cv2.GaussianBlur(np.roll(solid, (radius // 2, radius // 2), (0, 1)), (0, 0), short / 25)
    light = 238 - 12 * np.linspace(0, 1, height, dtype=np.float32)[:, None] - 60 * cast
    mixed = (1 - solid)[..., None] * light[..., None] + solid[..., None] * np.array(
        [150, 60, 40], np.float32
    )
    mixed += np.random.default_rng(0).normal(0, grain, mixed.shape).astype(np.float32)
    picture: Pixels = np.rint(np.clip(mixed, 0, 255)).astype(np.uint8)
    return picture


@pytest.mark.parametrize("grain", [0, 1.5])
@pytest.mark.parametrize("shape", ["disc", "ring", "at the border"])
@pytest.mark.parametrize("size", SIZES)
def test_a_window_gives_the_matte_of_the_whole_picture(
    size: tuple[int, int], shape: str, grain: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    rgb, shares = photo(*size, shape, grain), []

    def watched(region: Region, margin: int) -> Part:
        part = regions.around(region, margin)
        shares.append(region[part].size / region.size)
        return part

    for module in (keying, shading):
        monkeypatch.setattr(module, "around", watched)
    found = keying.key_uniform_background(rgb)
    assert found is not None and (found == 255).any() and (found == 0).any()
    for module in (keying, shading):
        monkeypatch.setattr(module, "around", lambda region, margin: (slice(None), slice(None)))
    whole = keying.key_uniform_background(rgb)
    assert whole is not None
    np.testing.assert_array_equal(found, whole)
    assert shares and min(shares) < 1
