"""diffusers' own pipeline on a bundle: the reference of the export's tests."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from diffusers import EulerDiscreteScheduler, StableDiffusionXLControlNetInpaintPipeline
from PIL import Image

Picture = npt.NDArray[np.uint8]
SIDE = 64
DEFAULTS: dict[str, Any] = {
    "prompt": "a glass bottle on a marble table in a garden",
    "negative_prompt": "blurry, low quality",
    "num_inference_steps": 20,
    "guidance_scale": 7.5,
    "strength": 1.0,
    "controlnet_conditioning_scale": 0.9,
    "ip_adapter_weight": 0.5,
}


def load_pipeline(bundle: Path) -> Any:
    """The pipeline with the bundle's IP-Adapter, silent."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pipeline = StableDiffusionXLControlNetInpaintPipeline.from_pretrained(bundle)
        pipeline.load_ip_adapter(
            bundle,
            subfolder="ip_adapter",
            weight_name="ip-adapter.safetensors",
            image_encoder_folder=None,
        )
    pipeline.set_progress_bar_config(disable=True)
    pipeline.scheduler = EulerDiscreteScheduler.from_config(pipeline.scheduler.config)
    return pipeline


def pictures() -> dict[str, Picture]:
    """A photo of a disc, its mask, its edges, and a reference picture, all SIDE x SIDE."""
    generator = np.random.default_rng(3)
    coarse = generator.integers(0, 256, (2, 4, 4, 3), dtype=np.uint8)
    photo, ref_image = (
        np.array(Image.fromarray(picture).resize((SIDE, SIDE), Image.Resampling.BICUBIC))
        for picture in coarse
    )
    y, x = np.mgrid[:SIDE, :SIDE]
    distance = np.hypot(x - SIDE / 2, y - SIDE / 2)
    photo[distance < SIDE / 4] = (200, 60, 40)
    return {
        "photo": photo,
        "ref_image": ref_image,
        "mask": np.where(distance < SIDE / 4, 0, 255).astype(np.uint8),
        "edges": np.where(np.abs(distance - SIDE / 4) < 1, 255, 0).astype(np.uint8),
    }


def paint(pipeline: Any, **changes: Any) -> Picture:
    """The raw picture of ``DEFAULTS`` and ``pictures``, with changes by name."""
    values = DEFAULTS | pictures() | changes
    pipeline.set_ip_adapter_scale(values.pop("ip_adapter_weight"))
    edges = np.repeat(values.pop("edges")[..., None], 3, axis=2)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        result = pipeline(
            image=Image.fromarray(values.pop("photo")),
            mask_image=Image.fromarray(values.pop("mask")),
            control_image=Image.fromarray(edges),
            ip_adapter_image=Image.fromarray(values.pop("ref_image")),
            height=SIDE,
            width=SIDE,
            generator=torch.Generator("cpu").manual_seed(5),
            **values,
        )
    return np.array(result.images[0])
