"""The work in a picture, counted: convolutions, linear layers and attention, 2 FLOP a multiply-add.

Counted by torch's own counter on the ``meta`` device, so it needs no memory and no GPU.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from backdrop_server.stages.schedulers import prepare_timesteps
from benchmarks.gpu.architecture import Architecture
from benchmarks.gpu.graphs import DENOISER, graph_modules
from benchmarks.gpu.load import Request
from benchmarks.gpu.networks import Networks, make_networks
from benchmarks.gpu.samplers import Samplers


@dataclasses.dataclass(frozen=True)
class Work:
    """FLOP of one call at one picture size: a row of the denoiser, one picture of the others."""

    unet: int
    controlnet: int
    edge_encoder: int
    """The part of the ControlNet that needs to be run once for a request, whatever its steps."""
    vae_encode: int
    vae_decode: int
    text_encoders: int
    """Both towers, both prompts."""
    image_encoder: int


@functools.cache
def count_work(architecture: Architecture, width: int, height: int) -> Work:
    """Count the graphs of ``architecture`` at a picture size."""
    networks, modules, edge_encoder = _networks(architecture)
    # The counter looks for hooks by module; the two halves of the denoiser are counted apart.
    controlnet = _count(networks.controlnet, **_controlnet_inputs(architecture, width, height))
    denoiser = _count(modules[DENOISER], *_denoiser_inputs(architecture, width, height))
    return Work(
        unet=denoiser - controlnet,
        controlnet=controlnet,
        edge_encoder=_count(edge_encoder, _meta(1, 3, height, width)),
        vae_encode=_count(networks.vae.encoder, _meta(1, 3, height, width)),
        vae_decode=_count(modules["vae_decoder"], _meta(1, 1, 4, height // 8, width // 8)),
        text_encoders=_count(
            modules["text_encoder"], *(_meta(1, 2, 77, dtype=torch.int64) for _ in range(2))
        ),
        image_encoder=_count(modules["image_encoder"], _reference(architecture)),
    )


@functools.cache
def _networks(architecture: Architecture) -> tuple[Networks, dict[str, nn.Module], nn.Module]:
    networks = make_networks(architecture, "meta", torch.float32)
    edge_encoder = networks.controlnet.controlnet_cond_embedding  # the graph is without it
    return networks, graph_modules(networks, architecture), edge_encoder


def flop_of(
    architecture: Architecture,
    requests: Iterable[Request],
    vae_encodes: int = 2,
    edges_at_every_step: bool = False,
) -> float:
    """FLOP that ``requests`` need: encoders once a request, denoiser and decoder for each sample.

    ``vae_encodes``: ours encodes the photo and the masked photo, diffusers at full strength the
    masked photo only. ``edges_at_every_step``: diffusers runs ControlNet's edge encoder for every row
    of every evaluation, ours once. Each way is credited with what it does.
    """
    schedulers = Samplers()
    total = 0.0
    for request in requests:
        work = count_work(architecture, request.width, request.height)
        evaluations = len(prepare_timesteps(schedulers.make(request.sampler), request.steps, 1.0))
        samples = len(request.seeds)
        rows = samples * request.halves
        total += evaluations * rows * (work.unet + work.controlnet)
        total += work.edge_encoder * (evaluations * rows if edges_at_every_step else 1)
        total += work.text_encoders + work.image_encoder
        total += vae_encodes * work.vae_encode
        total += samples * work.vae_decode
    return total


def _count(module: Any, *args: torch.Tensor, **kwargs: Any) -> int:
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        module(*args, **kwargs)
    return int(counter.get_total_flops())


def _meta(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.empty(shape, dtype=dtype, device="meta")


def _reference(architecture: Architecture) -> torch.Tensor:
    side = architecture.clip_side
    return _meta(1, side, side, 3, dtype=torch.uint8)


def _denoiser_inputs(architecture: Architecture, width: int, height: int) -> list[torch.Tensor]:
    """One row, in the contract's order."""
    h, w = height // 8, width // 8
    return [
        _meta(1, 4, h, w),
        _meta(1, 5, h, w),
        _meta(1),
        _meta(1, 77, architecture.prompt_width),
        _meta(1, architecture.text_2.projection),
        _meta(1, 6),
        _meta(1, 4, architecture.prompt_width),
        _meta(1, architecture.unet_channels[0], h, w),
        _meta(1),
        _meta(1),
    ]


def _controlnet_inputs(architecture: Architecture, width: int, height: int) -> dict[str, Any]:
    added = {"text_embeds": _meta(1, architecture.text_2.projection), "time_ids": _meta(1, 6)}
    return {
        "sample": _meta(1, 4, height // 8, width // 8),
        "timestep": _meta(1),
        "encoder_hidden_states": _meta(1, 77, architecture.prompt_width),
        "controlnet_cond": _meta(1, architecture.unet_channels[0], height // 8, width // 8),
        "added_cond_kwargs": added,
    }
