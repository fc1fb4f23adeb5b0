"""Training of the VAE on crops of the rendered pictures, and the pictures' latents."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from backdrop_export.training.colour_path import wire_colours
from backdrop_export.training.dataset import Dataset, Pixels
from backdrop_export.training.loop import Progress, Schedule, train

CROP = 96
_LEVELS = 4
_NOISE = 0.05
"""Deviation of the noise on the latents in training, and the one that the encoder is to tell."""
_LOG_VARIANCE = 2 * math.log(_NOISE)
_SIZE = 1e-3
"""Weight of the latents' mean square, which keeps their deviation near 1."""


def new_vae(config: dict[str, Any], seed: int) -> Any:
    """A fresh ``AutoencoderKL`` that passes colours on."""
    from diffusers import AutoencoderKL

    torch.manual_seed(seed)
    vae = AutoencoderKL(**config)
    wire_colours(vae)
    return vae


def train_vae(
    config: dict[str, Any],
    data: Dataset,
    schedule: Schedule,
    file: Path,
    seed: int,
    progress: Progress,
) -> Any:
    """The VAE with averaged weights."""
    vae, average = new_vae(config, seed), new_vae(config, seed)

    def loss_of_step(rng: np.random.Generator, _: float) -> torch.Tensor:
        pictures = _tensor(_crops(data, rng, schedule.batch))
        with torch.autocast("cpu", torch.bfloat16):
            posterior = vae.encode(pictures).latent_dist
            mean = posterior.mean
            decoded = vae.decode(mean + _NOISE * torch.randn_like(mean)).sample
        narrow = (posterior.logvar.float() - _LOG_VARIANCE).square().mean()
        wide = mean.float().square().mean()
        loss = reconstruction_loss(decoded.float(), pictures)
        total: torch.Tensor = loss + 0.001 * narrow + _SIZE * wide
        return total

    return train(vae, average, schedule, loss_of_step, file, seed, progress)


def reconstruction_loss(decoded: torch.Tensor, pictures: torch.Tensor) -> torch.Tensor:
    """L1 of the pixels and of each band of a pyramid, which holds edges sharp; colours weigh most."""
    difference = decoded - pictures
    loss = difference.abs().mean()
    for _ in range(_LEVELS):
        coarse = functional.avg_pool2d(difference, 2)
        band = difference - functional.interpolate(coarse, scale_factor=2, mode="nearest")
        loss = loss + band.abs().mean()
        difference = coarse
    return loss + 4 * (difference.square().mean() + difference.abs().mean())


def _crops(data: Dataset, rng: np.random.Generator, count: int) -> list[Pixels]:
    crops = []
    for _ in range(count):
        index = int(rng.integers(data.count))
        scene = "graded" if rng.random() < 0.4 else "scene"
        draw = rng.random()
        if draw < 0.7:
            picture = data.composite(index, scene)
        elif draw < 0.9:
            picture = data.arrays[scene][index]
        else:  # what the masked photo is: the product on mid grey
            photo, mask = data.masked(index)
            picture = np.where(mask[..., None] > 0, 128, photo).astype(np.uint8)
        top, left = rng.integers(0, picture.shape[0] - CROP + 1, 2)
        crop = picture[top : top + CROP, left : left + CROP]
        crops.append(crop[:, ::-1] if rng.random() < 0.5 else crop)
    return crops


def _tensor(pictures: list[Pixels]) -> torch.Tensor:
    return torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).float() / 127.5 - 1


@torch.inference_mode()
def encode(vae: Any, pictures: list[Pixels]) -> torch.Tensor:
    """Unscaled latent means, float32 [N, 4, side / 8, side / 8]."""
    with torch.autocast("cpu", torch.bfloat16):
        mean: torch.Tensor = vae.encode(_tensor(pictures)).latent_dist.mean
    return mean.float()


def fit_scaling_factor(vae: Any, data: Dataset) -> None:
    """Set the ``scaling_factor`` under which the pictures' latents have a deviation of 1."""
    indices = np.linspace(0, data.count - 1, min(data.count, 128)).astype(int)
    parts = [encode(vae, [data.composite(int(index), "scene")]) for index in indices]
    vae.register_to_config(scaling_factor=round(1 / float(torch.cat(parts).std()), 5))
