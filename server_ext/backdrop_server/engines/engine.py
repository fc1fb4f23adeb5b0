"""The engine protocol: named arrays in, named arrays out; each kind of engine is one file beside it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from backdrop_server.errors import EngineError
from backdrop_server.plan import EngineLimits, Precision

if TYPE_CHECKING:  # a process without a device engine must not pay for torch
    import torch

__all__ = [
    "Arrays",
    "DeviceEngine",
    "Engine",
    "Expected",
    "Precision",
    "check_inputs",
    "check_names",
    "first_line",
]

Arrays = Mapping[str, npt.NDArray[Any]]
Expected = Mapping[str, tuple[np.dtype[Any], int]]
"""Type and rank of each input."""


class Engine(Protocol):
    """A compiled graph on one device.

    ``run`` takes every input by name and returns every output by name. It raises EngineError,
    naming the input, when a name, type or rank is not what the graph was built for.
    ``limits``: what rows and sizes it was built for; None: any.
    """

    device: str
    limits: EngineLimits | None
    input_names: tuple[str, ...]
    output_names: tuple[str, ...]

    def run(self, inputs: Arrays) -> dict[str, npt.NDArray[Any]]:
        """All outputs by name, for all inputs by name; in the host's memory."""
        ...


@runtime_checkable
class DeviceEngine(Engine, Protocol):
    """An engine that also takes and gives torch tensors that lie on its device."""

    def run_on_device(self, inputs: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """As ``run``, with tensors on ``device``; queued on torch's current stream, not waited for.

        The outputs are the caller's own.
        """
        ...


def check_inputs(inputs: Arrays, expected: Expected) -> None:
    """Raise EngineError unless ``inputs`` has exactly the expected names, types and ranks."""
    check_names(inputs, expected)
    for name, (dtype, rank) in expected.items():
        array = inputs[name]
        if array.dtype != dtype or array.ndim != rank:
            raise EngineError(
                f"engine input {name} is {array.dtype} of rank {array.ndim}; "
                f"the graph takes {dtype} of rank {rank}"
            )


def check_names(inputs: Mapping[str, Any], expected: Mapping[str, Any]) -> None:
    """Raise EngineError unless ``inputs`` has exactly the expected names."""
    if inputs.keys() != expected.keys():
        wrong = sorted(inputs.keys() ^ expected.keys())
        raise EngineError(f"missing or unknown engine inputs: {', '.join(wrong)}")


def first_line(error: Exception) -> str:
    """The first line of an exception's text."""
    return str(error).strip().partition("\n")[0]
