from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image
from transformers import CLIPImageProcessorPil

from backdrop_server.stages import pictures
from backdrop_server.working_sizes import working_size

Pixels = npt.NDArray[np.uint8]

RNG = np.random.default_rng(7)
RGB: Pixels = RNG.integers(0, 256, (20, 30, 3), dtype=np.uint8)
GREY: Pixels = RNG.integers(0, 256, (20, 30), dtype=np.uint8)
ALPHA: Pixels = RNG.integers(0, 256, (20, 30), dtype=np.uint8)


@pytest.mark.parametrize("native", [256 * 256, 512 * 512, 1024 * 1024])
@pytest.mark.parametrize(
    "size", [(1, 1), (1000, 667), (667, 1000), (2048, 2048), (2048, 1), (3, 2000)]
)
def test_working_size_rules(size: tuple[int, int], native: int) -> None:
    width, height = working_size(*size, native)
    assert width % 64 == 0
    assert height % 64 == 0
    assert 0.5 * native <= width * height <= 1.25 * native
    assert working_size(*size[::-1], native) == (height, width)


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ((500, 500), (1024, 1024)),
        ((1920, 1080), (1344, 768)),
        ((1080, 1920), (768, 1344)),
        ((2048, 512), (2048, 512)),
        ((2048, 10), (2048, 512)),
    ],
)
def test_working_size_of_sdxl(size: tuple[int, int], expected: tuple[int, int]) -> None:
    assert working_size(*size, 1024 * 1024) == expected


def test_working_size_of_a_tiny_network() -> None:
    assert working_size(30, 900, 32 * 32) == (64, 64)


@pytest.mark.parametrize("size", [(10, 7), (30, 20), (90, 61), (1, 1)])
def test_resize_shapes(size: tuple[int, int]) -> None:
    assert pictures.resize(RGB, *size).shape == (size[1], size[0], 3)
    assert pictures.resize(GREY, *size).shape == (size[1], size[0])


def test_resize_keeps_brightness_when_it_shrinks_a_lot() -> None:
    checks = (np.indices((512, 512)).sum(axis=0) % 2 * 200).astype(np.uint8)
    assert np.abs(pictures.resize(checks, 16, 16).astype(int) - 100).max() <= 1


@pytest.mark.parametrize("target", [224, 97, 32])
@pytest.mark.parametrize(
    "size",
    [(224, 224), (225, 224), (301, 450), (451, 300), (64, 33), (33, 64), (1000, 667), (7, 90)],
)
def test_clip_pixels_equal_transformers(size: tuple[int, int], target: int) -> None:
    rgb = np.random.default_rng(1).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    processor = CLIPImageProcessorPil(
        size={"shortest_edge": target}, crop_size={"height": target, "width": target}
    )
    expected = processor(
        Image.fromarray(rgb), do_rescale=False, do_normalize=False, return_tensors="np"
    ).pixel_values[0]
    pixels = pictures.clip_pixels(rgb, target)
    assert pixels.dtype == np.uint8
    np.testing.assert_array_equal(pixels, expected.transpose(1, 2, 0))


@pytest.mark.parametrize("size", [(2048, 1), (1, 2048)])
def test_clip_pixels_of_a_strip(size: tuple[int, int]) -> None:
    strip = np.full((size[1], size[0], 3), 77, np.uint8)
    pixels = pictures.clip_pixels(strip, 224)
    assert pixels.shape == (224, 224, 3)
    assert (pixels == 77).all()


@pytest.mark.parametrize("size", [(48, 32), (96, 64), (24, 16), (37, 90)])
def test_a_matte_keeps_its_outline_at_another_size(size: tuple[int, int]) -> None:
    alpha = np.zeros((64, 96), np.uint8)
    alpha[16:48, 24:72] = 255
    made = pictures.resize_matte(alpha, *size)
    assert made.shape == (size[1], size[0])
    assert made.dtype == np.uint8
    assert set(np.unique(made[size[1] // 3 : size[1] // 2, size[0] // 3 : size[0] // 2])) == {255}
    assert (made >= 128).mean() == pytest.approx(0.25, abs=0.03)
    assert (made[0] == 0).all() and (made[:, -1] == 0).all()


def test_a_side_of_a_matte_that_shrinks_is_averaged_where_the_other_grows() -> None:
    stripes = np.zeros((64, 2048), np.uint8)
    stripes[:, ::4] = 200
    assert np.abs(pictures.resize_matte(stripes, 512, 128).astype(int) - 50).max() <= 1
