"""What the loop of `denoise` keeps of a request in flight, and what a step of it gives to the host."""

from __future__ import annotations

import dataclasses

import torch

from backdrop_server.plan import Plan
from backdrop_server.stages.denoise import State
from backdrop_server.triton.pacing import Stopwatch


@dataclasses.dataclass(frozen=True)
class Landing:
    """What one step of one request gives to the host; all there when ``call`` is done."""

    call: int
    evaluations: int
    preview: torch.Tensor | None
    finite: torch.Tensor | None
    latents: torch.Tensor | None
    """After the last step."""
    stopwatch: Stopwatch
    share: float
    """Of what the stopwatch shows, by rows."""


@dataclasses.dataclass
class Job:
    """A request in flight: its state, or None when there is nothing to denoise."""

    plan: Plan
    state: State | None
    started_at: float
    seen_at: float
    latents: torch.Tensor
    """On the host; zeros until the last step has landed."""
    landings: list[Landing] = dataclasses.field(default_factory=list)
