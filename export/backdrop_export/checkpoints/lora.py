"""LoRAs fused into a bundle's weights by diffusers' own ``load_lora_weights`` and ``fuse_lora``."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers import StableDiffusionXLPipeline
from diffusers.utils import (
    convert_state_dict_to_diffusers,
    convert_state_dict_to_peft,
    convert_unet_state_dict_to_peft,
)
from safetensors.torch import save_file

from backdrop_export.bundles import Bundle
from backdrop_export.loading import load_component
from backdrop_export.published_keys import (
    Config,
    empty_model,
    published_key,
    quiet_libraries,
)
from backdrop_export.weight_files import Shape, find_weights, load_tensors
from backdrop_server.errors import SetupError

FUSABLE = ("unet", "text_encoder", "text_encoder_2")
_FACTOR = re.compile(r"(?P<module>.+)\.lora_(?P<factor>[AB])\.weight")


@dataclasses.dataclass(frozen=True)
class LoraFile:
    """A LoRA's file with the modules that it changes, by component; all of them exist and fit."""

    path: Path
    tensors: Mapping[str, torch.Tensor]
    modules: Mapping[str, frozenset[str]]


def read_lora(path: Path, configs: Mapping[str, Config]) -> LoraFile:
    """Read a LoRA in kohya's or diffusers' format and check it against the models.

    Raises SetupError naming the file and the key that no model has, or whose shape does not fit.
    """
    tensors = load_tensors(path)
    names = {id(value): name for name, value in tensors.items()}
    converted = _converted(path, tensors, configs["unet"])
    modules: dict[str, frozenset[str]] = {}
    for component in FUSABLE:
        model = empty_model(component, configs[component], path)
        factors = _factors(component, converted, model)
        _check_factors(path, factors, names, model)
        if factors:
            modules[component] = frozenset(str(_FACTOR.sub(r"\g<module>", key)) for key in factors)
    strays = [v for key, v in converted.items() if not key.startswith(tuple(_prefixes()))]
    if strays or not modules:
        key = names.get(id(strays[0])) if strays else next(iter(tensors), None)
        raise SetupError(f"{path} is not a LoRA for SDXL: nothing here has its key {key}")
    return LoraFile(path, tensors, modules)


def _prefixes() -> list[str]:
    return [f"{component}." for component in FUSABLE]


def _converted(
    path: Path, tensors: Mapping[str, torch.Tensor], unet: Config
) -> dict[str, torch.Tensor]:
    config = empty_model("unet", unet, path).config
    dora = [name for name in tensors if "dora_scale" in name]
    if dora:
        raise SetupError(f"{path} is a DoRA, which diffusers cannot fuse; it has the key {dora[0]}")
    with quiet_libraries():
        try:
            state, _ = StableDiffusionXLPipeline.lora_state_dict(dict(tensors), unet_config=config)
        except Exception as error:  # ValueError, KeyError, IndexError: by what the names look like
            reason = " ".join(str(error).split())
            raise SetupError(f"{path} has LoRA keys that are not known: {reason[:300]}") from error
    bad = [name for name in state if "lora" not in name]
    if bad:
        raise SetupError(f"{path} has a key that is not a LoRA's: {bad[0]}")
    return dict(state)


def _factors(
    component: str, converted: Mapping[str, torch.Tensor], model: Any
) -> dict[str, torch.Tensor]:
    """The component's tensors by the names that peft gives them in ``model``."""
    prefix = f"{component}."
    state = {k.removeprefix(prefix): v for k, v in converted.items() if k.startswith(prefix)}
    if not state:
        return {}
    if component == "unet":
        is_peft = "lora_A" in next(iter(state))
        return dict(state if is_peft else convert_unet_state_dict_to_peft(state))
    state = convert_state_dict_to_peft(convert_state_dict_to_diffusers(state))
    wrapped = hasattr(model, "text_model")
    return {k if wrapped else k.removeprefix("text_model."): v for k, v in state.items()}


def _check_factors(
    path: Path, factors: Mapping[str, torch.Tensor], names: Mapping[int, str], model: Any
) -> None:
    modules = dict(model.named_modules())
    for key, value in factors.items():
        name = names.get(id(value), key)
        match = _FACTOR.fullmatch(key)
        module = modules.get(match["module"]) if match else None
        if match is None or not isinstance(getattr(module, "weight", None), torch.nn.Parameter):
            raise SetupError(f"{path}: no module takes the LoRA's key {name}")
        needed = _needed(match["factor"], value, module)
        if tuple(value.shape) != needed:
            raise SetupError(
                f"{path}: {name} has the shape {list(value.shape)}, needed is {list(needed)}"
            )
        other = key.replace(
            *(("lora_A", "lora_B") if match["factor"] == "A" else ("lora_B", "lora_A"))
        )
        if other not in factors:
            raise SetupError(f"{path}: {name} has no second factor beside it")


def _needed(factor: str, value: torch.Tensor, module: Any) -> Shape:
    """A factor is [rank, in, kernel] or [out, rank, 1, 1]; the rank is its own."""
    weight: Shape = tuple(module.weight.shape)
    if factor == "A":
        return (value.shape[0], *weight[1:])
    return (weight[0], value.shape[1], *(1 for _ in weight[2:]))


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
            _check_loaded(pipeline, lora)
            pipeline.fuse_lora(components=components, lora_scale=weight)
            pipeline.unload_lora_weights()
        except SetupError:
            raise
        except Exception as error:  # peft and diffusers raise whatever goes wrong first
            reason = " ".join(str(error).split())
            raise SetupError(f"{lora.path} cannot be fused: {reason[:300]}") from error


def _check_loaded(pipeline: Any, lora: LoraFile) -> None:
    for component, wanted in lora.modules.items():
        model = getattr(pipeline, component)
        loaded = {name for name, module in model.named_modules() if hasattr(module, "lora_A")}
        if loaded != wanted:
            left = sorted(loaded ^ wanted)[0]
            raise SetupError(f"{lora.path}: {component} did not take its module {left}")


def _replace_weights(folder: Path, component: str, model: Any) -> None:
    for name in find_weights(folder).all:
        (folder / name).unlink()
    stem = "diffusion_pytorch_model" if component == "unet" else "model"
    state = {
        published_key(component, name): value.contiguous()
        for name, value in model.state_dict().items()
    }
    save_file(state, folder / f"{stem}.safetensors", metadata={"format": "pt"})
