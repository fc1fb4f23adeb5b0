"""Where a product stands its shadow is dark and steep: it goes with the ground, pale products stay."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np
import numpy.typing as npt
import pytest
from benchmarks.quality.mattes import shipped_network

from backdrop_client import examples
from backdrop_server.stages.pictures import Picture, decode
from backdrop_server.stages.subject import find_matte

Pixels = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]

FOOT = 0.88
"""Below it, the example shows only the bottle's teal foot, its shadow and the ground."""
WIDTH = 0.3
"""Of the foot, as a share of the picture's height."""


def example(height: int, width: int) -> Pixels:
    """The example's photo, cut to the shape and scaled: uint8 [height, width, 3]."""
    photo = decode(examples.path("product.jpg").read_bytes(), "image").rgb
    margin = round((1 - width / height) / 2 * photo.shape[1])
    cut = photo[:, margin : photo.shape[1] - margin]
    scaled: Pixels = cv2.resize(cut, (width, height), interpolation=cv2.INTER_AREA)
    return scaled


@pytest.mark.parametrize(
    ("height", "width"),
    [(256, 256), (384, 384), (512, 512), (768, 768), (1024, 1024), (1536, 1536), (1024, 520)],
)
def test_no_light_rim_is_left_under_a_foot(height: int, width: int) -> None:
    rgb = example(height, width)[round(FOOT * height) :]
    alpha = find_matte(Picture(example(height, width))).alpha[round(FOOT * height) :]
    light = rgb.min(axis=2) > 110  # grey: the foot has little red
    left = alpha[light].sum() / 255 / (WIDTH * height)
    assert left < 1.25, f"a rim of {left:.2f} pixels"
    teal = rgb[..., 1].astype(int) - rgb[..., 0] > 25
    assert alpha[teal].mean() > 0.97 * 255, "the foot itself is kept"


def pale(side: int, shape: str, level: int) -> tuple[Pixels, Floats]:
    """A grey shape, ``level`` darker than the white it is on, with grain and JPEG; its alpha."""
    alpha = np.zeros((4 * side, 4 * side), np.float32)
    if shape == "disc":
        cv2.circle(alpha, (2 * side, 2 * side), round(1.1 * side), 1, -1)
    else:
        alpha[side : 3 * side, side * 5 // 4 : side * 11 // 4] = 1
    alpha = cv2.GaussianBlur(
        cv2.resize(alpha, (side, side), interpolation=cv2.INTER_AREA), (0, 0), 0.7
    )
    grain = np.random.default_rng(side + level).normal(0, 0.7, (side, side, 3))
    rgb = np.clip(np.rint(255 - level * alpha[..., None] + grain), 0, 255).astype(np.uint8)
    file = cv2.imencode(".jpg", rgb, [cv2.IMWRITE_JPEG_QUALITY, 92])[1]
    return cv2.imdecode(file, cv2.IMREAD_COLOR).astype(np.uint8), alpha


@pytest.mark.parametrize("side", [64, 96, 256, 512, 1024, 1536])
@pytest.mark.parametrize("shape", ["disc", "box"])
@pytest.mark.parametrize("level", [20, 30, 45])
def test_a_pale_product_is_no_shadow(side: int, shape: str, level: int) -> None:
    rgb, true = pale(side, shape, level)
    alpha = find_matte(Picture(rgb)).alpha / 255
    assert np.abs(alpha - true).sum() < 0.05 * true.sum()


def test_what_is_done_beside_the_keying_changes_nothing() -> None:
    """Our own network is asked of what another thread makes ready, or of what this one does."""
    network = shipped_network()
    assert network is not None
    picture = Picture(example(400, 300))
    with ThreadPoolExecutor(1) as beside:
        found = [find_matte(picture, None, network, way) for way in (beside, None)]
    assert found[0].source == found[1].source
    np.testing.assert_array_equal(found[0].alpha, found[1].alpha)
