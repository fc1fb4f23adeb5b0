"""The one place that knows in what form ``stages.denoise`` takes and gives its arrays."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from backdrop_server.stages import denoise
from benchmarks.gpu.graphs import DENOISER, Graphs


def for_loop(tensor: torch.Tensor) -> npt.NDArray[Any]:
    """A tensor on the device as the loop takes it."""
    array: npt.NDArray[Any] = tensor.cpu().numpy()
    return array


def unet_for_loop(graphs: Graphs, device: str) -> denoise.UNet:
    """The denoiser, which takes and gives tensors on ``device``, as the loop calls it."""

    def unet(batch: denoise.Batch) -> npt.NDArray[np.float32]:
        tensors = {
            name: torch.from_numpy(np.ascontiguousarray(array)).to(device)
            for name, array in batch.items()
        }
        noise: npt.NDArray[np.float32] = graphs[DENOISER](tensors)["noise_pred"].cpu().numpy()
        return noise

    return unet
