"""Joint training of the UNet, the ControlNet and the IP-Adapter on precomputed conditions.

Velocity prediction (Salimans and Ho, 2022) on the published noise schedule. Each row draws which of
its conditions it has, so that one network learns them together and apart:

- ``cn_weight``: the target shows the product with that opacity. At 0 it is the scene alone: what
  the raw output shows of the product comes through the ControlNet.
- ``ip_adapter_weight``: 0, 1 or between, with the look of the target itself or of another scene in
  the same palette, or with the unconditional tokens.
- the prompt: a caption, or zeros, as the server gives without a negative prompt.
- the mask: the product's, or everything.

The first share of the steps runs on latents of half the side, at a quarter of the cost.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel

from backdrop_export.architectures import IMAGE_TOKENS, SCHEDULER, Architecture
from backdrop_export.ip_attention import RowWeightedIPAttention
from backdrop_export.training.conditions import CAPTIONS, LOOKS, Conditions
from backdrop_export.training.dataset import SIDE
from backdrop_export.training.loop import Progress, Schedule, train

SMALL_SHARE = 0.5
"""Share of the steps on latents of half the side."""
_TIMESTEPS = 1000
_TIME_IDS = [float(SIDE), float(SIDE), 0.0, 0.0, float(SIDE), float(SIDE)]


class Denoiser(nn.Module):
    """The serving graph's module, trainable, with the IP-Adapter's image projection beside it."""

    def __init__(self, architecture: Architecture) -> None:
        from diffusers import ControlNetModel, UNet2DConditionModel
        from diffusers.models.embeddings import ImageProjection

        super().__init__()
        unet = UNet2DConditionModel(**architecture.unet())
        _trainable_adapter(unet)
        self.unet = unet
        self.controlnet = ControlNetModel(**architecture.controlnet())
        self.projection = ImageProjection(
            image_embed_dim=architecture.vision.projection,
            cross_attention_dim=architecture.cross_attention_dim,
            num_image_text_embeds=IMAGE_TOKENS,
        )

    def forward(self, batch: Batch) -> torch.Tensor:
        """The network's answer [N, 4, h, w] to noised latents under the batch's conditions.

        As ``graphs.UnetControlnet``, but the ControlNet runs for the controlled rows alone.
        """
        rows, steered = len(batch.noised), batch.controlled
        added = {"text_embeds": batch.pooled, "time_ids": torch.tensor(_TIME_IDS).expand(rows, 6)}
        down, mid = self.controlnet(
            batch.noised[:steered],
            batch.timesteps[:steered],
            encoder_hidden_states=batch.prompt[:steered],
            controlnet_cond=batch.edges[:, None].float().div(255).expand(-1, 3, -1, -1),
            conditioning_scale=batch.cn_weight.view(-1, 1, 1, 1),
            added_cond_kwargs={name: value[:steered] for name, value in added.items()},
            return_dict=False,
        )
        image = (self.projection(batch.look), batch.ip_adapter_weight.view(-1, 1, 1))
        (predicted,) = self.unet(
            torch.cat([batch.noised, batch.mask, batch.masked], dim=1),
            batch.timesteps,
            encoder_hidden_states=(batch.prompt, *image),
            added_cond_kwargs=added,
            down_block_additional_residuals=[_padded(part, rows) for part in down],
            mid_block_additional_residual=_padded(mid, rows),
            return_dict=False,
        )
        return predicted  # type: ignore[no-any-return]


def _padded(part: torch.Tensor, rows: int) -> torch.Tensor:
    """Zeros for the rows that have no ControlNet."""
    return torch.cat([part, part.new_zeros(rows - len(part), *part.shape[1:])])


def _trainable_adapter(unet: Any) -> None:
    """The IP-Adapter's keys and values start as copies of the prompt's; values are small."""
    processors = dict(unet.attn_processors)
    for name in processors:
        if name.endswith("attn2.processor"):
            attention = unet.get_submodule(name.removesuffix(".processor"))
            key, value = attention.to_k.weight.detach(), attention.to_v.weight.detach()
            processor = RowWeightedIPAttention(key.clone(), 0.1 * value.clone())
            processors[name] = processor.requires_grad_(True)
    unet.set_attn_processor(processors)


@dataclasses.dataclass
class Batch:
    """Rows of a step: what the networks get, and the velocity that they are to answer.

    The first rows are controlled; ``edges`` and ``cn_weight`` are of those alone.
    """

    noised: torch.Tensor
    target: torch.Tensor
    timesteps: torch.Tensor
    mask: torch.Tensor
    masked: torch.Tensor
    prompt: torch.Tensor
    pooled: torch.Tensor
    look: torch.Tensor
    edges: torch.Tensor
    cn_weight: torch.Tensor
    ip_adapter_weight: torch.Tensor

    @property
    def controlled(self) -> int:
        """Rows for which the ControlNet runs."""
        return len(self.cn_weight)


def signal_shares() -> torch.Tensor:
    """The schedule's cumulative alphas [1000]."""
    low, high = SCHEDULER["beta_start"] ** 0.5, SCHEDULER["beta_end"] ** 0.5  # type: ignore[operator]
    betas = torch.linspace(low, high, _TIMESTEPS, dtype=torch.float64) ** 2
    return torch.cumprod(1 - betas, dim=0).float()


def train_denoiser(
    architecture: Architecture, conditions: Conditions, blank: torch.Tensor, schedule: Schedule,
    file: Path, seed: int, progress: Progress,
) -> Denoiser:  # fmt: skip
    """The networks with averaged weights; ``blank`` [4, h, w] are the scaled latents of mid grey."""
    torch.manual_seed(seed)
    denoiser, average = Denoiser(architecture), Denoiser(architecture)
    for module in (denoiser, average):  # a tenth faster than rows of channels
        module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    shares = signal_shares()

    def loss_of_step(rng: np.random.Generator, done: float) -> torch.Tensor:
        small = done < SMALL_SHARE
        rows = schedule.batch * (2 if small else 1)
        batch = draw_batch(conditions, blank, shares, rng, rows, small)
        with torch.autocast("cpu", torch.bfloat16), sdpa_kernel(SDPBackend.MATH):
            predicted = denoiser(batch)
        return functional.mse_loss(predicted.float(), batch.target)

    train(denoiser, average, schedule, loss_of_step, file, seed, progress)
    return average


def draw_batch(
    conditions: Conditions, blank: torch.Tensor, shares: torch.Tensor,
    rng: np.random.Generator, rows: int, small: bool,
) -> Batch:  # fmt: skip
    """Draw pictures, conditions, timesteps and noise; ``small`` halves the side."""
    arrays = conditions.arrays
    index = rng.integers(0, conditions.count, rows)
    steered = rows // 2
    everything = torch.from_numpy(rng.random(rows) < 0.12)
    cn_weight = _cn_weights(rng, steered)
    opacity = torch.zeros(rows)
    opacity[:steered] = cn_weight * ~everything[:steered]
    scene, composite = (_rows(arrays[name], index) for name in ("scene", "composite"))
    clean = scene + (composite - scene) * opacity.view(-1, 1, 1, 1)
    whole = everything.view(-1, 1, 1, 1)
    mask = torch.where(whole, 1.0, _rows(arrays["mask"], index)[:, None])
    masked = torch.where(whole, blank, _rows(arrays["masked"], index))
    edges = _edges(arrays["edges"][index[:steered]], everything[:steered])
    if small:
        clean, masked = (functional.avg_pool2d(latents, 2) for latents in (clean, masked))
        mask = mask[:, :, ::2, ::2]
        edges = functional.max_pool2d(edges[:, None].float(), 2)[:, 0].to(torch.uint8)
    if rng.random() < 0.5:  # left and right mean nothing here
        clean, masked, mask, edges = (part.flip(-1) for part in (clean, masked, mask, edges))
    prompt, pooled, look, ip_weight = _semantics(arrays, index, everything.numpy(), rng)
    timesteps = torch.from_numpy(rng.integers(0, _TIMESTEPS, rows))
    share = shares[timesteps].view(-1, 1, 1, 1)
    noise = torch.randn(clean.shape)
    signal, spread = share.sqrt(), (1 - share).sqrt()
    return Batch(
        noised=signal * clean + spread * noise,
        target=signal * noise - spread * clean,
        timesteps=timesteps,
        mask=mask,
        masked=masked,
        prompt=prompt,
        pooled=pooled,
        look=look,
        edges=edges,
        cn_weight=cn_weight,
        ip_adapter_weight=ip_weight,
    )


def _rows(array: np.ndarray[Any, Any], index: np.ndarray[Any, Any]) -> torch.Tensor:
    return torch.from_numpy(array[index].astype(np.float32))


def _edges(bits: np.ndarray[Any, Any], hidden: torch.Tensor) -> torch.Tensor:
    """Edge maps uint8 [N, SIDE, SIDE] in {0, 255}; none where ``hidden``."""
    maps = torch.from_numpy(np.unpackbits(bits, axis=1)).view(-1, SIDE, SIDE)
    return maps * 255 * (~hidden).view(-1, 1, 1)


def _cn_weights(rng: np.random.Generator, rows: int) -> torch.Tensor:
    """1 for more than half of the rows, between 0 and 1 for the rest."""
    weights = np.where(rng.random(rows) < 0.6, 1.0, rng.random(rows))
    return torch.from_numpy(weights).float()


def _semantics(
    arrays: dict[str, Any], index: np.ndarray[Any, Any], bare: np.ndarray[Any, Any],
    rng: np.random.Generator,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:  # fmt: skip
    """Prompts, pooled prompts, looks and the adapter's weights, each dropped now and then."""
    rows = len(index)
    which, view = rng.integers(0, CAPTIONS, rows), rng.integers(0, LOOKS, rows)
    prompt = np.where(
        bare[:, None, None], arrays["bare_prompt"][index, which], arrays["prompt"][index, which]
    )
    pooled = np.where(
        bare[:, None], arrays["bare_pooled"][index, which], arrays["pooled"][index, which]
    )
    spoken = (rng.random(rows) >= 0.12).astype(np.float32)
    draw = rng.random(rows)
    seen = (draw < 0.55) & ((spoken > 0) | (rng.random(rows) < 0.5))
    part = np.where(rng.random(rows) < 0.75, 1.0, rng.random(rows))
    weight = np.where(draw < 0.65, part, 0.0)
    return (
        torch.from_numpy(prompt.astype(np.float32) * spoken[:, None, None]),
        torch.from_numpy(pooled.astype(np.float32) * spoken[:, None]),
        torch.from_numpy(arrays["look"][index, view].astype(np.float32) * seen[:, None]),
        torch.from_numpy(weight.astype(np.float32)),
    )
