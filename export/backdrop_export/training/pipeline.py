"""The whole training: pictures, VAE, towers, conditions, denoiser, bundle. Goes on where it ended."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from backdrop_export.architectures import Architecture, architecture_named
from backdrop_export.training.conditions import Conditions, work_out
from backdrop_export.training.console import Console
from backdrop_export.training.dataset import SIDE, Dataset, render_dataset
from backdrop_export.training.denoiser import Denoiser, train_denoiser
from backdrop_export.training.loop import Schedule, claim
from backdrop_export.training.publishing import publish
from backdrop_export.training.recipe import Recipe
from backdrop_export.training.towers import Towers, train_towers
from backdrop_export.training.vae import encode, fit_scaling_factor, new_vae, train_vae
from backdrop_export.training.workers import together
from backdrop_export.vocabulary import END, write_tokenizer


@dataclasses.dataclass(frozen=True)
class Training:
    """A run: what is trained, how, in which folder, and who is told."""

    architecture: Architecture
    recipe: Recipe
    folder: Path
    console: Console

    def part(self, name: str, schedule: Schedule, work: Callable[[Path], Any]) -> dict[str, Any]:
        """Train a part in the recipe's processes; return its averaged weights."""
        file = self.folder / f"{name}.pt"
        with self.console.progress(name, schedule.steps):
            together(lambda: work(file), self.recipe.workers)
        averaged: dict[str, Any] = torch.load(file, weights_only=True)["average"]
        return averaged


def train_bundle(name: str, recipe: Recipe, folder: Path, out: Path, console: Console) -> Path:
    """Train the bundle ``name`` by ``recipe``, write it to ``out``; return ``out``.

    Checkpoints and pictures go to ``folder``.

    Raises SetupError when ``folder`` holds a run of another recipe or architecture.
    """
    training = Training(architecture_named(name), recipe, folder, console)
    claim(folder, repr((training.architecture, training.recipe)))
    data = render_dataset(folder / "data", recipe.pictures, recipe.seed, console.track)
    vae = _vae(training, data)
    tokenizers = _tokenizers(training)
    towers = _towers(training, data, tokenizers)
    architecture = dataclasses.replace(
        training.architecture, vae_scaling_factor=vae.config.scaling_factor
    )
    conditions = work_out(
        data, vae, towers, tokenizers, architecture.clip_side,
        folder / "conditions", recipe.seed + 3, console.track,
    )  # fmt: skip
    denoiser = _denoiser(training, conditions, vae)
    return publish(architecture, recipe, vae, towers, denoiser, out)


def _vae(training: Training, data: Dataset) -> Any:
    config, schedule, seed = training.architecture.vae(), training.recipe.vae, training.recipe.seed
    vae = new_vae(config, seed)
    averaged = training.part(
        "vae",
        schedule,
        lambda file: train_vae(config, data, schedule, file, seed, training.console.step),
    )
    vae.load_state_dict(averaged)
    fit_scaling_factor(vae.eval(), data)
    return vae


def _tokenizers(training: Training) -> tuple[Any, Any]:
    from transformers import CLIPTokenizer

    for name, padding in (("tokenizer", END), ("tokenizer_2", "!")):
        if not (training.folder / name).is_dir():
            write_tokenizer(training.folder / name, training.architecture.vocabulary, padding)
    first, second = (
        CLIPTokenizer.from_pretrained(training.folder / name)
        for name in ("tokenizer", "tokenizer_2")
    )
    return first, second


def _towers(training: Training, data: Dataset, tokenizers: tuple[Any, Any]) -> Towers:
    schedule, seed = training.recipe.towers, training.recipe.seed + 1
    towers = Towers(training.architecture)
    averaged = training.part(
        "towers",
        schedule,
        lambda file: train_towers(
            training.architecture, tokenizers, data, schedule, file, seed, training.console.step
        ),
    )
    towers.load_state_dict(averaged)
    return towers.eval()


def _denoiser(training: Training, conditions: Conditions, vae: Any) -> Denoiser:
    schedule, seed = training.recipe.denoiser, training.recipe.seed + 2
    grey = np.full((SIDE, SIDE, 3), 128, np.uint8)
    blank = encode(vae, [grey])[0] * vae.config.scaling_factor
    denoiser = Denoiser(training.architecture)
    averaged = training.part(
        "denoiser",
        schedule,
        lambda file: train_denoiser(
            training.architecture, conditions, blank, schedule, file, seed, training.console.step
        ),
    )
    denoiser.load_state_dict(averaged)
    return denoiser.eval()
