"""The server's five graphs over the random networks, as the export makes them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from diffusers.models.embeddings import ImageProjection
from torch import nn

from backdrop_export.graphs import (
    ImageEncoder,
    TextEncoder,
    UnetControlnet,
    VaeDecoder,
    VaeEncoder,
    install_ip_adapter,
)
from backdrop_server import contract
from benchmarks.gpu.architecture import CLIP_MEAN, CLIP_STD, IMAGE_TOKENS, Architecture
from benchmarks.gpu.networks import Networks

Tensors = dict[str, torch.Tensor]
Network = Callable[[Tensors], Tensors]
"""Tensors in and out by the contract's names."""
Graphs = Mapping[str, Network]
"""The five networks that a picture needs, by the names of DENOISER and ENCODERS."""

DENOISER = "unet_controlnet"
ENCODERS = ("text_encoder", "image_encoder", "vae_encoder", "vae_decoder")
GRAPHS = (*ENCODERS, DENOISER)

_MODELS = {
    model.name: (model.inputs, model.outputs)
    for model in (
        contract.TEXT_ENCODER,
        contract.IMAGE_ENCODER,
        contract.VAE_ENCODER,
        contract.VAE_DECODER,
    )
}
_SIGNATURES = _MODELS | {
    DENOISER: (contract.UNET_CONTROLNET_INPUTS, contract.UNET_CONTROLNET_OUTPUTS)
}


def input_names(graph: str) -> list[str]:
    """The contract's inputs of ``graph``, in the module's order."""
    return [tensor.name for tensor in _SIGNATURES[graph][0]]


def output_names(graph: str) -> list[str]:
    """The contract's outputs of ``graph``, in the module's order."""
    return [tensor.name for tensor in _SIGNATURES[graph][1]]


def graph_modules(networks: Networks, architecture: Architecture) -> dict[str, nn.Module]:
    """The five graphs as modules that take and give FP32, whatever the weights are kept in.

    The UNet's attention becomes the graph's own; ``networks`` are of no use to diffusers after it.
    """
    install_ip_adapter(
        networks.unet,
        {f"ip_adapter.{key}": value for key, value in networks.ip_adapter["ip_adapter"].items()},
    )
    vae = networks.vae
    _take_own_precision(networks.unet, networks.controlnet, vae.encoder, vae.post_quant_conv)
    with torch.device(networks.device), torch.no_grad():
        projection = _image_projection(networks, architecture)
        modules: dict[str, nn.Module] = {
            "text_encoder": TextEncoder(networks.text_encoder, networks.text_encoder_2),
            "image_encoder": ImageEncoder(networks.image_encoder, projection, CLIP_MEAN, CLIP_STD),
            "vae_encoder": VaeEncoder(vae),
            "vae_decoder": VaeDecoder(vae),
            DENOISER: UnetControlnet(networks.unet, networks.controlnet),
        }
    return {name: Fp32Out(module).eval() for name, module in modules.items()}


class Fp32Out(nn.Module):
    """A graph whose floating-point outputs are FP32, as the contract says."""

    def __init__(self, graph: nn.Module) -> None:
        super().__init__()
        self.inner = graph

    def forward(self, *inputs: torch.Tensor) -> torch.Tensor | tuple[torch.Tensor, ...]:
        """The graph's outputs; a tuple where it has several."""
        outputs = self.inner(*inputs)
        if isinstance(outputs, tuple):
            return tuple(_as_fp32(output) for output in outputs)
        return _as_fp32(outputs)


def _as_fp32(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.float() if tensor.is_floating_point() else tensor


def as_network(graph: str, module: Callable[..., Any]) -> Network:
    """``module``, which takes tensors in the contract's order, as a network by names."""
    inputs, outputs = input_names(graph), output_names(graph)

    def network(tensors: Tensors) -> Tensors:
        with torch.inference_mode():
            made = module(*(tensors[name] for name in inputs))
        values = made if isinstance(made, tuple) else (made,)
        return dict(zip(outputs, values, strict=True))

    return network


def _image_projection(networks: Networks, architecture: Architecture) -> nn.Module:
    projection: nn.Module = ImageProjection(
        image_embed_dim=architecture.vision.projection,
        cross_attention_dim=architecture.prompt_width,
        num_image_text_embeds=IMAGE_TOKENS,
    )
    weights = networks.ip_adapter["image_proj"]
    projection = projection.to(networks.dtype).requires_grad_(False)
    projection.load_state_dict(
        {key.replace("proj.", "image_embeds."): value for key, value in weights.items()}
    )
    return projection


def _take_own_precision(*modules: Any) -> None:
    """Let ``modules`` cast what they are given to their weights' type, the timestep left alone."""
    for module in modules:
        module.register_forward_pre_hook(_cast_inputs, with_kwargs=True)


def _cast_inputs(module: nn.Module, args: Any, kwargs: dict[str, Any]) -> tuple[Any, Any]:
    dtype = next(module.parameters()).dtype
    # FP16 cannot hold a fractional timestep near 1000; the networks embed it in FP32 themselves.
    args = tuple(arg if index == 1 else _cast(arg, dtype) for index, arg in enumerate(args))
    return args, {name: _cast(value, dtype) for name, value in kwargs.items()}


def _cast(value: Any, dtype: torch.dtype) -> Any:
    if isinstance(value, torch.Tensor):
        return value.to(dtype) if value.is_floating_point() else value
    if isinstance(value, (tuple, list)):
        return type(value)(_cast(item, dtype) for item in value)
    if isinstance(value, dict):
        return {name: _cast(item, dtype) for name, item in value.items()}
    return value
