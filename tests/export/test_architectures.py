"""The full-size bundle has the published models' keys, shapes and numbers of parameters."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKL, ControlNetModel, UNet2DConditionModel
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPVisionConfig,
    CLIPVisionModelWithProjection,
)

from backdrop_export.architectures import ARCHITECTURES
from backdrop_export.synthetic import ip_adapter_shapes
from backdrop_export.vocabulary import vocabulary

SDXL = ARCHITECTURES["sdxl-random"]
# Parameters of the public checkpoints, by their model cards; the inpainting UNet has five input
# channels more than SDXL's 2 567 463 684, each of 320 3x3 filters.
PUBLISHED: dict[str, tuple[int, Callable[[], Any]]] = {
    "unet": (2_567_463_684 + 5 * 320 * 9, lambda: UNet2DConditionModel(**SDXL.unet())),
    "vae": (83_653_863, lambda: AutoencoderKL(**SDXL.vae())),
    "text_encoder": (123_060_480, lambda: CLIPTextModel(CLIPTextConfig(**SDXL.text_encoder()))),
    "text_encoder_2": (
        694_659_840,
        lambda: CLIPTextModelWithProjection(CLIPTextConfig(**SDXL.text_encoder_2())),
    ),
    "image_encoder": (
        632_076_800,
        lambda: CLIPVisionModelWithProjection(CLIPVisionConfig(**SDXL.image_encoder())),
    ),
}


@pytest.mark.parametrize("component", PUBLISHED)
def test_numbers_of_parameters_are_the_published_ones(component: str) -> None:
    expected, make = PUBLISHED[component]
    with torch.device("meta"):
        model = make()
    assert sum(weight.numel() for weight in model.parameters()) == expected


@pytest.mark.parametrize(
    ("key", "shape"),
    [
        ("conv_in.weight", (320, 4, 3, 3)),
        ("add_embedding.linear_1.weight", (1280, 2816)),
        ("controlnet_cond_embedding.conv_in.weight", (16, 3, 3, 3)),
        ("controlnet_cond_embedding.conv_out.weight", (320, 256, 3, 3)),
        ("controlnet_down_blocks.8.weight", (1280, 1280, 1, 1)),
        ("mid_block.attentions.0.transformer_blocks.9.attn2.to_k.weight", (1280, 2048)),
    ],
)
def test_the_controlnet_has_the_published_keys(key: str, shape: tuple[int, ...]) -> None:
    with torch.device("meta"):
        weights = ControlNetModel(**SDXL.controlnet()).state_dict()
    assert tuple(weights[key].shape) == shape


def test_the_ip_adapter_has_the_published_keys() -> None:
    shapes = ip_adapter_shapes(SDXL)
    assert shapes["image_proj.proj.weight"] == (4 * 2048, 1024)
    numbers = sorted({int(key.split(".")[1]) for key in shapes if key.startswith("ip_adapter")})
    assert numbers == list(range(1, 140, 2))
    assert shapes["ip_adapter.1.to_k_ip.weight"] == (640, 2048)
    assert shapes["ip_adapter.139.to_v_ip.weight"] == (1280, 2048)
    # 0.34 billion in all, as measured on the published file's attention
    attention = sum(math.prod(shape) for key, shape in shapes.items() if "to_" in key)
    assert attention == 2 * 2048 * (10 * 640 + 60 * 1280)


def test_the_vocabulary_has_the_published_size() -> None:
    ids, merges = vocabulary(SDXL.vocabulary)
    assert len(ids) == 49408
    assert len(merges) == len(set(merges)) == 49408 - 512 - 2
