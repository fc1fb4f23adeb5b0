"""Comparing a bundle's weights with what its models need, key by key, before any is loaded.

What a component must be follows from its own configuration and from the others': the UNet takes
nine channels and prompts as wide as both text towers, the ControlNet fits the UNet's blocks, the
IP-Adapter fits the image encoder and the UNet's cross-attentions. The models are made on torch's
meta device, so this takes seconds at full size, and no memory.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers
from transformers.utils.logging import (
    disable_progress_bar,
    enable_progress_bar,
    is_progress_bar_enabled,
)

from backdrop_export.ip_adapter import cross_attention_channels, expected_shapes
from backdrop_export.weight_files import Key, Keys, Shape
from backdrop_server.errors import SetupError

Config = dict[str, Any]

MODEL_CLASSES = {
    "unet": diffusers.UNet2DConditionModel,
    "controlnet": diffusers.ControlNetModel,
    "vae": diffusers.AutoencoderKL,
    "text_encoder": transformers.CLIPTextModel,
    "text_encoder_2": transformers.CLIPTextModelWithProjection,
    "image_encoder": transformers.CLIPVisionModelWithProjection,
}
ADAPTER = "ip_adapter"
_OLD_ATTENTION = {
    ".query.": ".to_q.",
    ".key.": ".to_k.",
    ".value.": ".to_v.",
    ".proj_attn.": ".to_out.0.",
}
"""Names in VAE files from before diffusers 0.17, which it still reads."""
UNUSED = ("position_ids", "logit_scale")
"""Ends of keys that some published CLIP files have and no model needs."""


@dataclasses.dataclass(frozen=True)
class Part:
    """One component to check: where it lies, its configuration, and its weights' keys."""

    place: Path
    config: Config
    keys: Keys


@contextlib.contextmanager
def quiet_libraries() -> Iterator[None]:
    """Hold back the libraries' bars and warnings: what they say is checked, and said in a sentence."""
    disabled, bars = logging.root.manager.disable, is_progress_bar_enabled()
    logging.disable(logging.WARNING)
    disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)
        if bars:
            enable_progress_bar()


def empty_model(component: str, config: Config, place: Path) -> Any:
    """The model without memory for its weights; raises SetupError for a bad configuration."""
    model_class = MODEL_CLASSES[component]
    with quiet_libraries(), torch.device("meta"):
        try:
            if component in ("unet", "controlnet", "vae"):
                return model_class.from_config(config)
            return model_class(model_class.config_class(**config))
        except Exception as error:  # the libraries raise whatever goes wrong first
            reason = str(error).strip().partition("\n")[0]
            raise SetupError(
                f"{place}: no {component} can be made of its config.json: {reason}"
            ) from error


def check_parts(parts: Mapping[str, Part], configs: Mapping[str, Config]) -> None:
    """Check every component of ``parts`` against its configuration and the others'.

    ``configs`` are all components' configurations. Raises SetupError naming the file, the key, and
    both shapes of the first that does not fit.
    """
    models = {}
    for name, part in parts.items():
        if name != ADAPTER:
            models[name] = empty_model(name, part.config | _demands(name, configs), part.place)
            check_keys(part, _expected(name, models[name]))
    if "controlnet" in parts:
        _check_residuals(parts["controlnet"], models["controlnet"].config, models["unet"].config)
        _check_edge_encoder(parts["controlnet"], models["controlnet"].config, configs["vae"])
    if ADAPTER in parts:
        config = configs["unet"] | _demands("unet", configs)
        unet = models.get("unet") or empty_model("unet", config, parts[ADAPTER].place)
        _check_adapter(parts[ADAPTER], unet, configs)


def _check_adapter(part: Part, unet: Any, configs: Mapping[str, Config]) -> None:
    shapes = {name: key.shape for name, key in part.keys.items()}
    width, channels = int(unet.config.cross_attention_dim), cross_attention_channels(unet)
    vision = vision_sizes(configs["image_encoder"])
    check_keys(part, expected_shapes(shapes, part.place, width, vision, channels))


def vision_sizes(config: Config) -> Config:
    """``hidden_size`` and ``projection_dim`` of the image encoder, with the class's defaults."""
    known = transformers.CLIPVisionConfig(**config)
    return {"hidden_size": known.hidden_size, "projection_dim": known.projection_dim}


def _demands(component: str, configs: Mapping[str, Config]) -> Config:
    """What the other components ask of this one's configuration."""
    if component not in ("unet", "controlnet"):
        return {}
    first, second = (
        transformers.CLIPTextConfig(**configs[name]) for name in ("text_encoder", "text_encoder_2")
    )
    demands: Config = {"addition_embed_type": "text_time"}
    time_width = int(configs[component].get("addition_time_embed_dim") or 256)
    demands["addition_time_embed_dim"] = time_width
    demands["cross_attention_dim"] = first.hidden_size + second.hidden_size
    demands["projection_class_embeddings_input_dim"] = second.projection_dim + 6 * time_width
    channels = int(configs["vae"].get("latent_channels", 4))
    if component == "unet":
        return demands | {"in_channels": 2 * channels + 1, "out_channels": channels}
    return demands | {"in_channels": channels, "conditioning_channels": 3}


def _check_residuals(part: Part, controlnet: Any, unet: Any) -> None:
    """The ControlNet's answers are added to the UNet's skip connections: the same blocks."""
    for name in ("block_out_channels", "layers_per_block"):
        theirs, ours = controlnet[name], unet[name]
        if theirs != ours:
            raise SetupError(
                f"{part.place / 'config.json'}: {name} is {theirs}, the UNet's is {ours}"
            )


def _check_edge_encoder(part: Part, controlnet: Any, vae: Config) -> None:
    """What the edge encoder gives is added to what is made of latents: as often halved as the VAE's."""
    name = "conditioning_embedding_out_channels"
    given, needed = len(controlnet[name]) - 1, len(vae.get("block_out_channels", (64,))) - 1
    if given != needed:
        raise SetupError(
            f"{part.place / 'config.json'}: {name} halves the edges {given} times, the VAE "
            f"pictures {needed} times"
        )


def _expected(component: str, model: Any) -> dict[str, Shape]:
    return {
        published_key(component, name): tuple(value.shape)
        for name, value in model.state_dict().items()
    }


def published_key(component: str, name: str) -> str:
    """A model's key as it is published: newer transformers drop a ``text_model.`` in front."""
    if component == "text_encoder" and not name.startswith("text_model."):
        return f"text_model.{name}"
    return name


def canonical_keys(component: str, keys: Keys) -> Keys:
    """A file's keys under the names that diffusers and transformers give them today."""
    if component == "vae":
        return {_new_attention(name): key for name, key in keys.items()}
    if component == ADAPTER or component not in MODEL_CLASSES:
        return keys
    kept = {name: key for name, key in keys.items() if not name.endswith(UNUSED)}
    return {published_key(component, name): key for name, key in kept.items()}


def _new_attention(name: str) -> str:
    if ".attentions." in name:
        for old, new in _OLD_ATTENTION.items():
            name = name.replace(old, new)
    return name


def check_keys(part: Part, expected: Mapping[str, Shape]) -> None:
    """Compare keys and shapes; raises SetupError: other shapes first, then missing, then unknown."""
    for name, shape in expected.items():
        found = part.keys.get(name)
        if found is not None and not _fits(found.shape, shape):
            raise SetupError(
                f"{found.file}: {found.name} has the shape {_text(found.shape)}, "
                f"needed is {_text(shape)}"
            )
    missing = [name for name in expected if name not in part.keys]
    if missing:
        raise SetupError(
            f"{_file(part)} lacks the key {missing[0]}, shape {_text(expected[missing[0]])}"
            + _and_more(missing)
        )
    unknown = [key for name, key in part.keys.items() if name not in expected]
    if unknown:
        raise SetupError(
            f"{unknown[0].file} has a key that nothing needs: {unknown[0].name}, shape "
            f"{_text(unknown[0].shape)}" + _and_more(unknown)
        )


def _fits(found: Shape, needed: Shape) -> bool:
    """Old VAE files hold their attention's linear layers as 1 x 1 convolutions."""
    return found == needed or (len(needed) == 2 and found == (*needed, 1, 1))


def _file(part: Part) -> str:
    files: dict[Path, Key] = {key.file: key for key in part.keys.values()}
    return str(next(iter(files))) if len(files) == 1 else f"the weights in {part.place}"


def _text(shape: Shape) -> str:
    return "[" + ", ".join(map(str, shape)) + "]"


def _and_more(keys: list[Any]) -> str:
    return f" (and {len(keys) - 1} more)" if len(keys) > 1 else ""
