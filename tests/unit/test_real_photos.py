"""Mattes of real photos, in the folder that BACKDROP_PHOTOS names: they are not part of the project."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from benchmarks.quality.mattes import shipped_network

from backdrop_server.stages.pictures import decode
from backdrop_server.stages.subject import find_matte

FOLDER = os.environ.get("BACKDROP_PHOTOS", "")
pytestmark = pytest.mark.photos
NETWORK = shipped_network()


@pytest.mark.parametrize(
    ("name", "source", "share"),
    [
        ("coffee.png", "backdrop", (0.44, 0.52)),
        ("car-2-on-white.jpg", "uniform background", (0.24, 0.3)),
        ("car-2-cutout.png", "alpha", (0.24, 0.3)),
    ],
)
def test_the_product_is_found(name: str, source: str, share: tuple[float, float]) -> None:
    picture = decode((Path(FOLDER) / name).read_bytes(), "image")
    matte = find_matte(picture, None, NETWORK)
    assert matte.source == source
    assert share[0] < float(np.mean(matte.alpha >= 128)) < share[1]
    height, width = matte.alpha.shape
    assert matte.alpha[height // 2, width // 2] >= 254
    assert matte.sureness > 0.5
    assert not matte.alpha[:3].any()


def test_both_cuts_of_the_car_agree() -> None:
    found = [
        find_matte(decode((Path(FOLDER) / name).read_bytes(), "image"), None, NETWORK).alpha >= 128
        for name in ("car-2-on-white.jpg", "car-2-cutout.png")
    ]
    assert (found[0] & found[1]).sum() / (found[0] | found[1]).sum() > 0.97
