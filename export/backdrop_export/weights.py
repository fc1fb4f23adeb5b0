"""Seeded random weights by name, with gains under which every input of a model counts."""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float32]
Weights = dict[str, Array]
Shapes = Mapping[str, tuple[int, ...]]

_ATTENTION = (
    (r"\.attn2\.to_out\.0\.weight", 3.0),
    (r"\.to_[qk]\.weight", 1.4),
)
_TOWER = (
    (r"token_embedding\.weight", 1.0),
    (r"\.[qk]_proj\.weight", 2.0),
    (r"\.(v|out)_proj\.weight", 1.5),
)
GAINS: Mapping[str, tuple[tuple[str, float], ...]] = {
    "unet": (
        *_ATTENTION,
        (r"add_embedding\.linear_[12]\.weight", 2.0),
        (r"\.conv2\.weight|\.ff\.net\.2\.weight", 0.8),
    ),
    "controlnet": (
        *_ATTENTION,
        (r"controlnet_cond_embedding\..*weight", 2.0),
        (r"controlnet_(down|mid)_block.*weight", 0.6),
    ),
    "vae": (),
    "text_encoder": _TOWER,
    "text_encoder_2": _TOWER,
    "image_encoder": _TOWER,
    "ip_adapter": ((r"to_v_ip\.weight", 3.0), (r"to_k_ip\.weight", 1.4)),
}
"""Standard deviation of a layer's output for unit input, by the first pattern found in its name."""


def _draw(component: str, name: str, shape: tuple[int, ...], seed: int) -> Array:
    digest = hashlib.sha256(f"{seed}/{component}/{name}".encode()).digest()
    generator = np.random.Generator(np.random.PCG64(int.from_bytes(digest[:8], "little")))
    return generator.standard_normal(shape, dtype=np.float32)


def _scale(component: str, name: str, shape: tuple[int, ...]) -> float:
    gains = [gain for pattern, gain in GAINS[component] if re.search(pattern, name)]
    gain = gains[0] if gains else 1.0
    if "embedding" in name and "embeddings" in name and len(shape) <= 2:
        return gain if "token" in name else 0.3
    return gain / math.sqrt(math.prod(shape[1:]))


def random_weights(
    component: str, shapes: Shapes, seed: int, dtype: npt.DTypeLike = np.float32
) -> Weights:
    """Weights for ``shapes`` by name: unit-gain layers, norms near 1, biases near 0.

    Every tensor has its own generator, seeded by its name, so one does not move the others.
    """
    weights: Weights = {}
    for name, shape in shapes.items():
        noise = _draw(component, name, shape, seed)
        if len(shape) > 1:
            noise *= np.float32(_scale(component, name, shape))
        else:
            noise *= np.float32(0.1)
            noise += np.float32(name.endswith(".weight"))
        weights[name] = noise.astype(dtype, copy=False)
    return weights
