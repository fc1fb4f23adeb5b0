"""ControlNet's edge encoder, taken out of the denoiser: its weights in a file beside the engine."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from backdrop_export.bundles import EDGE_ENCODER, Bundle
from backdrop_export.loading import bundle_part
from backdrop_export.weight_files import load_tensors

Weights = dict[str, npt.NDArray[np.float32]]


def weights_of(controlnet: nn.Module) -> Weights:
    """Of diffusers' ``ControlNetModel``, as ``backdrop_server.stages.edge_encoder`` takes them."""
    return _as_arrays(controlnet.get_submodule(EDGE_ENCODER).state_dict())


def load_weights(bundle: Bundle) -> Weights:
    """Of the bundle's ControlNet; of its files only this part is read."""
    keys = bundle_part(bundle, "controlnet").keys
    wanted = {name: key for name, key in keys.items() if name.startswith(f"{EDGE_ENCODER}.")}
    files = {file: load_tensors(file) for file in {key.file for key in wanted.values()}}
    return _as_arrays(
        {
            name.removeprefix(f"{EDGE_ENCODER}."): files[key.file][key.name]
            for name, key in wanted.items()
        }
    )


def write_weights(bundle: Bundle, path: Path) -> None:
    """Write ``path`` as an ``.npz`` file."""
    np.savez(path, **load_weights(bundle))


def _as_arrays(tensors: Mapping[str, torch.Tensor]) -> Weights:
    return {name: tensor.float().cpu().numpy() for name, tensor in tensors.items()}
