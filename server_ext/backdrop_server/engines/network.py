"""An engine as the plain function over torch tensors that the denoising loop calls."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import cast

import torch

from backdrop_server.engines.engine import DeviceEngine, Engine
from backdrop_server.engines.padding import padding_rows
from backdrop_server.errors import EngineError

Tensors = Mapping[str, torch.Tensor]
Network = Callable[[Tensors], torch.Tensor]
"""Rows of every input, by name, to rows of the one output; all on the engine's device."""


def as_network(engine: Engine) -> Network:
    """The engine's one output for its inputs, all tensors on ``engine.device``.

    Host engines see the tensors' own memory. Rows are padded to what the engine was built for.
    Raises EngineError for an engine of several outputs and for more rows than it takes.
    """
    if len(engine.output_names) != 1:
        raise EngineError(f"a network has one output, this engine {len(engine.output_names)}")
    (output,) = engine.output_names
    run = _runner(engine)

    def network(inputs: Tensors) -> torch.Tensor:
        rows = len(next(iter(inputs.values())))
        padding = padding_rows(engine, rows)
        if not padding:
            return run(inputs)[output]
        padded = {name: pad(tensor, padding) for name, tensor in inputs.items()}
        return run(padded)[output][:rows]

    return network


def pad(tensor: torch.Tensor, padding: int) -> torch.Tensor:
    """The tensor with its last row repeated ``padding`` times more."""
    return torch.cat([tensor, tensor[-1:].expand(padding, *tensor.shape[1:])])


def _runner(engine: Engine) -> Callable[[Tensors], Mapping[str, torch.Tensor]]:
    if engine.device != "cpu":
        return cast(DeviceEngine, engine).run_on_device

    def run(inputs: Tensors) -> Mapping[str, torch.Tensor]:
        outputs = engine.run({name: tensor.numpy() for name, tensor in inputs.items()})
        return {name: torch.from_numpy(array) for name, array in outputs.items()}

    return run
