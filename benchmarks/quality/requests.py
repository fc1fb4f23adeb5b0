"""The requests of the quality figures: prompts, products, references; all seeded."""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

from backdrop_export.training.dataset import eight_bit
from backdrop_export.training.render.canvas import mix
from backdrop_export.training.render.products import draw_product
from backdrop_export.training.render.scenes import paint_scene
from backdrop_server.stages.pictures import Picture
from backdrop_server.stages.subject import find_matte, working_mask

SIDE = 256
SEEDS = (1, 2, 3, 4, 5)
PROMPTS: tuple[tuple[str, str], ...] = (
    ("beach", "a bottle on a sandy beach by the sea"),
    ("beach", "product photo of a jar on a tropical beach"),
    ("forest", "a perfume bottle in a misty forest"),
    ("forest", "a can in the woods, moss and tall trees"),
    ("desert", "a bottle in the desert, dunes"),
    ("desert", "a watch on a dune in a hot desert"),
    ("snow", "a cup in fresh snow between fir trees"),
    ("snow", "a bottle in a snowy winter landscape"),
    ("night city", "a can in a city street at night, neon lights"),
    ("night city", "a shoe in front of a skyline at night"),
    ("marble studio", "a cream jar on a marble plinth in a studio"),
    ("marble studio", "a perfume on polished marble, soft light"),
    ("wooden table", "a mug on a rustic wooden table, bokeh"),
    ("kitchen", "a jar on a kitchen counter"),
    ("kitchen", "a box in a modern kitchen with tiles"),
    ("meadow", "a bottle in a meadow with flowers"),
    ("mountains", "a bag in front of snowy mountain peaks"),
    ("sunset", "a lamp in front of a golden sunset sky"),
    ("sunset", "a bottle at sunset, dramatic"),
    ("water", "a tube in clear blue water with ripples"),
)
"""The scene that is asked for, and the prompt: twenty."""
Pixels = npt.NDArray[np.uint8]


def product_photo(number: int) -> Pixels:
    """A product that no training picture has, on a plain light ground, uint8 [SIDE, SIDE, 3]."""
    rng = np.random.default_rng([77_001, number])
    product = draw_product(rng, SIDE)
    ground = np.full((SIDE, SIDE, 3), rng.uniform(0.75, 0.95), np.float32)
    return eight_bit(mix(ground, product.rgb, product.alpha))


def reference(scene: str, number: int) -> Pixels:
    """A look of a scene that no training picture has, uint8 [SIDE, SIDE, 3]."""
    return eight_bit(paint_scene(np.random.default_rng([77_002, number]), scene, SIDE))


def photo_mask(photo: Pixels) -> Pixels:
    """The mask that the server makes of the photo, uint8 [SIDE, SIDE], 255 = repaint."""
    return working_mask(find_matte(Picture(photo, None)).alpha, SIDE, SIDE)


def png(picture: Pixels) -> bytes:
    """The picture as a file."""
    done, data = cv2.imencode(".png", picture[..., ::-1])
    if not done:
        raise ValueError("the picture cannot be encoded")
    return data.tobytes()
