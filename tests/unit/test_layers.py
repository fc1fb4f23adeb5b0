from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from backdrop_server.plan import Plan
from backdrop_server.stages.composite import harmonize, paste_back
from backdrop_server.stages.fidelity import expansion, fidelity, product_of, surroundings_of
from backdrop_server.stages.foreground import estimate_foreground
from backdrop_server.stages.layers import Cutout, colours_of, cut_out
from backdrop_server.stages.pictures import resize
from backdrop_server.stages.shadow import KINDS, cast_shadow
from tests.unit.test_foreground import disc

Pixels = npt.NDArray[np.uint8]
SIDE = 120
PHOTO = np.random.default_rng(3).integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
BACKGROUND = np.random.default_rng(4).integers(0, 256, (64, 64, 3), dtype=np.uint8)


def plan(**changes: Any) -> Plan:
    values: dict[str, Any] = {
        "request_id": "r", "width": 64, "height": 64, "scheduler": "Euler",
        "num_inference_steps": 20, "guidance_scale": 7.5, "strength": 1.0, "cn_weight": 0.9,
        "ip_adapter_weight": 0.5, "seeds": (1,), "has_negative_prompt": False,
        "preserve_subject": True, "output_format": "png", "matte_source": "mask",
        "received_at": 0.0, "prepared_at": 0.0,
    }  # fmt: skip
    return Plan(**(values | changes))


def cut(plan: Plan, alpha: Pixels) -> Cutout:
    return cut_out(plan, PHOTO, alpha, colours_of(plan, PHOTO, alpha))


def light(values: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    share = values / 255.0
    return np.where(share <= 0.04045, share / 12.92, ((share + 0.055) / 1.055) ** 2.4)


@pytest.mark.parametrize("kind", ["off", *KINDS])
def test_the_layers_laid_over_each_other_are_the_picture(kind: str) -> None:
    cutout = cut(plan(shadow=kind, shadow_strength=0.7), disc())
    picture = cutout.over(BACKGROUND)
    behind, shadow, subject = (light(layer[..., :3]) for layer in cutout.layers([BACKGROUND]))
    shade, share = (layer[..., 3:] / 255 for layer in cutout.layers([BACKGROUND])[1:])
    expected = subject * share + behind * (1 - shade) * (1 - share)
    assert not shadow.any()
    assert np.abs(light(picture) - expected).max() < 0.012  # two roundings to 8 bits
    assert (shade.max() > 0) == (kind != "off")


def test_without_a_shadow_the_background_is_untouched() -> None:
    alpha = disc()
    picture = cut(plan(), alpha).over(BACKGROUND)
    np.testing.assert_array_equal(picture[alpha == 0], resize(BACKGROUND, SIDE, SIDE)[alpha == 0])


@pytest.mark.parametrize("kind", ["off", *KINDS])
@pytest.mark.parametrize("wraps", [False, True])
def test_the_core_is_the_photo_bit_for_bit(kind: str, wraps: bool) -> None:
    alpha = disc()
    cutout = cut(plan(shadow=kind, harmonize=wraps, shadow_strength=1.0), alpha)
    picture = cutout.over(BACKGROUND)
    np.testing.assert_array_equal(picture[alpha == 255], PHOTO[alpha == 255])
    assert fidelity(product_of(PHOTO, alpha), picture).changed_pixels == 0


def test_a_files_own_transparency_has_its_own_colours() -> None:
    alpha = disc()
    assert cut(plan(matte_source="alpha"), alpha).foreground is PHOTO
    found = cut(plan(matte_source="mask"), alpha).foreground
    assert (found != PHOTO).any()
    np.testing.assert_array_equal(found, estimate_foreground(PHOTO, alpha))


def test_harmonizing_brings_the_edge_nearer_to_the_surroundings() -> None:
    alpha = disc()
    front, back = np.full_like(PHOTO, 40), np.full_like(PHOTO, 220)
    wrapped = harmonize(front, alpha, back)
    soft = (alpha > 0) & (alpha < 200)
    assert (wrapped[soft] > front[soft]).all()
    np.testing.assert_array_equal(wrapped[alpha == 255], front[alpha == 255])


def box() -> Pixels:
    alpha = np.zeros((400, 400), np.uint8)
    alpha[100:300, 150:250] = 255
    return alpha


def centre(shadow: Pixels) -> tuple[float, float]:
    y, x = np.mgrid[: shadow.shape[0], : shadow.shape[1]]
    weight = shadow.astype(float) / shadow.sum()
    return float((x * weight).sum()), float((y * weight).sum())


@pytest.mark.parametrize("direction", [0, 60, 120, 180, 240, 300, 360])
def test_a_shadow_falls_where_it_is_told_to(direction: float) -> None:
    x, y = centre(cast_shadow(box(), "hard", direction, 1))
    across, down = math.cos(math.radians(direction)), math.sin(math.radians(direction))
    if abs(across) > 0.1:
        assert (x > 200) == (across > 0)
    if abs(down) > 0.1:
        assert (y > 300) == (down > 0)


def test_strength_is_the_light_taken() -> None:
    assert not cast_shadow(box(), "soft", 60, 0).any()
    assert not cast_shadow(box(), "off", 60, 1).any()
    weak, strong = (cast_shadow(box(), "hard", 60, strength).max() for strength in (0.3, 1.0))
    assert weak == pytest.approx(0.3 * 255, abs=2)
    assert strong == 255


def test_soft_is_softer_than_hard_and_floating_does_not_touch() -> None:
    slopes = {}
    for kind in KINDS:
        shadow = cast_shadow(box(), kind, 90, 1).astype(int)
        slopes[kind] = np.abs(np.diff(shadow, axis=0))[310:].max()
        assert (shadow[302, 200] > 60) == (kind != "floating")
    assert slopes["soft"] < slopes["hard"]
    assert slopes["floating"] < slopes["hard"]


def test_expansion_counts_what_continues_the_product() -> None:
    alpha = box()
    around = surroundings_of(alpha)
    picture = np.full((400, 400, 3), 210, np.uint8)
    picture[alpha == 255] = (40, 60, 120)
    assert expansion(around, picture) == 0
    picture[280:300, 250:260] = (40, 60, 120)  # 200 px grown beside 20000
    assert expansion(around, picture) == pytest.approx(0.01, rel=0.15)
    picture[20:40, 20:40] = (40, 60, 120)  # apart from the product
    assert expansion(around, picture) == pytest.approx(0.01, rel=0.15)


def test_a_changed_product_is_told() -> None:
    alpha, picture = disc(), PHOTO.copy()
    core = np.argwhere(alpha == 255)
    picture[tuple(core[0])] = 255 - picture[tuple(core[0])]
    told = fidelity(product_of(PHOTO, alpha), picture)
    assert told.changed_pixels == 1
    assert told.max_delta_e > 5
    assert told.mean_delta_e == pytest.approx(told.max_delta_e / len(core), abs=1e-3)


def test_extreme_mattes_are_borne() -> None:
    for value in (0, 128, 255):
        alpha = np.full((SIDE, SIDE), value, np.uint8)
        for kind in KINDS:
            cutout = cut(plan(shadow=kind), alpha)
            assert cutout.over(BACKGROUND).shape == PHOTO.shape
            assert len(cutout.layers([BACKGROUND, BACKGROUND])) == 4
        fidelity(product_of(PHOTO, alpha), PHOTO)


def test_a_cutout_without_shadow_is_a_paste_back() -> None:
    alpha = disc()
    np.testing.assert_array_equal(
        Cutout(PHOTO, alpha).over(BACKGROUND), paste_back(PHOTO, alpha, BACKGROUND)
    )
