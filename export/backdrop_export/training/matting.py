"""Training of our own matting network, from rendered pictures to a checked ONNX file."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

import numpy as np
import torch

from backdrop_export.onnx_graphs import OPSET, tracing
from backdrop_export.training.console import Console
from backdrop_export.training.loop import Schedule, claim, train
from backdrop_export.training.matting_network import MatteNet, matte_loss
from backdrop_export.training.matting_pictures import MattingPictures, render_matting_pictures
from backdrop_export.training.workers import together
from backdrop_server.engines.engine import Precision
from backdrop_server.engines.loading import load_engine
from backdrop_server.errors import EngineError
from backdrop_server.stages.evidence import CHANNELS
from backdrop_server.stages.matting import MATTING_SPECS, OWN_MATTING

SIDE = MATTING_SPECS[OWN_MATTING].side
TOLERANCE = 1e-3
"""The largest difference of the ONNX file from torch, of values of 0 to 1."""


@dataclasses.dataclass(frozen=True)
class MattingRecipe:
    """The pictures and the schedule; the same recipe gives the same weights."""

    pictures: int
    side: int
    small_side: int
    """The side that pictures have in the first part of the run, ``small_part`` of it."""
    small_part: float
    schedule: Schedule
    seed: int = 20_231_102
    workers: int = 2
    """Processes that train together; the schedule's batch is each one's."""


MATTING_RECIPES = {
    "full": MattingRecipe(
        6000, SIDE, 256, 0.6, Schedule(steps=7000, batch=4, rate=2e-3, average=0.998)
    ),
    "short": MattingRecipe(
        16, 96, 64, 0.5, Schedule(steps=6, batch=2, rate=1e-3, warm_up=2, keep_every=3), workers=1
    ),
}
"""``full`` is meant for weights that ship; ``short`` shows that the path works."""


def train_matting(recipe: MattingRecipe, folder: Path, out: Path, console: Console) -> Path:
    """Train the network by ``recipe``, write it to the ONNX file ``out``; return ``out``.

    Checkpoints and pictures go to ``folder``; a run that was killed goes on from there. Raises
    SetupError when ``folder`` holds a run of another recipe.
    """
    claim(folder, repr(recipe))
    pictures = render_matting_pictures(
        folder / "pictures", recipe.pictures, recipe.side, recipe.seed, console.track
    )
    file = folder / "matting.pt"
    with console.progress("matting", recipe.schedule.steps):
        together(lambda: _train(recipe, pictures, file, console), recipe.workers)
    network = MatteNet()
    network.load_state_dict(torch.load(file, weights_only=True)["average"])
    return write_onnx(network.eval(), out)


def _train(recipe: MattingRecipe, pictures: MattingPictures, file: Path, console: Console) -> None:
    torch.manual_seed(recipe.seed)
    network, average = MatteNet(), MatteNet()

    def loss_of_step(rng: np.random.Generator, done: float) -> torch.Tensor:
        side = recipe.small_side if done < recipe.small_part else recipe.side
        drawn = [pictures.draw(rng, side) for _ in range(recipe.schedule.batch)]
        told, alpha = (torch.from_numpy(np.stack(part)) for part in zip(*drawn, strict=True))
        with torch.autocast("cpu", torch.bfloat16):
            logits = network.logits(told)
        return matte_loss(logits.float(), told, alpha[:, None])

    train(network, average, recipe.schedule, loss_of_step, file, recipe.seed, console.step)


def write_onnx(network: MatteNet, out: Path) -> Path:
    """Write the network for pictures of SIDE, compared with torch, to ``out``; return ``out``.

    Raises EngineError where the file's answer differs by more than TOLERANCE.
    """
    told = torch.rand(1, CHANNELS, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    out.parent.mkdir(parents=True, exist_ok=True)
    partial = out.with_name(f"{out.stem}-partial.onnx")
    with tracing(), torch.no_grad():
        torch.onnx.export(
            network, (told,), str(partial), input_names=["evidence"], output_names=["maps"],
            opset_version=OPSET, dynamo=False,
        )  # fmt: skip
    engine = load_engine("onnxruntime", partial.with_suffix(""), Precision.FP32)
    with torch.inference_mode():
        expected = network(told).numpy()
    off = float(np.abs(engine.run({"evidence": told.numpy()})["maps"] - expected).max())
    if off > TOLERANCE:
        raise EngineError(f"the matting network's ONNX file differs from torch by {off:.2g}")
    os.replace(partial, out)  # noqa: PTH105
    return out
