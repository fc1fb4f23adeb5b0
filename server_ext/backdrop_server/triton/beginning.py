"""How a request begins in `denoise`: its noise is drawn, its edges are encoded, its state is set up.

The other requests in flight wait meanwhile: 3 ms at the demo's size; at SDXL's, on a CPU, about a
second, where a step takes a minute.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from backdrop_server import contract
from backdrop_server.errors import EngineError
from backdrop_server.plan import BundleFacts, Plan
from backdrop_server.stages import denoise
from backdrop_server.stages.denoise import Encoded
from backdrop_server.stages.edge_encoder import EdgeEncoder
from backdrop_server.stages.schedulers import SchedulerFactory
from backdrop_server.triton.job import Job
from backdrop_server.triton.pacing import Lane
from backdrop_server.triton.tensors import read


class Beginning:
    """What every request begins with, read once from the model's ``folder``."""

    def __init__(self, folder: Path, lane: Lane, schedulers: SchedulerFactory) -> None:
        self._lane = lane
        self._facts = BundleFacts.from_json((folder / "bundle.json").read_text())
        self._schedulers = schedulers
        file = folder / "edge_encoder.npz"
        if not file.is_file():  # a repository from before the encoder was taken out of the graph
            raise EngineError(f"{file.name} is missing in {folder}: export the repository again")
        with np.load(file) as weights:
            self._edge_encoder = EdgeEncoder(dict(weights), lane.device)

    def job(self, request: Any, plan: Plan) -> Job:
        """The job of ``request``, whose tensors are read here once."""
        encoded = _read_encoded(request)
        now = time.monotonic()
        shape = (plan.samples, self._facts.latent_channels, *encoded.latent_mask.shape)
        job = Job(plan, None, started_at=now, seen_at=now, latents=torch.zeros(shape))
        if plan.keeps_photo:
            return job

        def encode_edges(edges: torch.Tensor) -> torch.Tensor:
            job.edge_encoder = self._lane.stopwatch()
            embeds = self._edge_encoder(edges)
            job.edge_encoder.stop()
            return embeds

        job.state = denoise.start(
            plan, encoded, self._facts, self._schedulers, encode_edges, self._lane.device
        )
        return job


def _read_encoded(request: Any) -> Encoded:
    """All inputs but the plan, by the names that ``Encoded`` has too."""
    tensors = contract.DENOISE.inputs[1:]
    arrays: dict[str, Any] = {tensor.name: read(request, tensor) for tensor in tensors}
    return Encoded(**arrays)
