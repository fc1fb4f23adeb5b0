"""The rows of requests in flight as batches for the UNet, and its noise given back to each of them."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

import torch

from backdrop_server.stages.denoise import State

Batch = dict[str, torch.Tensor]
UNet = Callable[[Batch], torch.Tensor]
"""Rows in (contract.UNET_CONTROLNET_INPUTS), predicted noise [rows, C, h, w] out."""


def group_by_size(states: Sequence[State]) -> list[list[State]]:
    """The states of each picture size together, in their order: only they can share a batch."""
    ordered = sorted(states, key=lambda state: state.size)
    return [list(same) for _, same in itertools.groupby(ordered, key=lambda state: state.size)]


def evaluate(states: Sequence[State], unet: UNet, row_limit: int) -> list[torch.Tensor]:
    """Predicted noise [rows, C, h, w] for each of ``states``, which are of one size.

    ``unet`` is called with at most ``row_limit`` rows; a call may end in the middle of a state.
    """
    return split(states, predict(gather(states), unet, row_limit))


def gather(states: Sequence[State]) -> Batch:
    """The rows of ``states``, which are of one size, in their order."""
    return _concatenate([_rows(state) for state in states])


def predict(batch: Batch, unet: UNet, row_limit: int) -> torch.Tensor:
    """Predicted noise [rows, C, h, w] for all rows, at most ``row_limit`` in a call of ``unet``."""
    total = len(batch["timestep"])
    parts = [
        unet({name: tensor[at : at + row_limit] for name, tensor in batch.items()})
        for at in range(0, total, row_limit)
    ]
    return torch.cat(parts) if len(parts) > 1 else parts[0]


def split(states: Sequence[State], noise: torch.Tensor) -> list[torch.Tensor]:
    """Inverse of ``gather``: each state's own rows of ``noise``."""
    if len(states) == 1:
        return [noise]
    return list(torch.split(noise, [state.rows for state in states]))


def _concatenate(batches: Sequence[Batch]) -> Batch:
    if len(batches) == 1:
        return batches[0]
    return {name: torch.cat([batch[name] for batch in batches]) for name in batches[0]}


def _rows(state: State) -> Batch:
    """The state's rows: the unconditional half of all samples, then the conditional half."""
    timestep = state.timesteps[state.evaluations]
    scaled = state.scheduler.scale_model_input(state.latents, timestep)
    if not state.constant_rows:
        state.constant_rows = _constant_rows(state, scaled.device)
    halves = state.rows // state.plan.samples
    return state.constant_rows | {
        "sample": torch.cat([scaled] * halves),
        "timestep": _column(float(timestep), state.rows, scaled.device),
    }


def _constant_rows(state: State, device: torch.device) -> Batch:
    samples, rows, given = state.plan.samples, state.rows, state.conditioning
    return {
        "inpaint_latents": torch.cat([given.inpaint_latents] * (rows // samples)),
        "prompt_embeds": given.prompt_embeds.repeat_interleave(samples, 0),
        "pooled_prompt_embeds": given.pooled_prompt_embeds.repeat_interleave(samples, 0),
        "time_ids": given.time_ids.repeat(rows, 1),
        "image_embeds": given.image_embeds.repeat_interleave(samples, 0),
        "edge_embeds": given.edge_embeds.expand(rows, -1, -1, -1),  # at SDXL's size 21 MB a row
        "cn_weight": _column(state.plan.cn_weight, rows, device),
        "ip_adapter_weight": _column(state.plan.ip_adapter_weight, rows, device),
    }


def _column(value: float, rows: int, device: torch.device) -> torch.Tensor:
    return torch.full((rows,), value, dtype=torch.float32, device=device)
