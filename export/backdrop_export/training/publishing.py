"""From trained modules to a bundle: published keys, half precision, the card."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from backdrop_export.architectures import Architecture
from backdrop_export.folders import replaced_folder
from backdrop_export.synthetic import published_key, write_bundle
from backdrop_export.training.denoiser import SMALL_SHARE, Denoiser
from backdrop_export.training.recipe import Recipe
from backdrop_export.training.towers import Towers
from backdrop_export.weights import Shapes, Weights

CARD = """\
# The `{name}` bundle

SDXL's architecture at small size, in diffusers' layout: a 9-channel inpainting UNet, a Canny
ControlNet, a VAE, two text towers, a CLIP vision tower and an IP-Adapter. Working size {side} x {side}.

**What it is.** Every part is trained, from nothing, on {pictures} pictures that Backdrop itself
renders: twelve scenes (beach, forest, desert, snow, night city, marble studio, wooden table, kitchen,
meadow, mountains, sunset, water) in many looks, with simple products. It shows on two CPU cores
what each input of the server does: the prompt names the scene, the reference picture gives the
colours, the ControlNet draws the product. Made by `backdrop-export train {name}`, seed {seed};
the UNet saw {samples} pictures, with repeats.

**What it is not.** It has seen no photograph, knows no scene beside those twelve and few words, and
its pictures are small and soft. It says nothing about the quality of SDXL's weights. In the raw
output (`preserve_subject` false) the product is drawn through the ControlNet alone: with
`cn_weight` 0 the place of the product is painted over with the scene. The UNet predicts velocity
(`v_prediction`), not noise, and guidance is rescaled by {rescale}, or a scale of 7.5 would overexpose.
"""


def publish(
    architecture: Architecture,
    recipe: Recipe,
    vae: Any,
    towers: Towers,
    denoiser: Denoiser,
    out: Path,
) -> Path:
    """Write the bundle's folder ``out``, replacing it; the weights' files hold fp16."""
    parts: dict[str, Weights] = {
        "vae": _half(vae),
        "unet": _half(denoiser.unet),
        "controlnet": _half(denoiser.controlnet),
        "ip_adapter": _adapter(denoiser),
    }
    for name in ("text_encoder", "text_encoder_2", "image_encoder"):
        tower = _half(getattr(towers, name))
        parts[name] = {published_key(name, key): value for key, value in tower.items()}

    def trained(component: str, shapes: Shapes) -> Weights:
        return {name: parts[component][name].reshape(shape) for name, shape in shapes.items()}

    with replaced_folder(out) as folder:
        write_bundle(architecture, folder, trained, "trained", _card(architecture, recipe))
    return out


def _half(module: torch.nn.Module) -> Weights:
    state = module.state_dict()
    return {name: _array(value) for name, value in state.items()}


def _array(value: torch.Tensor) -> Any:
    return value.detach().numpy().astype(np.float16)


def _adapter(denoiser: Denoiser) -> Weights:
    """The IP-Adapter under its published keys: odd numbers in the order down, up, mid."""
    projection, norm = denoiser.projection.image_embeds, denoiser.projection.norm
    named = {
        "image_proj.proj.weight": projection.weight,
        "image_proj.proj.bias": projection.bias,
        "image_proj.norm.weight": norm.weight,
        "image_proj.norm.bias": norm.bias,
    }
    processors = denoiser.unet.attn_processors
    cross = [name for name in processors if name.endswith("attn2.processor")]
    for index, name in enumerate(cross):
        key = f"ip_adapter.{2 * index + 1}"
        named[f"{key}.to_k_ip.weight"] = processors[name].to_k_ip
        named[f"{key}.to_v_ip.weight"] = processors[name].to_v_ip
    return {name: _array(value) for name, value in named.items()}


def _card(architecture: Architecture, recipe: Recipe) -> str:
    rows = recipe.denoiser.batch * recipe.workers * (1 + SMALL_SHARE)  # twice as many at half side
    return CARD.format(
        name=architecture.name,
        side=architecture.native_side,
        pictures=recipe.pictures,
        seed=recipe.seed,
        rescale=architecture.guidance_rescale,
        samples=round(recipe.denoiser.steps * rows),
    )
