"""What the denoiser's graph really gets: the inputs of denoise loops, to calibrate its int8 or fp8."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import numpy as np
import torch

from backdrop_export import edge_encoder
from backdrop_export.bundles import DENOISER, SCHEDULER, Bundle
from backdrop_export.engines import ENGINE_KINDS, Arrays, Network, load_network
from backdrop_export.samples import ENCODERS, Size, sample_inputs
from backdrop_server.errors import SetupError
from backdrop_server.stages.edge_encoder import EdgeEncoder

_ENCODERS = tuple(name for name in ENCODERS if name.endswith("encoder"))
_GUIDANCE = 7.5
_WEIGHTS = ((0.9, 0.5), (0.5, 1.0), (0.2, 0.3))
"""``cn_weight`` and ``ip_adapter_weight``, by turns: the first are the contract's defaults."""


def sample_requests(bundle: Bundle, count: int, size: Size) -> list[Arrays]:
    """Seeded requests as ``preprocess`` would hand them on: stand-ins where no real ones are.

    Each holds one row of every encoder's inputs, and ``edges`` uint8 [H, W]. ``size`` gives height
    and width.
    """
    one = Size(1, size.height, size.width)
    requests = []
    for seed in range(count):
        drawn = np.random.default_rng((seed, 1)).random((size.height, size.width))
        request: Arrays = {"edges": np.where(drawn < 0.1, 255, 0).astype(np.uint8)}
        for graph in _ENCODERS:
            request |= sample_inputs(bundle, graph, one, seed)
        requests.append(request)
    return requests


def calibration_batches(
    bundle: Bundle, graphs: Path, requests: Iterable[Arrays], steps: int = 20, kept: int = 5
) -> Iterator[Arrays]:
    """Inputs of ``unet_controlnet`` (2 rows each) from real denoise loops in fp32 on the CPU.

    ``graphs`` holds the bundle's ONNX files. Each of ``requests`` (what ``preprocess`` hands on)
    goes through the encoders and ``steps`` Euler steps with guidance; ``kept`` evaluations, spread
    over the loop from all noise to almost none, are given. Raises SetupError for a missing graph.
    """
    networks = {name: _network(graphs / f"{name}.onnx") for name in (*_ENCODERS, DENOISER)}
    encode_edges = EdgeEncoder(edge_encoder.load_weights(bundle), torch.device("cpu"))
    keep = {round(step) for step in np.linspace(0, steps - 1, kept)}
    for seed, request in enumerate(requests):
        conditioning = _condition(bundle, networks, encode_edges, request, seed)
        loop = _denoise(bundle, networks[DENOISER], conditioning, steps, seed)
        yield from (inputs for step, inputs in enumerate(loop) if step in keep)


def _network(path: Path) -> Network:
    if not path.is_file():
        raise SetupError(f"there is no ONNX graph at {path}; export the bundle first")
    return load_network(ENGINE_KINDS["onnxruntime-fp32"], path)


def _condition(
    bundle: Bundle,
    networks: Mapping[str, Network],
    encode_edges: EdgeEncoder,
    request: Arrays,
    seed: int,
) -> Arrays:
    """All inputs of the denoiser that stay the same over the loop, in two rows."""
    facts = bundle.facts()
    encoded: Arrays = {}
    for graph in _ENCODERS:
        names = [tensor.name for tensor in ENCODERS[graph].inputs]
        encoded |= networks[graph]({name: request[name] for name in names})
    height, width = request["mask"].shape[-2:]
    factor, channels = facts.vae_scale_factor, facts.latent_channels
    holes = (request["mask"][:, None, ::factor, ::factor] >= 128).astype(np.float32)
    masked = encoded["image_moments"][:, 1, :channels] * np.float32(facts.vae_scaling_factor)
    weights = np.array(_WEIGHTS[seed % len(_WEIGHTS)], np.float32)
    inpaint = np.concatenate([holes, masked], axis=1)
    time_ids = np.array([height, width, 0, 0, height, width], np.float32)
    edges = encode_edges(torch.from_numpy(request["edges"]))
    return {
        "inpaint_latents": np.repeat(inpaint, 2, axis=0),
        "prompt_embeds": encoded["prompt_embeds"][0],
        "pooled_prompt_embeds": encoded["pooled_prompt_embeds"][0],
        "image_embeds": encoded["image_embeds"][0],
        "time_ids": np.tile(time_ids, (2, 1)),
        "edge_embeds": edges[None].expand(2, -1, -1, -1).numpy(),
        "cn_weight": np.repeat(weights[:1], 2),
        "ip_adapter_weight": np.repeat(weights[1:], 2),
    }


def _denoise(
    bundle: Bundle, unet: Network, conditioning: Arrays, steps: int, seed: int
) -> Iterator[Arrays]:
    """The inputs of each evaluation of one denoise loop with the bundle's Euler sampler."""
    from diffusers import EulerDiscreteScheduler

    scheduler = EulerDiscreteScheduler.from_config(bundle.config(SCHEDULER))
    scheduler.set_timesteps(steps)
    area = conditioning["inpaint_latents"].shape[-2:]
    generator = torch.Generator("cpu").manual_seed(seed)
    latents = torch.randn((1, bundle.facts().latent_channels, *area), generator=generator)
    latents *= scheduler.init_noise_sigma
    for timestep in scheduler.timesteps:
        sample = scheduler.scale_model_input(latents, timestep).repeat(2, 1, 1, 1).numpy()
        inputs = conditioning | {
            "sample": sample,
            "timestep": np.full(2, float(timestep), np.float32),
        }
        yield inputs
        without, with_prompt = torch.from_numpy(unet(inputs)["noise_pred"]).chunk(2)
        noise = without + _GUIDANCE * (with_prompt - without)
        latents = scheduler.step(noise, timestep, latents, generator=generator).prev_sample
