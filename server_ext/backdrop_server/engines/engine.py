"""The engine protocol: named arrays in, named arrays out; each kind of engine is one file beside it."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from backdrop_server.errors import EngineError

Arrays = Mapping[str, npt.NDArray[Any]]


class Precision(enum.Enum):
    """What the engine computes in; its inputs and outputs are FP32 whatever it is."""

    FP32 = "fp32"
    BF16 = "bf16"


class Engine(Protocol):
    """A compiled graph on one device.

    ``run`` takes every input by name and returns every output by name. It raises EngineError,
    naming the input, when a name, type or rank is not what the graph was built for.
    """

    device: str
    input_names: tuple[str, ...]
    output_names: tuple[str, ...]

    def run(self, inputs: Arrays) -> dict[str, npt.NDArray[Any]]:
        """All outputs by name, for all inputs by name."""
        ...


def check_inputs(inputs: Arrays, expected: Mapping[str, tuple[np.dtype[Any], int]]) -> None:
    """Raise EngineError unless ``inputs`` has exactly the expected names, types and ranks."""
    if inputs.keys() != expected.keys():
        wrong = sorted(inputs.keys() ^ expected.keys())
        raise EngineError(f"missing or unknown engine inputs: {', '.join(wrong)}")
    for name, (dtype, rank) in expected.items():
        array = inputs[name]
        if array.dtype != dtype or array.ndim != rank:
            raise EngineError(
                f"engine input {name} is {array.dtype} of rank {array.ndim}; "
                f"the graph takes {dtype} of rank {rank}"
            )
