"""The rough matte that the scene is painted around, and the finished one at the photo's size."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pytest
from benchmarks.quality.products import share_of as product_share

from backdrop_server.stages.keying import key_uniform_background
from backdrop_server.stages.matting import MattingNetwork
from backdrop_server.stages.pictures import Picture
from backdrop_server.stages.subject import (
    ROUGH_PIXELS,
    TRUST,
    Matte,
    find_matte,
    refined,
    rough_matte,
    working_mask,
)

Pixels = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]
PRODUCT, GROUND = np.array([150, 60, 40], np.float32), np.array([236, 236, 232], np.float32)


def share_of(width: int, height: int) -> Floats:
    """A disc with a stalk two hundredths wide, soft at its edge, [height, width]."""
    big = np.zeros((4 * height, 4 * width), np.uint8)
    short = 4 * min(width, height)
    cv2.circle(big, (2 * width, 2 * height), short // 5, 255, -1)
    thick = max(4, short // 50)
    top = 2 * height - short * 2 // 5
    cv2.line(big, (2 * width, 2 * height), (2 * width, top), 255, thick)
    small = cv2.resize(big, (width, height), interpolation=cv2.INTER_AREA)
    share: Floats = small.astype(np.float32) / 255
    return share


def photo_of(share: Floats) -> Pixels:
    mixed = share[..., None] * PRODUCT + (1 - share[..., None]) * GROUND
    return np.rint(mixed).astype(np.uint8)


def keyed_of(rgb: Pixels) -> Pixels:
    keyed = key_uniform_background(rgb)
    assert keyed is not None
    return keyed


def error(alpha: Pixels, share: Floats) -> float:
    """Mean absolute error over the subject's area."""
    return float(np.abs(alpha / np.float32(255) - share).sum() / share.sum())


@pytest.mark.parametrize("size", [(512, 512), (300, 200), (2048, 128), (128, 2048), (64, 64)])
def test_a_photo_that_is_no_larger_than_the_copy_is_finished_at_once(size: tuple[int, int]) -> None:
    rgb = photo_of(share_of(*size))
    rough = rough_matte(Picture(rgb))
    np.testing.assert_array_equal(rough.alpha, keyed_of(rgb))
    matte = refined(rgb, rough)
    assert matte.alpha is rough.alpha and matte.sureness == rough.sureness


@pytest.mark.parametrize("size", [(1024, 1024), (1600, 900), (513, 512), (700, 2048)])
def test_a_large_photo_is_keyed_in_a_copy_first(size: tuple[int, int]) -> None:
    share = share_of(*size)
    rgb = photo_of(share)
    rough = rough_matte(Picture(rgb))
    height, width = rough.alpha.shape
    assert rough.alpha.size <= 1.01 * ROUGH_PIXELS < rgb.shape[0] * rgb.shape[1] * 1.01
    assert abs(width / height - size[0] / size[1]) < 0.02
    matte = refined(rgb, rough)
    np.testing.assert_array_equal(matte.alpha, keyed_of(rgb))
    np.testing.assert_array_equal(find_matte(Picture(rgb)).alpha, matte.alpha)
    assert matte.source == rough.source == "uniform background" and matte.sureness > 0.9
    enlarged = cv2.resize(rough.alpha, size)
    assert error(matte.alpha, share) < 0.01
    assert size == (513, 512) or error(matte.alpha, share) < 0.7 * error(enlarged, share)


@pytest.mark.parametrize("side", [512, 1024])
@pytest.mark.parametrize("product", ["chain", "comb", "ring"])
def test_the_copy_gives_the_mask_of_the_finished_matte(product: str, side: int) -> None:
    """Gaps and teeth of a few pixels too: what is wrongly kept would show the old ground."""
    share = product_share(product, 1024)
    rgb = photo_of(share)
    rough = rough_matte(Picture(rgb))
    masks = [working_mask(a, side, side) for a in (rough.alpha, refined(rgb, rough).alpha)]
    kept, kept_at_last = (mask == 0 for mask in masks)
    assert np.count_nonzero(kept & ~kept_at_last) < 0.03 * np.count_nonzero(kept_at_last)
    assert np.count_nonzero(kept_at_last & ~kept) < 0.03 * np.count_nonzero(kept_at_last)


@pytest.mark.parametrize("product", ["chain", "comb", "ring", "plant"])
def test_a_thin_product_is_no_other_one_because_of_its_edges(product: str) -> None:
    share = product_share(product, 2048)
    rgb = photo_of(share)
    rough = rough_matte(Picture(rgb))
    np.testing.assert_array_equal(refined(rgb, rough).alpha, keyed_of(rgb))


def test_another_subject_than_the_scene_was_painted_around_is_not_taken() -> None:
    """The rough matte is drawn along the photo's edges then, and is not to be trusted as much."""
    share = share_of(1024, 1024)
    rgb = photo_of(share)
    rough = rough_matte(Picture(rgb))
    both = rgb.copy()  # as if the first look had not seen a second thing beside the product
    both[700:950, 60:200] = PRODUCT
    matte = refined(both, rough)
    assert not matte.alpha[705:945, 65:195].any()
    assert error(matte.alpha, share) < 0.05
    assert matte.sureness <= TRUST < rough.sureness


def test_a_ground_that_is_uniform_only_in_the_copy() -> None:
    """Grain that the copy averages away is too much for the photo's own border."""
    share = share_of(2048, 2048)
    grain = np.random.default_rng(0).normal(0, 18, (2048, 2048, 3))
    rgb = np.clip(photo_of(share) + grain, 0, 255).astype(np.uint8)
    assert key_uniform_background(rgb) is None
    rough = rough_matte(Picture(rgb))
    assert rough.source == "uniform background"
    matte = refined(rgb, rough)
    assert matte.alpha.shape == rgb.shape[:2]
    assert (matte.alpha[share == 1] >= 128).mean() > 0.99
    assert (matte.alpha[share == 0] < 128).mean() > 0.99
    assert matte.sureness <= TRUST


def test_glass_that_is_drawn_along_edges_stays_clear() -> None:
    rgb = photo_of(share_of(1024, 1024))
    rgb[:, ::2] = rgb[:, ::2] // 2  # no ground of one colour: nothing to key
    assert key_uniform_background(rgb) is None
    disc = share_of(512, 512)
    clear = np.where(disc == 1, 80, np.rint(255 * disc)).astype(np.uint8)
    alpha = refined(rgb, Matte(clear, "backdrop")).alpha.astype(int)
    inside = cv2.erode((share_of(1024, 1024) == 1).astype(np.uint8), np.ones((31, 31))) > 0
    assert (abs(alpha[inside] - 80) < 8).all()
    solid = np.rint(255 * disc).astype(np.uint8)
    assert (refined(rgb, Matte(solid, "backdrop")).alpha[inside] == 255).all()


def network_of(share: Floats, gate: float, calls: list[int]) -> MattingNetwork:
    """A network of our own kind that says ``share`` [side, side] of every picture."""

    def run(_: Any) -> dict[str, npt.NDArray[Any]]:
        calls.append(1)
        return {"maps": np.stack([share, np.full_like(share, gate)])[None]}

    return MattingNetwork("backdrop", run, "evidence", "maps")


def test_the_network_is_asked_once_and_heard_twice() -> None:
    rgb = photo_of(share_of(1024, 1024))
    calls: list[int] = []
    more = share_of(384, 384)
    more[170:210, 300:340] = 1  # something as pale as the ground, which keying cannot see
    network = network_of(more, 1, calls)
    rough = rough_matte(Picture(rgb), None, network)
    assert rough.source == "backdrop" and rough.maps is not None
    matte = refined(rgb, rough)
    assert len(calls) == 1
    pale = slice(470, 540), slice(820, 890)
    assert not keyed_of(rgb)[pale].any()
    assert (matte.alpha[pale] == 255).all()
    assert (matte.alpha[450:560, 450:560] == 255).all()
    whole = find_matte(Picture(rgb), None, network)
    np.testing.assert_array_equal(whole.alpha, matte.alpha)
    assert (whole.source, whole.maps) == ("backdrop", None)


def test_a_network_that_is_not_believed_leaves_no_maps() -> None:
    rgb = photo_of(share_of(1024, 1024))
    rough = rough_matte(Picture(rgb), None, network_of(np.full((384, 384), 0.6, np.float32), 1, []))
    assert rough.source == "uniform background" and rough.maps is None
    np.testing.assert_array_equal(refined(rgb, rough).alpha, keyed_of(rgb))


def test_what_was_given_is_finished() -> None:
    rgb = photo_of(share_of(1024, 1024))
    mask = np.full((1024, 1024), 255, np.uint8)
    mask[300:700, 300:700] = 0
    alpha = np.subtract(255, mask, dtype=np.uint8)
    for matte in (rough_matte(Picture(rgb), mask), rough_matte(Picture(rgb, alpha))):
        assert refined(rgb, matte).alpha is matte.alpha
        np.testing.assert_array_equal(matte.alpha, alpha)
        assert refined(rgb, matte).sureness == matte.sureness == 1
