"""Making the small bundles: diffusers' layout, SDXL's classes, random or trained weights."""

from __future__ import annotations

import functools
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL, ControlNetModel, UNet2DConditionModel
from safetensors.numpy import save_file
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPVisionConfig,
    CLIPVisionModelWithProjection,
)

from backdrop_export.architectures import (
    IMAGE_TOKENS,
    PIPELINE_CLASS,
    Architecture,
    architecture_named,
)
from backdrop_export.folders import replaced_folder
from backdrop_export.recipes import bundle_is_current, record_bundle, trained_bundle
from backdrop_export.vocabulary import END, write_tokenizer
from backdrop_export.weights import Shapes, Weights, random_weights
from backdrop_export.wiring import Strengths, wire_controlnet, wire_unet, wire_vae

WeightSource = Callable[[str, Shapes], Weights]
"""The weights of a component by its name and its shapes by published key."""


def make_bundle(name: str, path: Path) -> Path:
    """Write the bundle called ``name`` into the folder ``path``, replacing it; return ``path``.

    One that ships with trained weights is copied; the others have random ones. The same name gives
    the same bytes, and a folder that has them is left alone. Raises SetupError for an unknown name.
    """
    architecture = architecture_named(name)
    if bundle_is_current(name, path):
        return path
    shipped = trained_bundle(name)
    with replaced_folder(path) as folder:
        if shipped is None:
            write_bundle(architecture, folder, _random(architecture), "random", _card(architecture))
        else:
            shutil.copytree(shipped, folder, dirs_exist_ok=True)
        record_bundle(name, folder)
    return path


def write_bundle(
    architecture: Architecture, folder: Path, source: WeightSource, weights: str, card: str
) -> None:
    """Write every file of a bundle into ``folder``; ``weights`` says how they came to be."""
    for write in (_write_unet, _write_controlnet, _write_vae, _write_towers, _write_ip_adapter):
        write(architecture, folder, source)
    _write_rest(architecture, folder, weights)
    (folder / "README.md").write_text(card, encoding="utf-8")


def _random(architecture: Architecture) -> WeightSource:
    dtype = {"fp32": np.float32, "fp16": np.float16}[architecture.precision]

    def draw(component: str, shapes: Shapes) -> Weights:
        weights = random_weights(component, shapes, architecture.seed, dtype)
        if architecture.wired and component == "unet":
            wire_unet(weights, Strengths())
        elif architecture.wired and component == "controlnet":
            wire_controlnet(weights, architecture.edge_gain)
        elif architecture.wired and component == "vae":
            wire_vae(weights, Strengths(), architecture.vae_scaling_factor)
        return weights

    return draw


def _shapes(model: torch.nn.Module) -> dict[str, tuple[int, ...]]:
    return {key: tuple(value.shape) for key, value in model.state_dict().items()}


def _on_meta(make: Callable[[], Any]) -> Any:
    with torch.device("meta"):
        return make()


def _save(weights: Weights, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    arrays = {key: np.ascontiguousarray(value) for key, value in sorted(weights.items())}
    save_file(arrays, path, metadata={"format": "pt"})


def _save_json(content: object, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def _save_diffusers(model: Any, weights: Weights, folder: Path) -> None:
    model.save_config(folder)
    _save(weights, folder / "diffusion_pytorch_model.safetensors")


def _write_unet(architecture: Architecture, folder: Path, source: WeightSource) -> None:
    unet = _on_meta(lambda: UNet2DConditionModel(**architecture.unet()))
    _save_diffusers(unet, source("unet", _shapes(unet)), folder / "unet")


def _write_controlnet(architecture: Architecture, folder: Path, source: WeightSource) -> None:
    controlnet = _on_meta(lambda: ControlNetModel(**architecture.controlnet()))
    _save_diffusers(controlnet, source("controlnet", _shapes(controlnet)), folder / "controlnet")


def _write_vae(architecture: Architecture, folder: Path, source: WeightSource) -> None:
    vae = _on_meta(lambda: AutoencoderKL(**architecture.vae()))
    _save_diffusers(vae, source("vae", _shapes(vae)), folder / "vae")


def _write_towers(architecture: Architecture, folder: Path, source: WeightSource) -> None:
    text, vision = CLIPTextConfig, CLIPVisionConfig
    for name, model_class, config in (
        ("text_encoder", CLIPTextModel, text(**architecture.text_encoder())),
        ("text_encoder_2", CLIPTextModelWithProjection, text(**architecture.text_encoder_2())),
        ("image_encoder", CLIPVisionModelWithProjection, vision(**architecture.image_encoder())),
    ):
        model = _on_meta(functools.partial(model_class, config))
        shapes = {published_key(name, key): shape for key, shape in _shapes(model).items()}
        _save(source(name, shapes), folder / name / "model.safetensors")
        values = config.to_diff_dict() | {
            "architectures": [model_class.__name__],
            "dtype": {"fp32": "float32", "fp16": "float16"}[architecture.precision],
        }
        values.pop("transformers_version", None)
        _save_json(dict(sorted(values.items())), folder / name / "config.json")


def published_key(component: str, key: str) -> str:
    """Newer transformers drop the ``text_model.`` that every published CLIPTextModel file has."""
    if component == "text_encoder" and not key.startswith("text_model."):
        return f"text_model.{key}"
    return key


def ip_adapter_shapes(architecture: Architecture) -> Shapes:
    """Shapes by published key: the projection, and odd numbers in the order down, up, mid."""
    width = architecture.cross_attention_dim
    shapes: dict[str, tuple[int, ...]] = {
        "image_proj.proj.weight": (IMAGE_TOKENS * width, architecture.vision.projection),
        "image_proj.proj.bias": (IMAGE_TOKENS * width,),
        "image_proj.norm.weight": (width,),
        "image_proj.norm.bias": (width,),
    }
    unet = _on_meta(lambda: UNet2DConditionModel(**architecture.unet()))
    cross = [name for name in unet.attn_processors if ".attn2." in name]
    for index, name in enumerate(cross):
        channels = unet.get_submodule(name.removesuffix(".processor")).to_q.out_features
        for projection in ("to_k_ip", "to_v_ip"):
            shapes[f"ip_adapter.{2 * index + 1}.{projection}.weight"] = (channels, width)
    return shapes


def _write_ip_adapter(architecture: Architecture, folder: Path, source: WeightSource) -> None:
    weights = source("ip_adapter", ip_adapter_shapes(architecture))
    _save(weights, folder / "ip_adapter" / "ip-adapter.safetensors")


def _preprocessor(side: int) -> dict[str, Any]:
    return {
        "crop_size": {"height": side, "width": side},
        "do_center_crop": True,
        "do_convert_rgb": True,
        "do_normalize": True,
        "do_rescale": True,
        "do_resize": True,
        "feature_extractor_type": "CLIPFeatureExtractor",
        "image_mean": [0.48145466, 0.4578275, 0.40821073],
        "image_processor_type": "CLIPImageProcessor",
        "image_std": [0.26862954, 0.26130258, 0.27577711],
        "resample": 3,
        "rescale_factor": 1 / 255,
        "size": {"shortest_edge": side},
    }


_COMPONENTS = {
    "controlnet": ["diffusers", "ControlNetModel"],
    "feature_extractor": ["transformers", "CLIPImageProcessor"],
    "image_encoder": ["transformers", "CLIPVisionModelWithProjection"],
    "scheduler": ["diffusers", "EulerDiscreteScheduler"],
    "text_encoder": ["transformers", "CLIPTextModel"],
    "text_encoder_2": ["transformers", "CLIPTextModelWithProjection"],
    "tokenizer": ["transformers", "CLIPTokenizer"],
    "tokenizer_2": ["transformers", "CLIPTokenizer"],
    "unet": ["diffusers", "UNet2DConditionModel"],
    "vae": ["diffusers", "AutoencoderKL"],
}

_CARD = """\
# The `{name}` bundle

SDXL's architecture{size}, in diffusers' layout: a 9-channel inpainting UNet, a Canny
ControlNet, a VAE, two text towers, a CLIP vision tower and an IP-Adapter. Working size {side} x {side}.

**The weights are random and untrained** (seed {seed}). Pictures made with them are abstract; they
show that the whole path works and that every input counts, nothing else. Made by
`backdrop-export bundle {name}`, byte for byte the same each time.
"""


def _write_rest(architecture: Architecture, folder: Path, weights: str) -> None:
    write_tokenizer(folder / "tokenizer", architecture.vocabulary, END)
    write_tokenizer(folder / "tokenizer_2", architecture.vocabulary, "!")
    _save_json(architecture.scheduler(), folder / "scheduler" / "scheduler_config.json")
    _save_json(
        _preprocessor(architecture.clip_side),
        folder / "feature_extractor" / "preprocessor_config.json",
    )
    index = {"_class_name": PIPELINE_CLASS, "force_zeros_for_empty_prompt": True}
    _save_json(index | _COMPONENTS, folder / "model_index.json")
    facts = {"native_pixels": architecture.native_pixels, "weights": weights}
    if architecture.guidance_rescale:
        facts["guidance_rescale"] = architecture.guidance_rescale
    _save_json(facts, folder / "backdrop.json")


def _card(architecture: Architecture) -> str:
    return _CARD.format(
        name=architecture.name,
        side=architecture.native_side,
        seed=architecture.seed,
        size=" at small size" if architecture.wired else " at its own size",
    )
