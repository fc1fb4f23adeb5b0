"""Layers, shadows and the product's numbers from a real server."""

from __future__ import annotations

import io
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import tritonclient.grpc as grpcclient
from PIL import Image
from tritonclient.utils import InferenceServerException

from backdrop_client.triton import OUTPUTS, Replaced, replace
from backdrop_server.triton.launcher import TritonServer
from tests import pictures

pytestmark = pytest.mark.triton

WIDTH, HEIGHT = 300, 200
MASK = pictures.product_mask(WIDTH, HEIGHT)
FIELDS: dict[str, Any] = {
    "image": pictures.png(pictures.product(WIDTH, HEIGHT)),
    "ref_image": pictures.png(pictures.scene()),
    "mask_image": pictures.png(MASK),
    "prompt": "a wooden table",
    "scheduler": "DDIM",
    "num_inference_steps": 20,
    "seed": 3,
    "output_format": "png",
}
Ask = Callable[..., Replaced]


@pytest.fixture(scope="module")
def ask(server: TritonServer) -> Iterator[Ask]:
    with grpcclient.InferenceServerClient(server.grpc_url) as client:

        def send(*outputs: str, **more: object) -> Replaced:
            wanted = (*OUTPUTS, *outputs)
            return replace(client, grpcclient, outputs=wanted, **(FIELDS | more))

        yield send


def rgba(data: bytes) -> npt.NDArray[np.uint8]:
    image = Image.open(io.BytesIO(data))
    assert (image.format, image.mode) == ("PNG", "RGBA")
    return np.asarray(image)


def test_layers_come_when_asked_for(ask: Ask) -> None:
    assert ask().layers == ()
    answer = ask("layers", samples=2, shadow="soft", shadow_strength=0.8)
    first, second, shadow, subject = (rgba(layer) for layer in answer.layers)
    assert first.shape == (HEIGHT, WIDTH, 4)
    assert (first[..., 3] == 255).all() and (second != first).any()
    assert not shadow[..., :3].any() and 150 < shadow[..., 3].max() <= 204
    core = MASK == 0
    np.testing.assert_array_equal(subject[..., 3] == 255, core)
    picture = pictures.decode(answer.images[0])
    np.testing.assert_array_equal(picture[core], pictures.product(WIDTH, HEIGHT)[core])
    lit = ~core & (shadow[..., 3] == 0)
    np.testing.assert_array_equal(picture[lit], first[lit][:, :3])


def settled(count: Callable[[], int], expected: int) -> int:
    """``count`` once ``expected`` is reached; Triton counts a run after its answer is sent."""
    deadline = time.monotonic() + 10
    while (reached := count()) < expected and time.monotonic() < deadline:
        time.sleep(0.01)
    return reached


def test_what_nobody_asks_for_is_not_made(server: TritonServer, ask: Ask) -> None:
    with grpcclient.InferenceServerClient(server.grpc_url) as client:

        def runs() -> int:
            stats = client.get_inference_statistics("postprocess", as_json=True)
            return int(stats["model_stats"][0]["inference_count"])

        time.sleep(0.5)  # what was asked before is counted by now
        count = runs()
        for outputs, made in (
            ((), 1),
            (("layers",), 2),
            (("matte", "edge_map"), 2),
            (("matte", "layers"), 3),
        ):
            ask(*outputs)
            count += made
            assert settled(runs, count) == count, outputs
        time.sleep(0.5)
        assert runs() == count


def test_a_shadow_darkens_the_new_ground_and_off_is_the_default(ask: Ask) -> None:
    plain, off, dark = (
        pictures.decode(ask(**options).images[0]).astype(int)
        for options in ({}, {"shadow": "off"}, {"shadow": "hard", "shadow_direction": 90.0})
    )
    np.testing.assert_array_equal(plain, off)
    assert (dark <= plain).all() and (dark < plain).any()
    np.testing.assert_array_equal(dark[MASK == 0], plain[MASK == 0])


def test_the_report_says_that_the_product_is_unchanged(ask: Ask) -> None:
    report = ask(samples=2, harmonize=True, shadow="floating").report
    assert (report["matte"], report["matte_sureness"]) == ("mask", 1.0)
    for product in report["product"]:
        assert (product["changed_pixels"], product["max_delta_e"]) == (0, 0)
        assert 0 <= product["expansion"] < 1
    assert len(report["product"]) == 2


def test_the_report_tells_a_raw_picture_apart(ask: Ask) -> None:
    (product,) = ask(preserve_subject=False).report["product"]
    assert product["changed_pixels"] > 0
    assert product["mean_delta_e"] > 0


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("shadow", "long", "shadow: 'long' is not known; allowed: off, soft, hard, floating"),
        ("shadow_direction", 361.0, "shadow_direction: 361 is out of range; allowed: a number"),
        ("shadow_strength", -0.5, "shadow_strength: -0.5 is out of range; allowed: a number"),
    ],
)
def test_a_wrong_shadow_is_named(ask: Ask, field: str, value: object, message: str) -> None:
    with pytest.raises(InferenceServerException) as caught:
        ask(**{field: value})
    assert message in str(caught.value.message())
