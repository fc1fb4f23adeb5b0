"""From a bundle's files to the torch modules that are exported."""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import torch
from diffusers import AutoencoderKL, ControlNetModel, UNet2DConditionModel
from diffusers.models.embeddings import ImageProjection
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn
from transformers import (
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPVisionModelWithProjection,
)
from transformers.utils.logging import (
    disable_progress_bar,
    enable_progress_bar,
    is_progress_bar_enabled,
)

from backdrop_export.bundles import DENOISER, IP_ADAPTER, PREPROCESSOR, Bundle
from backdrop_export.graphs import (
    ImageEncoder,
    TextEncoder,
    UnetControlnet,
    VaeDecoder,
    VaeEncoder,
    install_ip_adapter,
)
from backdrop_server.errors import SetupError


def load_graph(bundle: Bundle, graph: str, dtype: torch.dtype = torch.float32) -> nn.Module:
    """The module of ``graph`` with weights of ``dtype``, ready to trace.

    A VAE whose configuration says that it must be upcast stays in FP32. Raises SetupError naming
    the bundle's file, and the key in it, that is missing or does not fit.
    """
    makers = {
        "text_encoder": _text_encoder,
        "image_encoder": _image_encoder,
        "vae_encoder": lambda bundle, dtype: VaeEncoder(load_vae(bundle, dtype)),
        "vae_decoder": lambda bundle, dtype: VaeDecoder(load_vae(bundle, dtype)),
        DENOISER: _unet_controlnet,
    }
    module: nn.Module = makers[graph](bundle, dtype).eval()
    return module.requires_grad_(False)


def load_vae(bundle: Bundle, dtype: torch.dtype = torch.float32) -> Any:
    """The bundle's ``AutoencoderKL``."""
    upcast = bundle.config("vae/config.json").get("force_upcast", True)
    return _diffusers(AutoencoderKL, bundle, "vae", torch.float32 if upcast else dtype)


def _diffusers(model_class: Any, bundle: Bundle, folder: str, dtype: torch.dtype) -> Any:
    return _load(
        lambda: model_class.from_pretrained(
            bundle.path / folder, torch_dtype=dtype, output_loading_info=True
        ),
        bundle,
        folder,
    )


def _transformers(model_class: Any, bundle: Bundle, folder: str, dtype: torch.dtype) -> Any:
    return _load(
        lambda: model_class.from_pretrained(
            bundle.path / folder,
            dtype=dtype,
            attn_implementation="eager",
            output_loading_info=True,
        ),
        bundle,
        folder,
    )


def _load(from_pretrained: Any, bundle: Bundle, folder: str) -> Any:
    with _quiet_loading():
        try:
            model, info = from_pretrained()
        except Exception as error:  # the libraries raise whatever their parsers raise
            reason = str(error).strip().partition("\n")[0]
            raise SetupError(
                f"bundle {bundle.name}: {folder} cannot be loaded: {reason}"
            ) from error
    for problem in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        keys = sorted(str(key) for key in info.get(problem, ()))
        if keys:
            raise SetupError(
                f"bundle {bundle.name}: the weights in {folder} have "
                f"{problem.replace('_', ' ')}: {keys[0]}" + _and_more(keys)
            )
    return model


def _and_more(keys: list[str]) -> str:
    return f" and {len(keys) - 1} more" if len(keys) > 1 else ""


@contextlib.contextmanager
def _quiet_loading() -> Iterator[None]:
    """Hold back the libraries' progress bars, and their warnings: ``_load`` says it in a sentence."""
    bars = is_progress_bar_enabled()
    disable_progress_bar()
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(logging.NOTSET)
        if bars:
            enable_progress_bar()


def _text_encoder(bundle: Bundle, dtype: torch.dtype) -> nn.Module:
    return TextEncoder(
        _transformers(CLIPTextModel, bundle, "text_encoder", dtype),
        _transformers(CLIPTextModelWithProjection, bundle, "text_encoder_2", dtype),
    )


def _image_encoder(bundle: Bundle, dtype: torch.dtype) -> nn.Module:
    vision = _transformers(CLIPVisionModelWithProjection, bundle, "image_encoder", dtype)
    projection = _image_projection(bundle, vision.config.projection_dim).to(dtype)
    mean = bundle.value(PREPROCESSOR, "image_mean")
    return ImageEncoder(vision, projection, mean, bundle.value(PREPROCESSOR, "image_std"))


def _ip_adapter(bundle: Bundle, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    path: Path = bundle.path / IP_ADAPTER
    try:
        weights: dict[str, torch.Tensor] = load_file(path)
    except SafetensorError as error:
        raise SetupError(f"bundle {bundle.name}: {IP_ADAPTER} is damaged: {error}") from error
    return {key: value.to(dtype) for key, value in weights.items()}


def _image_projection(bundle: Bundle, embed_dim: int) -> nn.Module:
    """The base adapter's projection: CLIP's embedding to a few tokens."""
    weights = _ip_adapter(bundle, torch.float32)
    if "image_proj.latents" in weights:
        raise SetupError(
            f"bundle {bundle.name}: {IP_ADAPTER} is a plus variant; only the base variant is known"
        )
    try:
        width = weights["image_proj.norm.weight"].shape[0]
        rows, found = weights["image_proj.proj.weight"].shape
        projection = ImageProjection(
            image_embed_dim=found, cross_attention_dim=width, num_image_text_embeds=rows // width
        )
        state = {
            f"{ours}.{kind}": weights[f"image_proj.{theirs}.{kind}"]
            for ours, theirs in (("image_embeds", "proj"), ("norm", "norm"))
            for kind in ("weight", "bias")
        }
    except KeyError as error:
        raise _missing_key(bundle, error) from error
    if found != embed_dim:
        raise SetupError(
            f"bundle {bundle.name}: image_proj.proj.weight in {IP_ADAPTER} takes {found} values, "
            f"image_encoder gives {embed_dim}"
        )
    projection.load_state_dict(state)
    return cast(nn.Module, projection)


def _missing_key(bundle: Bundle, error: KeyError) -> SetupError:
    return SetupError(f"bundle {bundle.name}: {IP_ADAPTER} lacks the key {error.args[0]}")


def _unet_controlnet(bundle: Bundle, dtype: torch.dtype) -> nn.Module:
    unet = _diffusers(UNet2DConditionModel, bundle, "unet", dtype)
    controlnet = _diffusers(ControlNetModel, bundle, "controlnet", dtype)
    try:
        install_ip_adapter(unet, _ip_adapter(bundle, dtype))
    except KeyError as error:
        raise _missing_key(bundle, error) from error
    return UnetControlnet(unet, controlnet)
