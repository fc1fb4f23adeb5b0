from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

from backdrop_server.stages.composite import light_of, paste_back, srgb_of
from backdrop_server.stages.foreground import estimate_foreground

Pixels = npt.NDArray[np.uint8]
RED, GREEN, BLUE = (180, 30, 40), (20, 200, 60), (30, 60, 190)


def filled(colour: tuple[int, int, int], side: int = 120) -> Pixels:
    return np.broadcast_to(np.array(colour, np.uint8), (side, side, 3)).copy()


def disc(blur: float = 2.0, side: int = 120) -> Pixels:
    alpha = np.zeros((side, side), np.uint8)
    cv2.circle(alpha, (side // 2, side // 2), side // 3, 255, -1, cv2.LINE_AA)
    soft: Pixels = cv2.GaussianBlur(alpha, (0, 0), blur)
    return soft


def mixed(front: Pixels, back: Pixels, alpha: Pixels) -> Pixels:
    share = alpha[..., None].astype(np.float32) / 255
    return srgb_of(light_of(back) + share * (light_of(front) - light_of(back)))


def test_the_old_background_leaves_the_fringe() -> None:
    alpha = disc()
    photo = mixed(filled(RED), filled(GREEN), alpha)
    found = estimate_foreground(photo, alpha)
    band = (alpha > 25) & (alpha < 255)
    error = np.abs(found[band].astype(int) - RED)
    assert error.mean() < 3
    result = paste_back(found, alpha, filled(BLUE))
    truth = mixed(filled(RED), filled(BLUE), alpha)
    assert np.abs(result.astype(int) - truth)[alpha > 0].mean() < 1
    uncleaned = paste_back(photo, alpha, filled(BLUE))
    assert np.abs(uncleaned.astype(int) - truth)[band].mean() > 10


def test_outside_the_band_not_a_bit_changes() -> None:
    draw = np.random.default_rng(1)
    photo = draw.integers(0, 256, (120, 120, 3), dtype=np.uint8)
    before, alpha = photo.copy(), disc()
    found = estimate_foreground(photo, alpha)
    hard = (alpha == 255) | (alpha == 0)
    np.testing.assert_array_equal(found[hard], photo[hard])
    np.testing.assert_array_equal(photo, before)


def test_a_hard_matte_has_no_band() -> None:
    photo = filled(RED)
    alpha = np.where(disc() > 127, 255, 0).astype(np.uint8)
    np.testing.assert_array_equal(estimate_foreground(photo, alpha), photo)


def test_a_line_without_any_pure_pixel_is_cleaned_too() -> None:
    alpha = np.zeros((120, 120), np.uint8)
    alpha[:, 60] = 150
    found = estimate_foreground(mixed(filled(RED), filled(GREEN), alpha), alpha)
    assert (
        np.abs(found[:, 60].astype(int) - RED).mean()
        < np.abs(mixed(filled(RED), filled(GREEN), alpha)[:, 60].astype(int) - RED).mean()
    )


def test_tiny_and_even_mattes_are_borne() -> None:
    for shape in ((1, 1), (1, 9), (5, 2)):
        photo = np.full((*shape, 3), 77, np.uint8)
        for value in (0, 1, 128, 254, 255):
            found = estimate_foreground(photo, np.full(shape, value, np.uint8))
            assert found.shape == photo.shape


def test_glass_gets_its_colour_from_its_rim_and_loses_the_ground_behind() -> None:
    alpha = np.zeros((240, 240), np.uint8)
    alpha[40:200, 60:180] = 255
    alpha[48:192, 68:172] = 85
    photo = mixed(filled(RED, 240), filled(GREEN, 240), alpha)
    found = estimate_foreground(photo, alpha)
    result = paste_back(found, alpha, filled(BLUE, 240))
    truth = mixed(filled(RED, 240), filled(BLUE, 240), alpha)
    assert np.abs(result.astype(int) - truth)[100:140, 100:140].max() < 12
