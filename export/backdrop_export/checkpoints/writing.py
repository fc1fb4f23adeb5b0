"""Writing a bundle's folder: weights linked, small files copied, what is missing written."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from backdrop_export.bundles import FACTS, IP_ADAPTER, PREPROCESSOR
from backdrop_export.checkpoints.pieces import (
    ADAPTER,
    INDEX,
    SINGLE_FILE,
    Pieces,
)
from backdrop_export.checkpoints.recipe import Recipe
from backdrop_export.weight_files import SUFFIXES, load_tensors
from backdrop_server.errors import SetupError

PIPELINE_CLASS = "StableDiffusionXLControlNetInpaintPipeline"
_CLASSES = {
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
_CLIP_MEAN = [0.48145466, 0.4578275, 0.40821073]
_CLIP_STD = [0.26862954, 0.26130258, 0.27577711]


def write_pieces(recipe: Recipe, pieces: Pieces, folders: Mapping[str, Path], folder: Path) -> None:
    """Write all but what is converted: ``folders`` say where each part's files lie."""
    for part, piece in pieces.items():
        if part not in (ADAPTER, INDEX, SINGLE_FILE):
            for name in piece.files:
                place_file(folders[part] / name, folder / part / name)
    _write_adapter(folders[ADAPTER] / pieces[ADAPTER].files[0], folder / IP_ADAPTER)
    if not (folder / PREPROCESSOR).exists():
        config = read_json(folder / "image_encoder" / "config.json")
        write_json(_preprocessor(int(config.get("image_size", 224))), folder / PREPROCESSOR)
    published = read_json(folders[INDEX] / INDEX) if INDEX in pieces else {}
    zeros = bool(published.get("force_zeros_for_empty_prompt", True))
    index = {"_class_name": PIPELINE_CLASS, "force_zeros_for_empty_prompt": zeros}
    write_json(index | _CLASSES, folder / INDEX)
    sources = {piece.listing.key: piece.listing.text for piece in pieces.values()}
    fused = [{"file": lora.file, "weight": lora.weight} for lora in recipe.lora]
    facts = {"native_pixels": recipe.native_pixels, "sources": sources, "lora": fused}
    if recipe.guidance_rescale:
        facts["guidance_rescale"] = recipe.guidance_rescale
    write_json(facts, folder / FACTS)


def place_file(source: Path, target: Path) -> None:
    """Link a weights file, or copy it where links cannot go; copy any other file."""
    target.parent.mkdir(parents=True, exist_ok=True)
    real = source.resolve()  # the hub's cache holds symbolic links
    if target.suffix in SUFFIXES:
        try:
            os.link(real, target)
        except OSError:  # another file system, or one without links
            shutil.copyfile(real, target)
    else:
        shutil.copyfile(real, target)


def links_reach(source: Path, folder: Path) -> bool:
    """Whether ``source`` and ``folder`` (or what will hold it) are on one file system."""
    while not folder.exists():
        folder = folder.parent
    return source.resolve().stat().st_dev == folder.stat().st_dev


def _write_adapter(source: Path, target: Path) -> None:
    """The IP-Adapter as safetensors with flat keys, as it is published beside the ``.bin``."""
    if source.suffix == ".safetensors":
        place_file(source, target)
        return
    save_tensors(load_tensors(source), target)


def write_converted(file: Path, component: str, config: Mapping[str, Any], folder: Path) -> None:
    """Write the weights of ``component`` that a single file holds, under diffusers' keys."""
    from backdrop_export.checkpoints.single_file import read_single_file

    stem = "diffusion_pytorch_model" if component in ("unet", "vae") else "model"
    save_tensors(read_single_file(file, component, dict(config)), folder / f"{stem}.safetensors")


def save_tensors(tensors: Mapping[str, Any], path: Path) -> None:
    """Write torch tensors as safetensors, each with memory of its own."""
    from safetensors.torch import save_file

    path.parent.mkdir(parents=True, exist_ok=True)
    whole = {
        name: value.clone().contiguous() if _shares(value) else value.contiguous()
        for name, value in tensors.items()
    }
    save_file(whole, path, metadata={"format": "pt"})


def _shares(value: Any) -> bool:
    """Whether the tensor is a part of a larger one, which safetensors refuses to write."""
    size: int = value.untyped_storage().nbytes()
    return bool(size != value.numel() * value.element_size())


def _preprocessor(side: int) -> dict[str, Any]:
    """CLIP's published preprocessing at ``side`` pixels, for encoders published without it."""
    return {
        "crop_size": {"height": side, "width": side},
        "do_center_crop": True,
        "do_convert_rgb": True,
        "do_normalize": True,
        "do_rescale": True,
        "do_resize": True,
        "image_mean": _CLIP_MEAN,
        "image_processor_type": "CLIPImageProcessor",
        "image_std": _CLIP_STD,
        "resample": 3,
        "rescale_factor": 1 / 255,
        "size": {"shortest_edge": side},
    }


def read_json(file: Path) -> dict[str, Any]:
    """The JSON object in ``file``; raises SetupError naming it when it is not one."""
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise SetupError(f"{file} is not readable JSON") from error
    if not isinstance(content, dict):
        raise SetupError(f"{file} is not a JSON object")
    return content


def write_json(content: object, file: Path) -> None:
    """Write ``content`` as indented JSON."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
