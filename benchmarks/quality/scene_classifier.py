"""A small classifier of the twelve scenes, trained apart on scenes rendered with another seed."""

from __future__ import annotations

import itertools
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import torch
from rich.progress import track
from torch import nn
from torch.nn import functional

from backdrop_export.training.dataset import Dataset, render_dataset
from backdrop_export.training.render.captions import SCENE_NAMES

SEED = 987_654
PICTURES = 1500
_HELD_OUT = 240
_SIDE = 64
_STEPS = 450
Pixels = npt.NDArray[np.uint8]


class SceneClassifier(nn.Module):
    """Five strided convolutions and a mean; logits of the scenes from [N, 3, 64, 64]."""

    def __init__(self) -> None:
        super().__init__()
        widths = (3, 24, 48, 96, 128)
        layers: list[nn.Module] = []
        for before, after in itertools.pairwise(widths):
            layers += [nn.Conv2d(before, after, 3, 2, 1), nn.GroupNorm(8, after), nn.ReLU()]
        self.body = nn.Sequential(*layers, nn.Conv2d(128, 128, 3, 1, 1), nn.ReLU())
        self.head = nn.Linear(256, len(SCENE_NAMES))

    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        """Logits [N, 12]."""
        features = self.body(pictures)
        upper, lower = features.chunk(2, dim=2)  # where sky and ground are
        return self.head(torch.cat([upper.mean((2, 3)), lower.mean((2, 3))], dim=1))  # type: ignore[no-any-return]

    @torch.inference_mode()
    def name(self, pictures: list[Pixels]) -> list[str]:
        """The scene that each picture, uint8 [H, W, 3], shows."""
        winners = self(_inputs(pictures)).argmax(dim=1)
        return [SCENE_NAMES[int(winner)] for winner in winners]


def _inputs(pictures: list[Pixels]) -> torch.Tensor:
    small = [cv2.resize(p, (_SIDE, _SIDE), interpolation=cv2.INTER_AREA) for p in pictures]
    return torch.from_numpy(np.stack(small)).permute(0, 3, 1, 2).float() / 127.5 - 1


def load_classifier(folder: Path) -> tuple[SceneClassifier, float]:
    """The classifier, trained if ``folder`` has none, and its accuracy on scenes held out."""
    torch.manual_seed(SEED)
    classifier, file = SceneClassifier(), folder / "classifier.pt"
    data = render_dataset(folder / "scenes", PICTURES, SEED, track)
    if not file.is_file():
        _train(classifier, data)
        torch.save(classifier.state_dict(), file)
    classifier.load_state_dict(torch.load(file, weights_only=True))
    classifier.eval()
    return classifier, _accuracy(classifier, data)


def _shown(data: Dataset, index: int, rng: np.random.Generator) -> Pixels:
    """A scene in its own or another picture's palette, with a product or without, maybe soft."""
    scene = "graded" if rng.random() < 0.5 else "scene"
    picture = data.composite(index, scene) if rng.random() < 0.5 else data.arrays[scene][index]
    sigma = float(rng.uniform(0, 5))
    blurred: Pixels = cv2.GaussianBlur(np.array(picture), (0, 0), sigma) if sigma > 0.3 else picture
    return blurred[:, ::-1] if rng.random() < 0.5 else blurred


def _train(classifier: SceneClassifier, data: Dataset) -> None:
    optimizer = torch.optim.AdamW(classifier.parameters(), 2e-3, weight_decay=0.02)
    rates = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=_STEPS)
    rng = np.random.default_rng(SEED)
    for _ in track(range(_STEPS), "classifier"):
        indices = rng.integers(0, data.count - _HELD_OUT, 32)
        logits = classifier(_inputs([_shown(data, int(index), rng) for index in indices]))
        scenes = torch.from_numpy(data.facts[indices, 0])
        optimizer.zero_grad()
        functional.cross_entropy(logits, scenes, label_smoothing=0.05).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        rates.step()


def _accuracy(classifier: SceneClassifier, data: Dataset) -> float:
    rng = np.random.default_rng(SEED + 1)
    indices = range(data.count - _HELD_OUT, data.count)
    named = classifier.name([_shown(data, index, rng) for index in indices])
    right = [
        name == SCENE_NAMES[int(data.facts[i, 0])] for i, name in zip(indices, named, strict=True)
    ]
    return sum(right) / len(right)
