"""The demo bundle's weights do what each input promises, through a real server.

The full figures are those of ``benchmarks.quality.prompts``; these few requests see weights that
were lost or mixed up.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as grpcclient
from benchmarks.quality.edges import edge_agreement
from benchmarks.quality.requests import photo_mask, png, product_photo, reference
from PIL import Image

from backdrop_client.triton import replace
from backdrop_export.repository import export_repository
from backdrop_export.synthetic import make_bundle
from backdrop_export.training.dataset import unit
from backdrop_export.training.render.palette import palette_distance
from tests.conftest import BUILD, launch
from tests.pictures import Pixels

pytestmark = pytest.mark.triton

SEEDS = (1, 2)
Paint = Callable[..., list[Pixels]]


@pytest.fixture(scope="module")
def paint(engine: str) -> Iterator[Paint]:
    """Raw pictures of one request: two seeds, the reference picture of a snowy place."""
    repository = export_repository(make_bundle("demo", BUILD / "bundles" / "demo"), engine, BUILD)
    with (
        launch(repository) as server,
        grpcclient.InferenceServerClient(server.grpc_url) as client,
    ):

        def send(**fields: Any) -> list[Pixels]:
            answer = replace(
                client,
                grpcclient,
                image=png(product_photo(0)),
                ref_image=png(reference("snow", 0)),
                scheduler="DDIM",
                seed=SEEDS[0],
                samples=len(SEEDS),
                preserve_subject=False,
                output_format="png",
                **fields,
            )
            return [np.array(Image.open(io.BytesIO(image))) for image in answer.images]

        yield send


def test_the_prompt_names_the_scene(paint: Paint) -> None:
    """Of the same noise a desert comes out warmer than water; the reference has no say."""

    def warmth(prompt: str) -> list[float]:
        drawn = paint(prompt=prompt, ip_adapter_weight=0.0)
        return [float(picture[..., 0].mean()) - float(picture[..., 2].mean()) for picture in drawn]

    desert = warmth("a bottle in the desert, dunes")
    water = warmth("a bottle in clear blue water with ripples")
    assert min(np.subtract(desert, water)) > 8, (desert, water)


def test_the_reference_gives_the_colours(paint: Paint) -> None:
    look = unit(reference("snow", 0))
    without, with_it = (
        [
            palette_distance(unit(picture), look)
            for picture in paint(prompt="a bottle at sunset, dramatic", ip_adapter_weight=weight)
        ]
        for weight in (0.0, 1.0)
    )
    assert np.mean(with_it) <= 0.6 * np.mean(without), (without, with_it)


def test_the_controlnet_draws_the_product(paint: Paint) -> None:
    photo = product_photo(0)
    without, with_it = (
        [
            edge_agreement(picture, photo, photo_mask(photo))
            for picture in paint(
                prompt="a bottle in the desert, dunes", cn_weight=weight, ip_adapter_weight=0.0
            )
        ]
        for weight in (0.0, 0.9)
    )
    assert np.mean(with_it) >= 2 * np.mean(without), (without, with_it)
