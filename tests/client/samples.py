"""A small request that is quick to answer, and one that takes long."""

from __future__ import annotations

from typing import Any

from tests import pictures

PRODUCT = pictures.png(pictures.product(120, 96))
SCENE = pictures.png(pictures.scene())


def fields(**more: Any) -> dict[str, Any]:
    """Two steps; the same picture at every call."""
    return {
        "image": PRODUCT,
        "ref_image": SCENE,
        "prompt": "a wooden table in a forest",
        "scheduler": "Euler",
        "num_inference_steps": 20,
        "strength": 0.1,
        "seed": 7,
        "output_format": "png",
    } | more


def long_fields(**more: Any) -> dict[str, Any]:
    """199 evaluations of four samples."""
    slow = {"scheduler": "DPM2 Karras", "num_inference_steps": 100, "strength": 1.0, "samples": 4}
    return fields(**slow) | more
