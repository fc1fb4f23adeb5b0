"""A linear map from scaled latents to RGB, fitted once per VAE: previews without a decoder run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional

from backdrop_export.bundles import Bundle
from backdrop_export.loading import load_vae

_PICTURES = 256
_SIDE = 64
_BATCH = 32


def fit_preview(bundle: Bundle) -> dict[str, npt.NDArray[Any]]:
    """``matrix`` [channels, 3] and ``bias`` [3], FP32: scaled latents to RGB in 0..1.

    Least squares over seeded smooth pictures that the VAE encodes.
    """
    vae = load_vae(bundle)
    factor = bundle.facts().vae_scale_factor
    latents, colours = [], []
    for pictures in torch.split(smooth_pictures(_PICTURES, _SIDE), _BATCH):
        with torch.inference_mode():
            encoded = vae.encode(pictures * 2 - 1).latent_dist.mean * vae.config.scaling_factor
            pooled = functional.avg_pool2d(pictures, factor)
        latents.append(encoded.movedim(1, -1).flatten(0, 2).double().numpy())
        colours.append(pooled.movedim(1, -1).flatten(0, 2).double().numpy())
    inputs = np.concatenate(latents)
    inputs = np.concatenate([inputs, np.ones((len(inputs), 1))], axis=1)
    solution = np.linalg.lstsq(inputs, np.concatenate(colours), rcond=None)[0]
    return {
        "matrix": solution[:-1].astype(np.float32),
        "bias": solution[-1].astype(np.float32),
    }


def smooth_pictures(count: int, side: int) -> torch.Tensor:
    """[count, 3, side, side] in 0..1: seeded colour noise at 4 x 4, enlarged."""
    generator = np.random.default_rng(0)
    coarse = torch.from_numpy(generator.random((count, 3, 4, 4), dtype=np.float32))
    return functional.interpolate(coarse, size=(side, side), mode="bilinear", align_corners=False)


def write_preview(bundle: Bundle, path: Path) -> None:
    """Fit and write ``path`` as an ``.npz`` file."""
    np.savez(path, **fit_preview(bundle))
