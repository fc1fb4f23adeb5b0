"""The measure of how much of a product's edges a picture shows."""

from __future__ import annotations

import numpy as np
from benchmarks.quality.edges import edge_agreement

from tests.pictures import Pixels

INSIDE = np.zeros((64, 64), np.uint8)


def square(left: int) -> Pixels:
    picture = np.full((64, 64, 3), 30, np.uint8)
    picture[20:44, left : left + 24] = 220
    return picture


def test_a_picture_agrees_with_itself_and_with_a_copy_two_pixels_off() -> None:
    assert edge_agreement(square(20), square(20), INSIDE) == 1
    assert edge_agreement(square(22), square(20), INSIDE) > 0.9
    assert edge_agreement(square(30), square(20), INSIDE) < 0.7


def test_a_picture_full_of_edges_agrees_with_nothing() -> None:
    noise = np.random.default_rng(1).integers(0, 256, (64, 64, 3), np.uint8)
    assert edge_agreement(noise, square(20), INSIDE) < 0.2


def test_pictures_without_edges() -> None:
    plain = np.full((64, 64, 3), 90, np.uint8)
    assert edge_agreement(plain, square(20), INSIDE) == 0
    assert edge_agreement(plain, plain, INSIDE) == 1
