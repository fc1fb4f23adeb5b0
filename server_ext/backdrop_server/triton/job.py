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
    edge_encoder: Stopwatch | None = None
    """Of its edge encoder's run; None where there is no step to take."""

    @property
    def edge_encoder_seconds(self) -> float:
        """What its edge encoder took; on a device once a step has landed."""
        return 0.0 if self.edge_encoder is None else self.edge_encoder.seconds()
