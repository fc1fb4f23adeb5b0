"""Photos of rendered products with their true alpha and what keying finds of it, on disk."""

from __future__ import annotations

import dataclasses
import functools
import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from backdrop_export.training.dataset import Track, everywhere
from backdrop_export.training.render.backdrops import draw_backdrop
from backdrop_export.training.render.canvas import Rng
from backdrop_export.training.render.cutouts import draw_cutout, photo_of
from backdrop_server.stages.evidence import evidence
from backdrop_server.stages.keying import key_uniform_background

Pixels = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]
_CHUNK = 24
_CHANNELS = {"photo": (3,), "alpha": (), "keyed": ()}


@dataclasses.dataclass(frozen=True)
class MattingPictures:
    """Memory-mapped ``count`` pictures; ``photo`` uint8 [count, side, side, 3], the others without
    the last axis. ``keyed`` is 0 throughout where the ground is not uniform.
    """

    folder: Path
    count: int
    side: int

    @functools.cached_property
    def arrays(self) -> dict[str, Pixels]:
        """The arrays by name, read only."""
        return {name: np.load(self.folder / f"{name}.npy", mmap_mode="r") for name in _CHANNELS}

    def draw(self, rng: Rng, side: int) -> tuple[Floats, Floats]:
        """A picture in a new look at ``side``: its evidence [C, side, side], its alpha [side, side]."""
        index = int(rng.integers(self.count))
        photo, alpha, keyed = (self.arrays[name][index] for name in _CHANNELS)
        if rng.random() < 0.5:
            photo, alpha, keyed = (array[:, ::-1] for array in (photo, alpha, keyed))
        if rng.random() < 0.5:  # keying sees nearly the same in other colours
            photo = photo[..., rng.permutation(3)]
        photo, alpha, keyed = (_resized(array, side) for array in (photo, alpha, keyed))
        return evidence(photo, keyed if keyed.any() else None), alpha / np.float32(255)


def _resized(array: Pixels, side: int) -> Pixels:
    whole = np.ascontiguousarray(array)
    if side == len(whole):
        return whole
    small: Pixels = cv2.resize(whole, (side, side), interpolation=cv2.INTER_AREA)
    return small


def render_matting_pictures(
    folder: Path, count: int, side: int, seed: int, track: Track
) -> MattingPictures:
    """Render ``count`` pictures into ``folder`` on every core; a set that is there is kept."""
    recipe = {"count": count, "seed": seed, "side": side}
    done = folder / "recipe.json"
    pictures = MattingPictures(folder, count, side)
    if done.is_file() and json.loads(done.read_text()) == recipe:
        return pictures
    folder.mkdir(parents=True, exist_ok=True)
    done.unlink(missing_ok=True)
    for name, last in _CHANNELS.items():
        shape: Any = (count, side, side, *last)
        np.lib.format.open_memmap(folder / f"{name}.npy", "w+", np.uint8, shape)  # type: ignore[no-untyped-call]
    everywhere(_render_photos, (folder, count, side, seed), range(0, count, _CHUNK), track)
    done.write_text(json.dumps(recipe))
    return pictures


def _render_photos(folder: Path, count: int, side: int, seed: int, start: int) -> None:
    arrays = {name: np.load(folder / f"{name}.npy", mmap_mode="r+") for name in _CHANNELS}
    for index in range(start, min(start + _CHUNK, count)):
        rng = np.random.default_rng([seed, index])
        cutout = draw_cutout(rng, side)
        photo = photo_of(rng, cutout, draw_backdrop(rng, side))
        keyed = key_uniform_background(photo)
        arrays["photo"][index] = photo
        arrays["alpha"][index] = np.rint(cutout.alpha * 255).astype(np.uint8)
        arrays["keyed"][index] = 0 if keyed is None else keyed
