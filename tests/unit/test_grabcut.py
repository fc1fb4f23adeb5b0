"""The subject before a ground that is not plain, from a network's map and without one."""

from __future__ import annotations

import time

import cv2
import numpy as np
import numpy.typing as npt
import pytest

from backdrop_server.stages.grabcut import grabcut
from backdrop_server.stages.matting import MattingNetwork
from backdrop_server.stages.pictures import Picture
from backdrop_server.stages.subject import find_matte

Pixels = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]
Region = npt.NDArray[np.bool_]

SIDE = 384
MIDDLE = (SIDE // 2, SIDE // 2)
PRODUCT, EYE = (230, 190, 40), (250, 250, 250)


def grain() -> Pixels:
    """A dark, bluish ground of no one colour."""
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 90, (SIDE // 8, SIDE // 8, 3)).astype(np.uint8)
    rgb: Pixels = cv2.resize(coarse, (SIDE, SIDE), interpolation=cv2.INTER_CUBIC)
    rgb[..., 2] += 60
    return rgb


def disc(radius: int) -> Region:
    """A disc in the middle of the picture."""
    y, x = np.mgrid[:SIDE, :SIDE]
    inside: Region = (y - MIDDLE[0]) ** 2 + (x - MIDDLE[1]) ** 2 < radius**2
    return inside


def ring(inside: tuple[int, int, int] | None) -> Pixels:
    """A product of radius 120 with a middle of 80: in a colour, or the ground."""
    ground = grain()
    rgb = ground.copy()
    rgb[disc(120)] = PRODUCT
    rgb[disc(80)] = ground[disc(80)] if inside is None else inside
    return rgb


def seen(region: Region) -> Floats:
    """A map of a network that has no doubt."""
    return region.astype(np.float32)


def agreement(alpha: Pixels, region: Region) -> float:
    found = alpha >= 128
    return float((found & region).sum() / (found | region).sum())


def test_a_hole_of_the_grounds_colours_stays_open() -> None:
    shape = disc(120) & ~disc(80)
    assert agreement(grabcut(ring(None), seen(shape)), shape) > 0.98


def test_what_a_network_takes_for_a_hole_is_none_in_another_colour() -> None:
    alpha = grabcut(ring(EYE), seen(disc(120) & ~disc(80)))
    assert (alpha[disc(78)] == 255).all()
    assert agreement(alpha, disc(120)) > 0.98


def test_a_hole_is_judged_by_its_colours_not_by_how_dark_it_is() -> None:
    """The ground is bluish; a reddish middle is as dark, about 25 in Lab from it."""
    rgb = ring(None)
    rgb[disc(80)] = rgb[disc(80)][:, ::-1]
    assert (grabcut(rgb, seen(disc(120) & ~disc(80)))[disc(78)] == 255).all()


def test_what_a_network_sees_in_part_is_no_hole() -> None:
    share = seen(disc(120))
    share[disc(80)] = 0.09
    assert (grabcut(ring(None), share)[disc(60)] == 0).all()
    share[disc(80) & ~disc(40)] = 0.6
    assert (grabcut(ring(None), share)[disc(30)] == 255).all()


def test_what_a_network_is_sure_of_stays_whatever_its_colour() -> None:
    """The white rim of a red cup, above a ground that is white in places."""
    rgb = grain()
    rgb[:60] = EYE
    rgb[disc(120)] = (170, 30, 30)
    rim = disc(120) & ~disc(100)
    rgb[rim] = EYE
    assert agreement(grabcut(rgb, seen(disc(120))), disc(120)) > 0.98


def test_a_led_cut_follows_edges_at_full_size() -> None:
    size = (2 * SIDE, 2 * SIDE)
    rgb = cv2.resize(ring(None), size, interpolation=cv2.INTER_CUBIC)
    shape = disc(120) & ~disc(80)
    alpha = grabcut(rgb, seen(shape))
    assert agreement(alpha, cv2.resize(seen(shape), size) > 0.5) > 0.97
    assert 0.001 < ((alpha > 0) & (alpha < 255)).mean() < 0.03


def test_two_colours_in_a_pattern_do_not_keep_it_searching() -> None:
    y, x = np.mgrid[:256, :256]
    board = (((x // 8 + y // 8) % 2) * 255).astype(np.uint8)
    began = time.monotonic()
    grabcut(np.repeat(board[..., None], 3, axis=2))
    assert time.monotonic() - began < 5


def test_a_spot_in_a_wide_product_is_no_hole() -> None:
    rgb = grain()
    spot = rgb[disc(20)].copy()
    rgb[disc(120)] = PRODUCT
    rgb[disc(20)] = spot
    assert agreement(grabcut(rgb, seen(disc(120) & ~disc(20))), disc(120)) > 0.98


def test_without_a_map_every_hole_is_filled() -> None:
    assert agreement(grabcut(ring(None)), disc(120)) > 0.98


def test_colours_complete_what_a_network_sees_in_part() -> None:
    rgb = grain()
    rgb[disc(120)] = PRODUCT
    part = seen(disc(120))
    part[:, SIDE // 2 :] *= 0.4
    part[SIDE // 2 :] *= 0.0
    assert agreement(grabcut(rgb, part), disc(120)) > 0.98


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_a_map_that_says_nothing_leaves_the_middle_against_the_border(share: float) -> None:
    rgb = grain()
    rgb[disc(120)] = PRODUCT
    alpha = grabcut(rgb, np.full((SIDE, SIDE), share, np.float32))
    assert agreement(alpha, disc(120)) > 0.98


def test_the_edge_is_as_soft_as_the_light_is_mixed() -> None:
    rgb = grain()
    share = cv2.GaussianBlur(seen(disc(120)), (0, 0), 1.0)
    light = (rgb / 255.0) ** 2.2 * (1 - share[..., None])
    light += (np.array(PRODUCT) / 255.0) ** 2.2 * share[..., None]
    mixed = np.rint(255 * light ** (1 / 2.2)).astype(np.uint8)
    alpha = grabcut(mixed, seen(disc(120)))
    rim = disc(121) & ~disc(119)
    assert np.abs(alpha[rim] / 255 - share[rim]).mean() < 0.12
    assert (alpha[disc(115)] == 255).all() and not alpha[~disc(125)].any()


@pytest.mark.parametrize("side", [4, 8, 9, 700])
def test_every_size_has_an_answer(side: int) -> None:
    rgb = np.random.default_rng(1).integers(0, 256, (side, side + 3, 3)).astype(np.uint8)
    assert grabcut(rgb, np.ones((SIDE, SIDE), np.float32)).shape == rgb.shape[:2]
    assert grabcut(rgb).shape == rgb.shape[:2]


def test_our_own_network_leads_and_is_named() -> None:
    def run(inputs: object) -> dict[str, npt.NDArray[np.float32]]:
        share = seen(disc(120) & ~disc(80))
        return {"maps": np.stack([share, np.ones_like(share)])[None]}

    network = MattingNetwork("backdrop", run, "evidence", "maps")
    led, alone = (find_matte(Picture(ring(None)), None, way) for way in (network, None))
    assert (led.source, alone.source) == ("backdrop", "grabcut")
    assert led.sureness > alone.sureness
    assert led.alpha[MIDDLE] == 0 and alone.alpha[MIDDLE] == 255


def test_where_our_network_leads_to_nothing_grabcut_goes_alone() -> None:
    def run(inputs: object) -> dict[str, npt.NDArray[np.float32]]:
        share = np.zeros((SIDE, SIDE), np.float32)
        share[20:30, 20:30] = 0.2  # a part of the ground
        return {"maps": np.stack([share, share])[None]}

    rgb = grain()
    rgb[disc(120)] = PRODUCT
    matte = find_matte(Picture(rgb), None, MattingNetwork("backdrop", run, "evidence", "maps"))
    assert matte.source == "grabcut"
    assert agreement(matte.alpha, disc(120)) > 0.98
