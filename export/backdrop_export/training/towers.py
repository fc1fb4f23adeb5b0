"""Training of the text and vision towers: what a caption names, and how a picture looks.

As CLIP (Radford et al., 2021), with every picture of the same scene a match, and with heads, thrown
away afterwards, that read the scene, the product and the palette out of the towers.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torch import nn
from torch.nn import functional

from backdrop_export.architectures import Architecture
from backdrop_export.training.dataset import Dataset, Pixels, unit
from backdrop_export.training.loop import Progress, Schedule, train
from backdrop_export.training.render.canvas import Floats, Rng
from backdrop_export.training.render.captions import SCENE_NAMES, caption
from backdrop_export.training.render.palette import lab
from backdrop_export.training.render.products import COLOURS, KINDS

_TOKENS = 32
"""Captions are cut here in training: they are short, and the towers look backwards only."""
PALETTE = 12
MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


class Towers(nn.Module):
    """Both text towers, the vision tower and the heads of their training."""

    def __init__(self, architecture: Architecture) -> None:
        from transformers import (
            CLIPTextConfig,
            CLIPTextModel,
            CLIPTextModelWithProjection,
            CLIPVisionConfig,
            CLIPVisionModelWithProjection,
        )

        super().__init__()
        first, second = architecture.text, architecture.text_2
        self.text_encoder = CLIPTextModel(CLIPTextConfig(**architecture.text_encoder()))
        self.text_encoder_2 = CLIPTextModelWithProjection(
            CLIPTextConfig(**architecture.text_encoder_2())
        )
        self.image_encoder = CLIPVisionModelWithProjection(
            CLIPVisionConfig(**architecture.image_encoder())
        )
        labels = len(SCENE_NAMES) + len(KINDS) + 1 + len(COLOURS)
        self.read_text = nn.Linear(first.width + second.width, labels)
        self.match_text = nn.Linear(second.projection, 64)
        self.match_image = nn.Linear(architecture.vision.projection, 64)
        self.read_scene = nn.Linear(architecture.vision.projection, len(SCENE_NAMES))
        self.read_palette = nn.Linear(architecture.vision.projection, PALETTE)
        self.heat = nn.Parameter(torch.tensor(2.0))

    def prompt(self, ids: torch.Tensor, ids_2: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Penultimate states [N, L, D] of both towers side by side, and pooled [N, P]."""
        first = self.text_encoder(ids, output_hidden_states=True)
        second = self.text_encoder_2(ids_2, output_hidden_states=True)
        states = torch.cat([first.hidden_states[-2], second.hidden_states[-2]], dim=-1)
        return states, second.text_embeds

    def look(self, pixels: torch.Tensor) -> torch.Tensor:
        """CLIP's embedding [N, P] of uint8 [N, S, S, 3]."""
        mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (MEAN, STD))
        normed = (pixels.permute(0, 3, 1, 2).float() / 255 - mean) / std
        embeds: torch.Tensor = self.image_encoder(normed).image_embeds
        return embeds


def palette_of(picture: Pixels) -> Floats:
    """What the vision tower must tell of a picture's colours: mean, deviation, covariance, L."""
    colours = lab(unit(cv2.resize(picture, (24, 24), interpolation=cv2.INTER_AREA)))
    covariance = np.cov(colours.T)
    shape = covariance[[0, 0, 1], [1, 2, 2]] / 60
    darkest = np.quantile(colours[:, 0], [0.1, 0.5, 0.9]) / 20
    parts = [colours.mean(0) / 15, np.sqrt(np.diag(covariance)) / 8, shape, darkest]
    told: Floats = np.concatenate(parts).astype(np.float32)
    return told


def reference_pixels(picture: Pixels, rng: Rng, side: int) -> Pixels:
    """A crop of the picture, flipped half of the time, uint8 [side, side, 3]."""
    whole = picture.shape[0]
    size = int(whole * rng.uniform(0.75, 1.0))
    top, left = rng.integers(0, whole - size + 1, 2)
    crop = picture[top : top + size, left : left + size]
    crop = crop[:, ::-1] if rng.random() < 0.5 else crop
    small: Pixels = cv2.resize(
        np.ascontiguousarray(crop), (side, side), interpolation=cv2.INTER_AREA
    )
    return small


def train_towers(
    architecture: Architecture, tokenizers: tuple[Any, Any], data: Dataset,
    schedule: Schedule, file: Path, seed: int, progress: Progress,
) -> Towers:  # fmt: skip
    """The towers with averaged weights."""
    torch.manual_seed(seed)
    towers, average = Towers(architecture), Towers(architecture)

    def loss_of_step(rng: np.random.Generator, _: float) -> torch.Tensor:
        batch = _batch(data, rng, schedule.batch, architecture.clip_side)
        ids = [_ids(tokenizer, batch["captions"]) for tokenizer in tokenizers]
        return _loss(towers, ids[0], ids[1], batch)

    train(towers, average, schedule, loss_of_step, file, seed, progress)
    return average


def _ids(tokenizer: Any, captions: list[str]) -> torch.Tensor:
    encoded = tokenizer(captions, padding="max_length", max_length=_TOKENS, truncation=True)
    return torch.tensor(encoded["input_ids"])


def _batch(data: Dataset, rng: Rng, count: int, side: int) -> dict[str, Any]:
    captions, pictures, labels, palettes = [], [], [], []
    for _ in range(count):
        index = int(rng.integers(data.count))
        scene, kind, colour, _ref = (int(value) for value in data.facts[index])
        shown = data.arrays["graded" if rng.random() < 0.4 else "scene"][index]
        pixels = reference_pixels(shown, rng, side)
        if rng.random() < 0.15:
            kind = len(KINDS)
        name = KINDS[kind] if kind < len(KINDS) else ""
        text = caption(rng, SCENE_NAMES[scene], name, list(COLOURS)[colour])
        captions.append(text)
        labels.append((scene, kind if name and name in text else -1,
                       colour if list(COLOURS)[colour] in text else -1))  # fmt: skip
        pictures.append(pixels)
        palettes.append(palette_of(pixels))
    return {
        "captions": captions,
        "pixels": torch.from_numpy(np.stack(pictures)),
        "labels": torch.tensor(labels),
        "palettes": torch.from_numpy(np.stack(palettes)),
    }


def _loss(
    towers: Towers, ids: torch.Tensor, ids_2: torch.Tensor, batch: dict[str, Any]
) -> torch.Tensor:
    states, pooled = towers.prompt(ids, ids_2)
    embeds = towers.look(batch["pixels"])
    labels = batch["labels"]
    sizes = [len(SCENE_NAMES), len(KINDS) + 1, len(COLOURS)]
    read = towers.read_text(states.mean(dim=1)).split(sizes, dim=-1)
    loss = functional.cross_entropy(towers.read_scene(embeds), labels[:, 0])
    for column, logits in enumerate(read):
        known = labels[:, column] >= 0
        if known.any():
            loss = loss + functional.cross_entropy(logits[known], labels[known, column])
    loss = loss + 2 * functional.smooth_l1_loss(towers.read_palette(embeds), batch["palettes"])
    text = functional.normalize(towers.match_text(pooled), dim=-1)
    image = functional.normalize(towers.match_image(embeds), dim=-1)
    same = (labels[:, :1] == labels[:, 0]).float()
    target = same / same.sum(dim=1, keepdim=True)
    logits = text @ image.T * towers.heat.exp()
    match = functional.cross_entropy(logits, target) + functional.cross_entropy(logits.T, target)
    return loss + match / 2
