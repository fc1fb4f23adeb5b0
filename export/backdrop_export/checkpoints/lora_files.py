"""Reading a LoRA's file in kohya's or diffusers' format, and checking it against the models."""

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

from backdrop_export.published_keys import Config, empty_model, quiet_libraries
from backdrop_export.weight_files import Shape, load_tensors
from backdrop_server.errors import SetupError

FUSABLE = ("unet", "text_encoder", "text_encoder_2")
ALPHA = ".alpha"
_FACTOR = re.compile(r"(?P<module>.+)\.lora_(?P<factor>[AB])\.weight")


@dataclasses.dataclass(frozen=True)
class LoraFile:
    """A LoRA's file with the modules that it changes, by component; all of them exist and fit."""

    path: Path
    tensors: Mapping[str, torch.Tensor]
    modules: Mapping[str, Mapping[str, float | None]]
    """Per module alpha / rank, where the file has an alpha."""


def read_lora(path: Path, configs: Mapping[str, Config]) -> LoraFile:
    """Read a LoRA in kohya's or diffusers' format and check it against the models.

    Raises SetupError naming the file and the key that no model has, or whose shape does not fit.
    """
    tensors = load_tensors(path)
    names = {id(value): name for name, value in tensors.items()}
    converted = _converted(path, tensors, configs["unet"])
    kept = {id(value) for value in converted.values()}
    lost = [n for n, v in tensors.items() if id(v) not in kept and not n.endswith(ALPHA)]
    if lost:
        raise SetupError(f"{path} has a key that diffusers drops: {lost[0]}")
    modules: dict[str, Mapping[str, float | None]] = {}
    for component in FUSABLE:
        model = empty_model(component, configs[component], path)
        try:
            factors = _factors(component, converted, model)
        except ValueError as error:  # by what the names look like
            reason = " ".join(str(error).split())
            raise SetupError(
                f"{path}: the {component}'s LoRA keys are not known: {reason}"
            ) from error
        _check_factors(path, factors, names, model)
        if factors:
            modules[component] = _scalings(factors, names, tensors)
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


def _scalings(
    factors: Mapping[str, torch.Tensor],
    names: Mapping[int, str],
    tensors: Mapping[str, torch.Tensor],
) -> dict[str, float | None]:
    scalings: dict[str, float | None] = {}
    for key, value in factors.items():
        match = _FACTOR.fullmatch(key)
        if match is not None and match["factor"] == "A":
            alpha = tensors.get(names.get(id(value), key).partition(".lora_down")[0] + ALPHA)
            scale = None if alpha is None else float(alpha) / value.shape[0]
            scalings[match["module"]] = scale
    return scalings


def _needed(factor: str, value: torch.Tensor, module: Any) -> Shape:
    """A factor is [rank, in, kernel] or [out, rank, 1, 1]; the rank is its own."""
    weight: Shape = tuple(module.weight.shape)
    if factor == "A":
        return (value.shape[0], *weight[1:])
    return (weight[0], value.shape[1], *(1 for _ in weight[2:]))
