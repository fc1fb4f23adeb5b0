from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt
import pytest

from backdrop_server.stages.edges import ground_in_holes, sureness
from backdrop_server.stages.pictures import Picture
from backdrop_server.stages.subject import find_matte

Pixels = npt.NDArray[np.uint8]


def photo_of(share: npt.NDArray[np.float64], wall: int = 240) -> Pixels:
    mixed = share[..., None] * np.array([30.0, 60, 110]) + (1 - share[..., None]) * wall
    rgb: Pixels = np.rint(mixed).astype(np.uint8)
    return rgb


def drawn(width: int, radius: int = 90, side: int = 300) -> npt.NDArray[np.float64]:
    """A ring ``width`` pixels wide, with a soft edge."""
    big = np.zeros((side * 4, side * 4), np.uint8)
    cv2.circle(big, (side * 2, side * 2), radius * 4, 255, width * 4)
    share: npt.NDArray[np.float64] = cv2.resize(big, (side, side), interpolation=cv2.INTER_AREA)
    return share / 255.0


@pytest.mark.parametrize("width", [3, 8, 30])
def test_a_ring_has_a_hole(width: int) -> None:
    share = drawn(width)
    matte = find_matte(Picture(photo_of(share)))
    assert matte.source == "uniform background"
    assert not matte.alpha[130:170, 130:170].any()
    assert np.abs(matte.alpha / 255 - share).sum() < 0.12 * share.sum()


def test_a_label_in_the_ground_colour_is_no_hole() -> None:
    share = np.zeros((300, 300))
    share[60:240, 60:240] = 1
    share[130:170, 130:170] = 0
    assert (find_matte(Picture(photo_of(share))).alpha[130:170, 130:170] == 255).all()


def test_gaps_behind_gaps_are_holes() -> None:
    outside = np.zeros((100, 100), bool)
    outside[:, :5] = True
    level = outside.copy()
    level[20:60, 10:50] = True  # behind a wall of 5
    level[20:60, 55:95] = True  # behind that hole
    level[80:84, 50:54] = True  # far from all ground
    holes = ground_in_holes(level, outside)
    assert holes[20:60, 10:50].all()
    assert holes[20:60, 55:95].all()
    assert not holes[80:84, 50:54].any()


def test_a_chain_of_thin_links_is_kept() -> None:
    share = np.zeros((1200, 1200), np.uint8)
    for x in range(200, 1000, 60):
        cv2.ellipse(share, (x, 600), (40, 26), 0, 0, 360, 255, 9)
    true = cv2.resize(share, (300, 300), interpolation=cv2.INTER_AREA) / 255.0
    alpha = find_matte(Picture(photo_of(true))).alpha / 255
    assert np.abs(alpha - true).sum() < 0.25 * true.sum()


def test_sureness_falls_with_the_contrast_of_the_outline() -> None:
    alpha = np.zeros((200, 200), np.uint8)
    alpha[60:140, 60:140] = 255
    told = []
    for grey in (20, 215, 238, 240):
        rgb = np.full((200, 200, 3), 240, np.uint8)
        rgb[60:140, 60:140] = grey
        told.append(sureness(rgb, alpha))
    assert told[0] == 1
    assert told == sorted(told, reverse=True)
    assert told[1] > 0.5 > told[2] > told[3] == 0


def test_a_matte_that_was_given_is_sure() -> None:
    share = drawn(30)
    rgb = photo_of(share)
    assert find_matte(Picture(rgb), np.zeros((300, 300), np.uint8)).sureness == 1
    assert find_matte(Picture(rgb)).sureness > 0.9
