"""The training loop of every part: AdamW, warm-up and cosine, a moving average, checkpoints.

What a step draws depends on the seed and the step alone, so a run that was killed goes on as if it
had not been.
"""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import nn

from backdrop_export.folders import write_atomically
from backdrop_server.errors import SetupError

Progress = Callable[[int, float], None]
"""Told after each step: steps done, the loss averaged over the last ones."""
LossOfStep = Callable[[np.random.Generator, float], torch.Tensor]
"""The loss of a step from its random numbers and the share of the run that is done."""


@dataclasses.dataclass(frozen=True)
class Schedule:
    """How long and how fast a part is trained."""

    steps: int
    batch: int
    rate: float
    warm_up: int = 100
    average: float = 0.998
    """Decay of the moving average of the weights."""
    keep_every: int = 200
    """Steps between checkpoints."""

    def rate_at(self, step: int) -> float:
        """Learning rate of a step: linear warm-up, then a cosine down to 2 %."""
        rise = min(1.0, (step + 1) / max(1, self.warm_up))
        fall = 0.51 + 0.49 * math.cos(math.pi * step / max(1, self.steps))
        return self.rate * rise * fall


@dataclasses.dataclass
class Run:
    """One part in training: ``model``, the average of its weights, its optimizer and its file."""

    model: nn.Module
    schedule: Schedule
    seed: int
    file: Path
    average: nn.Module
    step: int = 0
    loss: float = math.nan

    @property
    def finished(self) -> bool:
        """Whether all steps are done."""
        return self.step >= self.schedule.steps


def claim(folder: Path, settings: str) -> None:
    """Write down that ``folder`` holds the run of ``settings``, or check that it does.

    Raises SetupError where it holds a run of others.
    """
    note = folder / "run.txt"
    folder.mkdir(parents=True, exist_ok=True)
    if note.is_file() and note.read_text(encoding="utf-8") != settings:
        raise SetupError(
            f"{folder} holds a training run of other settings; "
            "give another folder, or remove it to start anew"
        )
    write_atomically(note, settings)


def train(
    model: nn.Module,
    average: nn.Module,
    schedule: Schedule,
    loss_of_step: LossOfStep,
    file: Path,
    seed: int,
    progress: Progress,
) -> nn.Module:
    """Train ``model`` and return ``average``, a second copy of it that holds the averaged weights.

    Goes on from ``file`` where it is there, and writes it as it goes; the model computes in bf16
    where the device is faster so (autocast), its weights stay fp32.
    """
    run = Run(model, schedule, seed, file, average)
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=schedule.rate, betas=(0.9, 0.99), weight_decay=0.01, fused=True
    )
    average.load_state_dict(model.state_dict())
    average.eval().requires_grad_(False)
    _resume(run, optimizer)
    _together()
    model.train()
    for _ in _steps(run):
        _one_step(run, optimizer, loss_of_step)
        progress(run.step, run.loss)
        if run.finished or run.step % schedule.keep_every == 0:
            _keep(run, optimizer)
    return average


def _together() -> None:
    """Wait for the other processes: the checkpoint is read by all before one writes it again."""
    if dist.is_initialized():
        dist.barrier()


def _steps(run: Run) -> Iterator[int]:
    while not run.finished:
        yield run.step


def _one_step(run: Run, optimizer: torch.optim.Optimizer, loss_of_step: LossOfStep) -> None:
    rng = np.random.default_rng([run.seed, run.step, worker()])
    torch.manual_seed(int(rng.integers(2**31)))
    for group in optimizer.param_groups:
        group["lr"] = run.schedule.rate_at(run.step)
    loss = loss_of_step(rng, run.step / run.schedule.steps)
    loss.backward()  # type: ignore[no-untyped-call]
    _share_gradients(run.model)
    nn.utils.clip_grad_norm_(run.model.parameters(), 1.0)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    run.step += 1
    value = loss.item()
    run.loss = value if math.isnan(run.loss) else 0.98 * run.loss + 0.02 * value
    _follow(run)


def worker() -> int:
    """This process's number among those that train together; 0 where it trains alone."""
    return dist.get_rank() if dist.is_initialized() else 0


def _share_gradients(model: nn.Module) -> None:
    """Average the gradients over the processes that train together."""
    if not dist.is_initialized():
        return
    found = [weight.grad for weight in model.parameters() if weight.grad is not None]
    flat = torch.cat([gradient.flatten() for gradient in found])
    dist.all_reduce(flat)
    flat /= dist.get_world_size()
    parts = torch.split(flat, [gradient.numel() for gradient in found])
    torch._foreach_copy_(
        found, [part.view_as(gradient) for part, gradient in zip(parts, found, strict=True)]
    )


@torch.no_grad()
def _follow(run: Run) -> None:
    decay = min(run.schedule.average, (1 + run.step) / (10 + run.step))
    weights: list[torch.Tensor] = list(run.model.parameters())
    averages: list[torch.Tensor] = list(run.average.parameters())
    torch._foreach_lerp_(averages, weights, 1 - decay)


def _keep(run: Run, optimizer: torch.optim.Optimizer) -> None:
    """Write the checkpoint beside its place and move it there: a kill leaves the old one."""
    if worker() != 0:
        return
    run.file.parent.mkdir(parents=True, exist_ok=True)
    new = run.file.with_suffix(".new")
    content = {
        "model": run.model.state_dict(),
        "average": run.average.state_dict(),
        "optimizer": optimizer.state_dict(),
        "step": run.step,
        "loss": run.loss,
        "seed": run.seed,
    }
    torch.save(content, new)
    os.replace(new, run.file)  # noqa: PTH105


def _resume(run: Run, optimizer: torch.optim.Optimizer) -> None:
    if not run.file.is_file():
        return
    kept: dict[str, Any] = torch.load(run.file, weights_only=True)
    run.model.load_state_dict(kept["model"])
    run.average.load_state_dict(kept["average"])
    optimizer.load_state_dict(kept["optimizer"])
    run.step, run.loss = kept["step"], kept["loss"]
