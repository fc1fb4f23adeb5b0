"""The rendered set on disk: scenes, the same in another picture's palette, products for them."""

from __future__ import annotations

import concurrent.futures
import dataclasses
import functools
import json
import multiprocessing
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from backdrop_export.training.render.canvas import Floats
from backdrop_export.training.render.captions import SCENE_NAMES
from backdrop_export.training.render.palette import recolour
from backdrop_export.training.render.products import COLOURS, KINDS, draw_product
from backdrop_export.training.render.scenes import paint_scene

SIDE = 256
_CHUNK = 48
_CHANNELS = {"scene": 3, "graded": 3, "product": 3, "alpha": 1, "shadow": 1}
Pixels = npt.NDArray[np.uint8]
Track = Callable[[Iterable[Any], str, int], Iterable[Any]]


@dataclasses.dataclass(frozen=True)
class Dataset:
    """Memory-mapped arrays of ``count`` pictures, uint8 [count, side, side, channels].

    ``facts`` int64 [count, 4]: the scene, the product's kind and colour, and the picture whose
    palette ``graded`` has.
    """

    folder: Path
    count: int

    @functools.cached_property
    def arrays(self) -> dict[str, Pixels]:
        """The arrays by name, read only."""
        return {name: _open(self.folder, name, "r", self.count) for name in _CHANNELS}

    @functools.cached_property
    def facts(self) -> npt.NDArray[np.int64]:
        """See the class."""
        loaded: npt.NDArray[np.int64] = np.load(self.folder / "facts.npy")
        return loaded

    def composite(self, index: int, scene: str) -> Pixels:
        """The product of ``index`` in its ``scene`` or ``graded`` surroundings."""
        shadow, alpha = (unit(self.arrays[name][index]) for name in ("shadow", "alpha"))
        ground = unit(self.arrays[scene][index]) * (1 - shadow * (1 - alpha))
        return eight_bit(ground + (unit(self.arrays["product"][index]) - ground) * alpha)

    def masked(self, index: int) -> tuple[Pixels, Pixels]:
        """The product alone on black, with its mask (uint8 [side, side], 255 = repaint)."""
        keep = self.arrays["alpha"][index][..., 0] >= 128
        picture = np.where(keep[..., None], self.arrays["product"][index], 0)
        return picture.astype(np.uint8), np.where(keep, 0, 255).astype(np.uint8)


def unit(picture: Pixels) -> Floats:
    """8-bit levels as 0..1."""
    return picture.astype(np.float32) / 255


def eight_bit(picture: Floats) -> Pixels:
    """0..1 as 8-bit levels."""
    levels: Pixels = np.rint(np.clip(picture, 0, 1) * 255).astype(np.uint8)
    return levels


def _open(folder: Path, name: str, mode: Any, count: int) -> Pixels:
    path, shape = folder / f"{name}.npy", (count, SIDE, SIDE, _CHANNELS[name])
    if mode == "w+":
        made: Pixels = np.lib.format.open_memmap(path, mode, np.uint8, shape)  # type: ignore[no-untyped-call]
        return made
    mapped: Pixels = np.load(path, mmap_mode=mode)
    return mapped


def render_dataset(folder: Path, count: int, seed: int, track: Track) -> Dataset:
    """Render ``count`` pictures into ``folder`` on every core; a set that is there is kept."""
    recipe = {"count": count, "seed": seed, "side": SIDE}
    done = folder / "recipe.json"
    if done.is_file() and json.loads(done.read_text()) == recipe:
        return Dataset(folder, count)
    folder.mkdir(parents=True, exist_ok=True)
    done.unlink(missing_ok=True)
    for name in _CHANNELS:
        _open(folder, name, "w+", count)
    starts = range(0, count, _CHUNK)
    facts = np.concatenate(everywhere(_render_chunk, (folder, count, seed), starts, track))
    np.save(folder / "facts.npy", facts)
    everywhere(_grade_chunk, (folder, count, seed), starts, track)
    done.write_text(json.dumps(recipe))
    return Dataset(folder, count)


def everywhere(
    work: Callable[..., Any], fixed: tuple[Any, ...], starts: range, track: Track
) -> list[Any]:
    """``work(*fixed, start)`` for each of ``starts``, in a process for each core."""
    cores = len(os.sched_getaffinity(0))
    apart = multiprocessing.get_context("spawn")  # OpenCV's threads do not live through a fork
    with concurrent.futures.ProcessPoolExecutor(cores, apart, _one_thread) as pool:
        results = pool.map(functools.partial(work, *fixed), starts)
        return list(track(results, work.__name__.strip("_").replace("_", " "), len(starts)))


def _one_thread() -> None:
    cv2.setNumThreads(1)


def _render_chunk(folder: Path, count: int, seed: int, start: int) -> npt.NDArray[np.int64]:
    arrays = {name: _open(folder, name, "r+", count) for name in _CHANNELS if name != "graded"}
    facts = []
    for index in range(start, min(start + _CHUNK, count)):
        rng = np.random.default_rng([seed, index])
        scene = index % len(SCENE_NAMES)
        product = draw_product(rng, SIDE)
        arrays["scene"][index] = eight_bit(paint_scene(rng, SCENE_NAMES[scene], SIDE))
        arrays["product"][index] = eight_bit(product.rgb)
        arrays["alpha"][index] = eight_bit(product.alpha)[..., None]
        arrays["shadow"][index] = eight_bit(product.shadow)[..., None]
        named = KINDS.index(product.kind), list(COLOURS).index(product.colour)
        facts.append((scene, *named, int(rng.integers(count))))
    return np.array(facts, np.int64)


def _grade_chunk(folder: Path, count: int, seed: int, start: int) -> None:
    scenes, graded = _open(folder, "scene", "r", count), _open(folder, "graded", "r+", count)
    facts = np.load(folder / "facts.npy")
    for index in range(start, min(start + _CHUNK, count)):
        share = float(np.random.default_rng([seed, index, 1]).uniform(0.85, 1.0))
        reference = unit(scenes[facts[index, 3]])
        graded[index] = eight_bit(recolour(unit(scenes[index]), reference, share))
