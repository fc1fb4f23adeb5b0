"""ControlNet's edge encoder: the part of it that sees the edges alone, run once for a request.

The convolutions of diffusers' ``ControlNetConditioningEmbedding`` (Zhang, Rao and Agrawala
2023, section 3.3), with the same weights. In the denoiser's graph they would run at every step, for
every row.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional

from backdrop_server.stages.transfers import upload

Weights = Mapping[str, npt.NDArray[np.float32]]
"""By diffusers' names: weight and bias of ``conv_in``, ``blocks.0`` and so on, ``conv_out``."""


class EdgeEncoder:
    """The encoder with its weights on ``device``, in FP32; on CUDA built, not run."""

    def __init__(self, weights: Weights, device: torch.device) -> None:
        names = ["conv_in", *_blocks(weights), "conv_out"]
        self._layers = [
            tuple(
                upload(torch.from_numpy(weights[f"{name}.{part}"]), device)
                for part in ("weight", "bias")
            )
            for name in names
        ]
        self._device = device

    def __call__(self, edges: torch.Tensor) -> torch.Tensor:
        """Edges uint8 [H, W], 255 = edge, to ``edge_embeds`` [C, h, w] on the device."""
        picture = upload(edges, self._device).float().div(255)
        features = picture.expand(1, 3, *edges.shape)
        last = len(self._layers) - 1
        with torch.inference_mode(), torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
            for number, (weight, bias) in enumerate(self._layers):
                # Of each pair of blocks, after the first layer, the second halves the picture.
                stride = 2 if number % 2 == 0 and 0 < number < last else 1
                features = functional.conv2d(features, weight, bias, stride, padding=1)
                if number < last:
                    features = functional.silu(features, inplace=True)
        return features[0]


def _blocks(weights: Weights) -> list[str]:
    count = sum(name.startswith("blocks.") and name.endswith(".weight") for name in weights)
    return [f"blocks.{number}" for number in range(count)]
