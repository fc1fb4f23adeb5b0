"""Inputs for tracing a graph and for comparing it with torch."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import numpy.typing as npt

from backdrop_export.bundles import DENOISER, Bundle
from backdrop_server import contract
from backdrop_server.contract import Model, Tensor

Arrays = dict[str, npt.NDArray[Any]]

ENCODERS: dict[str, Model] = {
    model.name: model
    for model in (
        contract.TEXT_ENCODER,
        contract.IMAGE_ENCODER,
        contract.VAE_ENCODER,
        contract.VAE_DECODER,
    )
}
"""The graphs that are Triton models of their own; they have a batch dimension in front."""


@dataclasses.dataclass(frozen=True)
class Size:
    """Batch (rows for the denoiser), and picture height and width in pixels."""

    batch: int
    height: int
    width: int

    def __str__(self) -> str:
        return f"{self.batch} x {self.width}x{self.height}"


EXAMPLE = Size(2, 128, 192)
"""What graphs are traced with: no size of 1, no two sizes the same."""
CHECKS = (Size(1, 192, 64), Size(3, 64, 128))
"""What graphs are compared with torch at: other batches, other sizes."""


def graph_inputs(graph: str) -> tuple[Tensor, ...]:
    """The contract's inputs of ``graph``."""
    return contract.UNET_CONTROLNET_INPUTS if graph == DENOISER else ENCODERS[graph].inputs


def graph_outputs(graph: str) -> tuple[Tensor, ...]:
    """The contract's outputs of ``graph``."""
    return contract.UNET_CONTROLNET_OUTPUTS if graph == DENOISER else ENCODERS[graph].outputs


def sample_inputs(bundle: Bundle, graph: str, size: Size, seed: int = 0) -> Arrays:
    """Seeded inputs of ``graph`` by name, of the kind that the server gives it."""
    makers = {
        "text_encoder": _text,
        "image_encoder": _reference,
        "vae_encoder": _photo,
        "vae_decoder": _latents,
        DENOISER: _denoiser,
    }
    return makers[graph](bundle, size, np.random.default_rng(seed))


def _pixels(generator: np.random.Generator, *shape: int) -> npt.NDArray[np.uint8]:
    return generator.integers(0, 256, shape, dtype=np.uint8)


def _normal(generator: np.random.Generator, *shape: int) -> npt.NDArray[np.float32]:
    return generator.standard_normal(shape, dtype=np.float32)


def _text(bundle: Bundle, size: Size, generator: np.random.Generator) -> Arrays:
    arrays: Arrays = {}
    for name, folder in (("input_ids", "text_encoder"), ("input_ids_2", "text_encoder_2")):
        last = len(bundle.config(f"{folder.replace('text_encoder', 'tokenizer')}/vocab.json")) - 1
        ids = generator.integers(1, last - 1, (size.batch, 2, 77), dtype=np.int64)
        length = int(generator.integers(4, 70))
        ids[..., 0], ids[..., length:] = last - 1, last
        arrays[name] = ids
    return arrays


def _reference(bundle: Bundle, size: Size, generator: np.random.Generator) -> Arrays:
    side = bundle.facts().clip_image_size
    return {"ref_pixels": _pixels(generator, size.batch, side, side, 3)}


def _photo(bundle: Bundle, size: Size, generator: np.random.Generator) -> Arrays:
    shape = (size.batch, size.height, size.width)
    return {"working_image": _pixels(generator, *shape, 3), "mask": _pixels(generator, *shape)}


def _latents(bundle: Bundle, size: Size, generator: np.random.Generator) -> Arrays:
    facts = bundle.facts()
    factor = facts.vae_scale_factor
    shape = (facts.latent_channels, size.height // factor, size.width // factor)
    return {"latents": _normal(generator, size.batch, 2, *shape)}


def _denoiser(bundle: Bundle, size: Size, generator: np.random.Generator) -> Arrays:
    facts = bundle.facts()
    rows, channels = size.batch, facts.latent_channels
    area = (size.height // facts.vae_scale_factor, size.width // facts.vae_scale_factor)
    width = int(bundle.value("unet/config.json", "cross_attention_dim"))
    pooled = int(bundle.value("text_encoder_2/config.json", "projection_dim"))
    time_ids = np.array([size.height, size.width, 0, 0, size.height, size.width], np.float32)
    edge_channels = int(bundle.value("controlnet/config.json", "block_out_channels")[0])
    mask = (generator.random((rows, 1, *area)) < 0.5).astype(np.float32)
    return {
        "sample": _normal(generator, rows, channels, *area),
        "inpaint_latents": np.concatenate([mask, _normal(generator, rows, channels, *area)], 1),
        "timestep": np.linspace(981, 21.5, rows, dtype=np.float32),
        "prompt_embeds": _normal(generator, rows, 77, width),
        "pooled_prompt_embeds": _normal(generator, rows, pooled),
        "time_ids": np.tile(time_ids, (rows, 1)),
        "image_embeds": _normal(generator, rows, bundle.image_tokens(), width),
        "edge_embeds": _normal(generator, rows, edge_channels, *area),
        "cn_weight": np.linspace(0.9, 0.2, rows, dtype=np.float32),
        "ip_adapter_weight": np.linspace(0.3, 1.0, rows, dtype=np.float32),
    }
