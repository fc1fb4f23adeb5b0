"""Torch tensors at an engine's border; imported only where an engine lives on a device."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from backdrop_server.engines.engine import Expected, check_names
from backdrop_server.errors import EngineError

NUMPY_DTYPES: dict[torch.dtype, np.dtype[Any]] = {
    torch.float32: np.dtype(np.float32),
    torch.uint8: np.dtype(np.uint8),
    torch.int64: np.dtype(np.int64),
    torch.int32: np.dtype(np.int32),
}
_TORCH_DTYPES = {dtype: ours for ours, dtype in NUMPY_DTYPES.items()}


def torch_dtype(dtype: np.dtype[Any]) -> torch.dtype:
    """Torch's type for one of the types that engines take and give."""
    return _TORCH_DTYPES[dtype]


def check_tensors(inputs: Mapping[str, torch.Tensor], expected: Expected, device: str) -> None:
    """Raise EngineError unless ``inputs`` has the expected names, types and ranks on ``device``."""
    check_names(inputs, expected)
    for name, (dtype, rank) in expected.items():
        tensor = inputs[name]
        if tensor.dtype != torch_dtype(dtype) or tensor.ndim != rank:
            found = str(tensor.dtype).removeprefix("torch.")
            raise EngineError(
                f"engine input {name} is {found} of rank {tensor.ndim}; "
                f"the graph takes {dtype} of rank {rank}"
            )
        if tensor.device.type != device.partition(":")[0]:
            raise EngineError(
                f"engine input {name} lies on {tensor.device}; the engine on {device}"
            )


def to_device(arrays: Mapping[str, np.ndarray[Any, Any]], device: str) -> dict[str, torch.Tensor]:
    """The arrays as tensors of their own on ``device``."""
    # A copy on the host first: torch warns of arrays that may not be written to.
    return {name: torch.from_numpy(np.array(array)).to(device) for name, array in arrays.items()}


def to_host(tensors: Mapping[str, torch.Tensor]) -> dict[str, np.ndarray[Any, Any]]:
    """The tensors as arrays in the host's memory."""
    return {name: tensor.cpu().numpy() for name, tensor in tensors.items()}
