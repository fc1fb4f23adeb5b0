"""LoRAs fused into a bundle's weights by diffusers' own ``load_lora_weights`` and ``fuse_lora``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers import StableDiffusionXLPipeline

from backdrop_export.bundles import Bundle
from backdrop_export.checkpoints.lora_files import LoraFile
from backdrop_export.checkpoints.writing import save_tensors
from backdrop_export.loading import load_component
from backdrop_export.published_keys import empty_model, published_key, quiet_libraries
from backdrop_export.weight_files import find_weights, load_tensors
from backdrop_server.errors import SetupError


def fuse_loras(bundle: Bundle, loras: list[tuple[LoraFile, float]]) -> list[str]:
    """Fuse ``loras`` into the bundle's weights, in their own precision; return the components.

    A changed component is loaded once and its file replaced by a new one (never written into: it
    may be a link to its source). Raises SetupError when a module was left out.
    """
    changed = sorted({name for lora, _ in loras for name in lora.modules})
    models = {name: load_component(bundle, name, _dtype(bundle, name)) for name in changed}
    if "unet" not in models:
        models["unet"] = empty_model("unet", bundle.config("unet/config.json"), bundle.path)
    pipeline = _pipeline(models)
    for lora, weight in loras:
        _fuse(pipeline, lora, weight, [name for name in changed if name in lora.modules])
    for name in changed:
        _replace_weights(bundle.path / name, name, models[name])
    return changed


def _dtype(bundle: Bundle, component: str) -> torch.dtype:
    folder = bundle.path / component
    names = find_weights(folder)
    dtype: torch.dtype = next(iter(load_tensors(folder / names.files[0]).values())).dtype
    return dtype


def _pipeline(models: Mapping[str, Any]) -> Any:
    with quiet_libraries():
        return StableDiffusionXLPipeline(
            vae=None,
            text_encoder=models.get("text_encoder"),
            text_encoder_2=models.get("text_encoder_2"),
            tokenizer=None,
            tokenizer_2=None,
            unet=models["unet"],
            scheduler=None,
            add_watermarker=False,
        )


def _fuse(pipeline: Any, lora: LoraFile, weight: float, components: list[str]) -> None:
    with quiet_libraries():
        try:
            if lora.path.suffix == ".safetensors":  # the path: its metadata may hold alphas
                folder, name = str(lora.path.parent), lora.path.name
                pipeline.load_lora_weights(folder, weight_name=name, local_files_only=True)
            else:
                pipeline.load_lora_weights(dict(lora.tensors))
            _settle_loaded(pipeline, lora)
            pipeline.fuse_lora(components=components, lora_scale=weight)
            pipeline.unload_lora_weights()
        except SetupError:
            raise
        except Exception as error:  # peft and diffusers raise whatever goes wrong first
            reason = " ".join(str(error).split())
            raise SetupError(f"{lora.path} cannot be fused: {reason[:300]}") from error


def _settle_loaded(pipeline: Any, lora: LoraFile) -> None:
    """Every module took its factors, and is scaled by its own alpha.

    diffusers 0.42 gives some modules another module's alpha when alphas differ within one file, as
    they do where convolutions were trained with an alpha of their own.
    """
    for component, wanted in lora.modules.items():
        model = getattr(pipeline, component)
        loaded = {name: m for name, m in model.named_modules() if hasattr(m, "lora_A")}
        if loaded.keys() != wanted.keys():
            left = sorted(loaded.keys() ^ wanted.keys())[0]
            raise SetupError(f"{lora.path}: {component} did not take its module {left}")
        for name, scale in wanted.items():
            if scale is not None:
                scaling = loaded[name].scaling
                scaling.update(dict.fromkeys(scaling, scale))


def _replace_weights(folder: Path, component: str, model: Any) -> None:
    for name in find_weights(folder).all:
        (folder / name).unlink()
    stem = "diffusion_pytorch_model" if component == "unet" else "model"
    state = {published_key(component, name): value for name, value in model.state_dict().items()}
    save_tensors(state, folder / f"{stem}.safetensors")
