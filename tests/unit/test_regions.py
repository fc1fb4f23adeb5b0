"""Pixels by their places, and the parts of a region."""

from __future__ import annotations

import numpy as np
import pytest

from backdrop_server.stages.means import mean_near, means_at
from backdrop_server.stages.regions import (
    FEW,
    around,
    connected_to_border,
    large_parts,
    named,
    parts_of,
    places,
    put,
    taken,
)

REGION = np.random.default_rng(0).random((40, 60)) > 0.6


@pytest.mark.parametrize("shape", [(40, 60), (40, 60, 3)])
def test_places_choose_what_the_region_chooses(shape: tuple[int, ...]) -> None:
    image = np.random.default_rng(1).integers(0, 256, shape).astype(np.uint8)
    at = places(REGION)
    np.testing.assert_array_equal(taken(image, at), image[REGION])
    window = np.s_[3:20, 5:33]
    part = taken(image[window], places(REGION[window]))
    np.testing.assert_array_equal(part, image[window][REGION[window]])
    other = image.copy()
    put(image, at, 255 - taken(image, at))
    other[REGION] = 255 - other[REGION]
    np.testing.assert_array_equal(image, other)


def test_an_image_that_is_not_in_one_piece_is_refused_and_not_lost() -> None:
    image = np.zeros((40, 60, 3), np.uint8)
    with pytest.raises(AttributeError):
        put(image[:, 5:33], np.array([0]), np.array([[1, 2, 3]], np.uint8))


def test_parts_by_their_area_and_their_way_to_the_border() -> None:
    region = np.zeros((40, 60), bool)
    region[10:20, 10:20] = region[30, 30] = region[5:8, 58:] = True
    labels, areas = parts_of(region)
    assert areas[labels[15, 15]] == 100 and areas[labels[30, 30]] == 1 and areas[0] == 0
    assert large_parts(region).sum() == 106
    touching = np.zeros_like(region)
    touching[5:8, 58:] = True
    np.testing.assert_array_equal(connected_to_border(region), touching)
    assert not connected_to_border(np.zeros((40, 60), bool)).any()
    assert connected_to_border(np.ones((40, 60), bool)).all()


@pytest.mark.parametrize("parts", [0, 1, FEW - 1, FEW, 3 * FEW])
def test_few_parts_and_many_are_counted_and_chosen_alike(parts: int) -> None:
    region = np.zeros((8, 4 * 3 * FEW), bool)
    for number in range(parts):
        region[1 : 2 + number % 5, 4 * number : 4 * number + 2] = True
    labels, areas = parts_of(region)
    assert areas.tolist() == [0, *(2 * (1 + number % 5) for number in range(parts))]
    for chosen in (areas > 4, areas > 100, areas >= 0):
        np.testing.assert_array_equal(named(labels, chosen), chosen[labels])


def test_around_is_a_region_and_its_margin_within_the_picture() -> None:
    region = np.zeros((40, 60), bool)
    region[1, 30] = region[12, 50] = True
    assert [(s.start, s.stop) for s in around(region, 3)] == [(0, 16), (27, 54)]


def test_means_at_places_are_the_picture_of_means_there() -> None:
    draw = np.random.default_rng(2)
    image, weight = draw.random((40, 60, 3), np.float32), REGION.astype(np.float32)
    weight[:, :20] = 0
    at = places(draw.random((40, 60)) > 0.7)
    expected = taken(mean_near(image, weight, 5), at)
    np.testing.assert_array_equal(means_at(image, weight, 5, at), expected)
    assert (expected == 0).any() and (expected > 0).any()
