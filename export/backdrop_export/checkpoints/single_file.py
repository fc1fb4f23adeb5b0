"""Single-file SDXL checkpoints: the original keys, through diffusers' own converters."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers.loaders import single_file_utils as converters
from safetensors import SafetensorError, safe_open

from backdrop_export.published_keys import UNUSED, Config, empty_model
from backdrop_export.weight_files import Key, Keys, tensor_shapes
from backdrop_server.errors import SetupError

PREFIXES = {
    "unet": "model.diffusion_model.",
    "vae": "first_stage_model.",
    "text_encoder": "conditioner.embedders.0.transformer.",
    "text_encoder_2": "conditioner.embedders.1.model.",
}
"""What the keys of each component begin with."""
_LANDMARKS = {
    "unet": "input_blocks.0.0.weight",
    "vae": "encoder.conv_in.weight",
    "text_encoder": "text_model.embeddings.token_embedding.weight",
    "text_encoder_2": "text_projection",
}
"""A key of each component that every such file has."""


def single_file_keys(file: Path, component: str, config: Config) -> Keys:
    """The component's keys and shapes as converted, with the names that the file has for them.

    Only the header is read. Raises SetupError naming the file and the key that is missing.
    """
    tensors = {
        name: torch.empty(shape, device="meta")
        for name, shape in tensor_shapes(file).items()
        if name.startswith(PREFIXES[component])
    }
    names = {id(value): name for name, value in tensors.items()}
    return {
        name: Key(tuple(value.shape), file, names.get(id(value), name))
        for name, value in _convert(file, component, config, tensors).items()
    }


def read_single_file(file: Path, component: str, config: Config) -> dict[str, torch.Tensor]:
    """The component's tensors under the keys that diffusers publishes, in the file's precision."""
    prefix = PREFIXES[component]
    try:
        with safe_open(file, framework="pt") as opened:
            names = [n for n in opened.keys() if n.startswith(prefix)]  # noqa: SIM118
            tensors = {name: opened.get_tensor(name) for name in names}
    except (SafetensorError, OSError) as error:
        raise SetupError(f"{file} is damaged or cut off: {error}") from error
    return _convert(file, component, config, tensors)


def _convert(
    file: Path, component: str, config: Config, tensors: Mapping[str, torch.Tensor]
) -> dict[str, torch.Tensor]:
    prefix = PREFIXES[component]
    landmark = prefix + _LANDMARKS[component]
    if landmark not in tensors:
        raise SetupError(
            f"{file} lacks the key {landmark}: it is not an SDXL checkpoint with the original keys"
        )
    try:
        converted = _converted(file, component, config, dict(tensors))
    except KeyError as error:
        key = str(error.args[0]).removeprefix(prefix)
        raise SetupError(f"{file} lacks the key {prefix}{key}") from error
    return {name: value for name, value in converted.items() if not name.endswith(UNUSED)}


def _converted(
    file: Path, component: str, config: Config, tensors: dict[str, torch.Tensor]
) -> dict[str, torch.Tensor]:
    result: Any
    if component == "text_encoder":
        result = converters.convert_ldm_clip_checkpoint(tensors)
    elif component == "text_encoder_2":
        result = converters.convert_open_clip_checkpoint(None, tensors, PREFIXES[component])
    else:
        full = dict(empty_model(component, config, file).config)
        convert = (
            converters.convert_ldm_unet_checkpoint
            if component == "unet"
            else converters.convert_ldm_vae_checkpoint
        )
        result = convert(tensors, full)
    return dict(result)
