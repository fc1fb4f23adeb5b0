"""Seeded requests: equal ones, and a mix of samplers, steps, sizes and samples."""

from __future__ import annotations

import io
import random
from collections.abc import Iterator
from typing import Any

from PIL import Image

from backdrop_client import examples

PROMPTS = (
    "a bottle on a sandy beach by the sea",
    "a bottle at sunset",
    "a jar on a kitchen counter",
)
SIZES = ((256, 256), (256, 256), (320, 192), (192, 320))
SAMPLERS = ("Euler", "DDIM", "DPM Multi", "UniPC", "Euler a", "DPM2 Karras")
EQUAL_STEPS = 25


def equal(seed: int) -> Iterator[dict[str, Any]]:
    """Requests that cost the same: Euler, 25 steps, one sample at 256 x 256 px."""
    for number in _numbers(seed):
        yield _request(number, SIZES[0], "Euler", EQUAL_STEPS, 1)


def mixed(seed: int) -> Iterator[dict[str, Any]]:
    """Requests of every kind, without end: the same seed gives the same ones."""
    draw = random.Random(seed)
    for number in _numbers(seed):
        samples = draw.choice([1, 1, 1, 2])
        yield _request(
            number, draw.choice(SIZES), draw.choice(SAMPLERS), draw.randint(20, 30), samples
        )


def _numbers(seed: int) -> Iterator[int]:
    draw = random.Random(-seed - 1)
    while True:
        yield draw.randrange(2**31)


def _request(
    seed: int, size: tuple[int, int], scheduler: str, steps: int, samples: int
) -> dict[str, Any]:
    return {
        "image": photo(*size),
        "ref_image": photo(*size, name="reference.jpg"),
        "prompt": PROMPTS[seed % len(PROMPTS)],
        "scheduler": scheduler,
        "num_inference_steps": steps,
        "samples": samples,
        "seed": seed,
    }


_MADE: dict[tuple[int, int, str], bytes] = {}


def photo(width: int, height: int, name: str = "product.jpg") -> bytes:
    """An example as a JPEG file of that size; made once."""
    key = width, height, name
    if key not in _MADE:
        with Image.open(examples.path(name)) as picture:
            data = io.BytesIO()
            picture.convert("RGB").resize((width, height)).save(data, "JPEG", quality=92)
        _MADE[key] = data.getvalue()
    return _MADE[key]
