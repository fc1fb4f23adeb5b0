"""The networks with random weights, made on the device from their configurations."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import torch
from diffusers import AutoencoderKL, ControlNetModel, UNet2DConditionModel
from diffusers.utils import logging
from torch import nn
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPVisionConfig,
    CLIPVisionModelWithProjection,
)

from benchmarks.gpu.architecture import IMAGE_TOKENS, Architecture

WEIGHTS_SEED = 20_261_123
PRECISIONS = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


@dataclasses.dataclass(frozen=True)
class Networks:
    """All networks of one picture, on one device in one precision; ``Any``: no stubs for them."""

    unet: Any
    controlnet: Any
    vae: Any
    text_encoder: Any
    text_encoder_2: Any
    image_encoder: Any
    ip_adapter: dict[str, dict[str, torch.Tensor]]
    """Published keys, as diffusers' ``load_ip_adapter`` takes them: image_proj and ip_adapter."""

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        device: torch.device = next(iter(self.unet.parameters())).device
        return device

    @property
    def dtype(self) -> torch.dtype:
        """What the weights are kept in."""
        dtype: torch.dtype = next(iter(self.unet.parameters())).dtype
        return dtype


def make_networks(architecture: Architecture, device: str, dtype: torch.dtype) -> Networks:
    """Networks with the same values for every ``dtype``: drawn in FP32 and rounded to FP16.

    On the ``meta`` device they have shapes only.
    """

    def make(build: Callable[[], nn.Module], seed: int) -> nn.Module:
        return _make(build, seed, device, dtype)

    text = [CLIPTextConfig(**architecture.text_tower(t)) for t in _towers(architecture)]
    vision = CLIPVisionConfig(**architecture.image_encoder())
    unet = make(lambda: UNet2DConditionModel(**architecture.unet()), 0)
    return Networks(
        unet=unet,
        controlnet=make_controlnet(architecture, device, dtype),
        vae=make(lambda: AutoencoderKL(**architecture.vae()), 2),
        text_encoder=make(lambda: CLIPTextModel(text[0]), 3),
        text_encoder_2=make(lambda: CLIPTextModelWithProjection(text[1]), 4),
        image_encoder=make(lambda: CLIPVisionModelWithProjection(vision), 5),
        ip_adapter=_ip_adapter(architecture, unet, device, dtype),
    )


def make_controlnet(architecture: Architecture, device: str, dtype: torch.dtype) -> nn.Module:
    """The ControlNet of ``make_networks`` alone."""
    return _make(lambda: ControlNetModel(**architecture.controlnet()), 1, device, dtype)


def _make(build: Callable[[], nn.Module], seed: int, device: str, dtype: torch.dtype) -> nn.Module:
    logging.set_verbosity_error()  # it warns of ``to(dtype)`` even where nothing is kept in FP32
    with torch.device(device):
        module = build()
    module = module.to(dtype).eval().requires_grad_(False)
    if device != "meta":
        _fill(dict(module.named_parameters()), WEIGHTS_SEED + seed)
    return module


def parameters_of(networks: Networks) -> dict[str, int]:
    """Number of weights of each network, for a result's conditions."""
    parts = {"unet": networks.unet, "controlnet": networks.controlnet, "vae": networks.vae}
    counted = {n: sum(p.numel() for p in part.parameters()) for n, part in parts.items()}
    counted["ip_adapter_attention"] = sum(
        value.numel() for value in networks.ip_adapter["ip_adapter"].values()
    )
    return counted


def _towers(architecture: Architecture) -> tuple[Any, Any]:
    return architecture.text, architecture.text_2


def _fill(parameters: dict[str, torch.Tensor], seed: int) -> None:
    """Weights that keep a signal's size, norms of 1, biases of 0; zero convolutions too are drawn."""
    generator: torch.Generator | None = None
    for name, parameter in parameters.items():
        generator = generator or torch.Generator(parameter.device).manual_seed(seed)
        if parameter.ndim == 1:
            parameter.fill_(1 if name.endswith("weight") else 0)
            continue
        drawn = torch.randn(
            parameter.shape, generator=generator, device=parameter.device, dtype=torch.float32
        )
        deviation = 1 / math.sqrt(parameter[0].numel())
        parameter.copy_((drawn * deviation).to(torch.float16))


def _ip_adapter(
    architecture: Architecture, unet: Any, device: str, dtype: torch.dtype
) -> dict[str, dict[str, torch.Tensor]]:
    width, given = architecture.prompt_width, architecture.vision.projection
    shapes: dict[str, tuple[int, ...]] = {
        "image_proj.proj.weight": (IMAGE_TOKENS * width, given),
        "image_proj.proj.bias": (IMAGE_TOKENS * width,),
        "image_proj.norm.weight": (width,),
        "image_proj.norm.bias": (width,),
    }
    cross = [name for name in unet.attn_processors if ".attn2." in name]
    for index, name in enumerate(cross):
        channels = unet.get_submodule(name.removesuffix(".processor")).to_q.out_features
        for projection in ("to_k_ip", "to_v_ip"):
            shapes[f"ip_adapter.{2 * index + 1}.{projection}.weight"] = (channels, width)
    tensors = {key: torch.empty(shape, device=device, dtype=dtype) for key, shape in shapes.items()}
    if device != "meta":
        _fill(tensors, WEIGHTS_SEED + 6)
    return {
        part: {k.partition(".")[2]: v for k, v in tensors.items() if k.startswith(part)}
        for part in ("image_proj", "ip_adapter")
    }
