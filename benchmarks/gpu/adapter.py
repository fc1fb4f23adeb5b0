"""The one place that knows in what form ``stages.denoise`` takes and gives its arrays."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
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


def unet_for_loop(graphs: Graphs, device: str) -> Any:
    """The denoiser, which takes and gives tensors on ``device``, as the loop calls it."""

    def unet(batch: Mapping[str, Any]) -> Any:
        of_numpy = isinstance(batch["sample"], np.ndarray)
        tensors = {
            name: torch.from_numpy(np.array(value)).to(device) if of_numpy else value
            for name, value in batch.items()
        }
        noise = graphs[DENOISER](tensors)["noise_pred"]
        return noise.cpu().numpy() if of_numpy else noise

    return unet


def device_for_loop(device: str) -> dict[str, Any]:
    """What ``denoise.start`` must be told of the device: nothing, while the loop is on the host."""
    knows = "device" in inspect.signature(denoise.start).parameters
    return {"device": torch.device(device)} if knows else {}
