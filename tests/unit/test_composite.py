from __future__ import annotations

import numpy as np
import pytest

from backdrop_server.stages.composite import paste_back
from backdrop_server.stages.pictures import resize

RNG = np.random.default_rng(5)
PHOTO = RNG.integers(0, 256, (50, 70, 3), dtype=np.uint8)
BACKGROUND = RNG.integers(0, 256, (64, 64, 3), dtype=np.uint8)
EVERY_ALPHA = np.resize(np.arange(256, dtype=np.uint8), (50, 70))


def light(value: float) -> float:
    value /= 255
    return value / 12.92 if value <= 0.04045 else float(((value + 0.055) / 1.055) ** 2.4)


def test_the_product_is_untouched_and_the_background_is_the_background() -> None:
    result = paste_back(PHOTO, EVERY_ALPHA, BACKGROUND)
    assert result.dtype == np.uint8
    np.testing.assert_array_equal(result[EVERY_ALPHA == 255], PHOTO[EVERY_ALPHA == 255])
    np.testing.assert_array_equal(
        result[EVERY_ALPHA == 0], resize(BACKGROUND, 70, 50)[EVERY_ALPHA == 0]
    )


@pytest.mark.parametrize("value", [0, 255])
def test_a_hard_matte_gives_one_or_the_other(value: int) -> None:
    result = paste_back(PHOTO, np.full((50, 70), value, np.uint8), BACKGROUND)
    np.testing.assert_array_equal(result, PHOTO if value else resize(BACKGROUND, 70, 50))


def test_the_edge_is_mixed_in_linear_light() -> None:
    front, back, alpha = (RNG.integers(0, 256, (8, 8), dtype=np.uint8) for _ in range(3))
    result = paste_back(np.dstack([front] * 3), alpha, np.dstack([back] * 3))
    values = (array.ravel().tolist() for array in (front, back, alpha, result[..., 0]))
    for f, b, a, mixed in zip(*values, strict=True):
        expected = light(f) * a / 255 + light(b) * (1 - a / 255)
        assert light(max(0, mixed - 0.51)) <= expected + 1e-4
        assert light(min(255, mixed + 0.51)) >= expected - 1e-4


def test_half_of_white_over_black_is_brighter_than_half_the_code() -> None:
    white, black = np.full((4, 4, 3), 255, np.uint8), np.zeros((4, 4, 3), np.uint8)
    assert (paste_back(white, np.full((4, 4), 128, np.uint8), black) == 188).all()


def test_equal_colours_stay_equal_under_any_alpha() -> None:
    ramp = np.broadcast_to(np.arange(256, dtype=np.uint8)[None, :, None], (256, 256, 3))
    alpha = np.ascontiguousarray(ramp[..., 0].T)
    np.testing.assert_array_equal(paste_back(ramp, alpha, ramp), ramp)


def test_inputs_are_not_written_to() -> None:
    photo, alpha, background = PHOTO.copy(), EVERY_ALPHA.copy(), BACKGROUND.copy()
    paste_back(photo, alpha, background)
    np.testing.assert_array_equal(photo, PHOTO)
    np.testing.assert_array_equal(alpha, EVERY_ALPHA)
    np.testing.assert_array_equal(background, BACKGROUND)
