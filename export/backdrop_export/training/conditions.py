"""What the denoiser is trained on, worked out once: latents, edges, prompts and looks."""

from __future__ import annotations

import concurrent.futures
import dataclasses
import multiprocessing
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from backdrop_export.training.dataset import SIDE, Dataset, Pixels, Track
from backdrop_export.training.render.captions import SCENE_NAMES, caption
from backdrop_export.training.render.products import COLOURS, KINDS
from backdrop_export.training.towers import Towers, reference_pixels
from backdrop_export.training.vae import encode
from backdrop_server.stages.canny import edge_map
from backdrop_server.stages.subject import latent_mask

CAPTIONS = 2
LOOKS = 2
_CHUNK = 16
_PART = 120
"""Pictures in a file."""
Arrays = dict[str, npt.NDArray[Any]]


@dataclasses.dataclass(frozen=True)
class Conditions:
    """Arrays over N pictures, by name.

    ``scene``, ``composite``, ``masked`` float16 [N, 4, h, w] scaled latents; ``mask`` uint8
    [N, h, w]; ``edges`` bits [N, SIDE * SIDE / 8]; ``prompt`` float16 [N, CAPTIONS, 77, D];
    ``pooled`` float16 [N, CAPTIONS, P]; ``bare_prompt`` and ``bare_pooled`` the same for captions
    without a product; ``look`` float16 [N, LOOKS, V].
    """

    arrays: Arrays

    @property
    def count(self) -> int:
        """Pictures."""
        return len(self.arrays["scene"])


def graded(index: int) -> bool:
    """Whether the denoiser sees picture ``index`` in another's palette: every other round does."""
    return (index // len(SCENE_NAMES)) % 2 == 1


def work_out(
    data: Dataset, vae: Any, towers: Towers, tokenizers: tuple[Any, Any], clip_side: int,
    folder: Path, seed: int, track: Track,
) -> Conditions:  # fmt: skip
    """Work out the conditions of every picture, in pieces that a later run finds again."""
    folder.mkdir(parents=True, exist_ok=True)
    work = _Work(data, vae, towers, tokenizers, clip_side, folder, seed)
    starts = range(0, data.count, _PART)
    cores = len(os.sched_getaffinity(0))
    with concurrent.futures.ProcessPoolExecutor(
        cores, multiprocessing.get_context("fork"), _adopt, (work,)
    ) as pool:
        files = list(track(pool.map(_work_out_part, starts), "conditions", len(starts)))
    parts = [dict(np.load(file)) for file in files]
    return Conditions({name: np.concatenate([part[name] for part in parts]) for name in parts[0]})


@dataclasses.dataclass(frozen=True)
class _Work:
    data: Dataset
    vae: Any
    towers: Towers
    tokenizers: tuple[Any, Any]
    clip_side: int
    folder: Path
    seed: int


_adopted: list[_Work] = []


def _adopt(work: _Work) -> None:
    """In a forked process: what to work with, and one thread to do it."""
    torch.set_num_threads(1)
    _adopted.append(work)


def _work_out_part(start: int) -> Path:
    work = _adopted[-1]
    file = work.folder / f"{start:06d}.npz"
    if file.is_file():
        return file
    indices = range(start, min(start + _PART, work.data.count))
    part = _latents(work.data, work.vae, indices)
    part |= _texts(work.data, work.towers, work.tokenizers, indices, work.seed)
    part |= {"look": _looks(work.data, work.towers, work.clip_side, indices, work.seed)}
    np.savez(file.with_suffix(".new.npz"), **part)
    file.with_suffix(".new.npz").replace(file)
    return file


def _pieces(items: Iterable[Any]) -> list[list[Any]]:
    whole = list(items)
    return [whole[start : start + _CHUNK] for start in range(0, len(whole), _CHUNK)]


def _latents(data: Dataset, vae: Any, indices: range) -> Arrays:
    shown = ["graded" if graded(index) else "scene" for index in indices]
    named = list(zip(indices, shown, strict=True))
    kept = [data.masked(index) for index in indices]
    pictures = {
        "scene": [data.arrays[name][index] for index, name in named],
        "composite": [data.composite(index, name) for index, name in named],
        # masked pixels are 0 in -1..1, which is mid grey
        "masked": [np.where(mask[..., None] > 0, 128, rgb).astype(np.uint8) for rgb, mask in kept],
    }
    scale = vae.config.scaling_factor
    found: Arrays = {
        name: np.concatenate(
            [(encode(vae, piece) * scale).half().numpy() for piece in _pieces(all_)]
        )
        for name, all_ in pictures.items()
    }
    found["mask"] = np.stack([latent_mask(mask, SIDE // latents_side(vae)) for _, mask in kept])
    edges = [
        product_edges(rgb, mask, index) for index, (rgb, mask) in zip(indices, kept, strict=True)
    ]
    found["edges"] = np.packbits(np.stack(edges).reshape(len(indices), -1) > 0, axis=1)
    return found


def latents_side(vae: Any) -> int:
    """Side of the latents of a picture."""
    return int(SIDE // 2 ** (len(vae.config.block_out_channels) - 1))


def product_edges(product: Pixels, mask: Pixels, seed: int) -> Pixels:
    """The edge map of a photo of the product on some plain ground, as the server makes it."""
    ground = np.random.default_rng(seed).integers(0, 256, 3)
    photo = np.where(mask[..., None] > 0, ground, product).astype(np.uint8)
    return edge_map(photo, mask)


@torch.inference_mode()
def _texts(
    data: Dataset, towers: Towers, tokenizers: tuple[Any, Any], indices: range, seed: int
) -> Arrays:
    found: dict[str, list[npt.NDArray[Any]]] = {}
    for piece in _pieces(indices):
        for prefix in ("", "bare_"):
            texts = [text for index in piece for text in _captions(data, index, seed, bool(prefix))]
            states, pooled = embed_prompts(towers, tokenizers, texts)
            for name, value in (("prompt", states), ("pooled", pooled)):
                rows = value.half().numpy().reshape(len(piece), CAPTIONS, *value.shape[1:])
                found.setdefault(prefix + name, []).append(rows)
    return {name: np.concatenate(rows) for name, rows in found.items()}


def embed_prompts(
    towers: Towers, tokenizers: tuple[Any, Any], texts: list[str]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Prompt embeddings [N, 77, D] and pooled [N, P], as the server's text encoder gives them."""
    ids = [
        torch.tensor(
            tokenizer(texts, padding="max_length", max_length=77, truncation=True)["input_ids"]
        )
        for tokenizer in tokenizers
    ]
    return towers.prompt(*ids)


def _captions(data: Dataset, index: int, seed: int, bare: bool) -> list[str]:
    scene, kind, colour, _ = (int(value) for value in data.facts[index])
    rng = np.random.default_rng([seed, index, int(bare)])
    shown = "" if bare else KINDS[kind]
    return [caption(rng, SCENE_NAMES[scene], shown, list(COLOURS)[colour]) for _ in range(CAPTIONS)]


@torch.inference_mode()
def _looks(
    data: Dataset, towers: Towers, side: int, indices: range, seed: int
) -> npt.NDArray[np.float16]:
    looks = []
    for piece in _pieces(indices):
        pixels = [p for index in piece for p in _references(data, index, side, seed)]
        embeds = towers.look(torch.from_numpy(np.stack(pixels)))
        looks.append(embeds.half().numpy().reshape(len(piece), LOOKS, -1))
    return np.concatenate(looks)


def _references(data: Dataset, index: int, side: int, seed: int) -> list[Pixels]:
    """The picture itself, and another scene in the same palette where there is one."""
    rng = np.random.default_rng([seed, index, 2])
    own = data.arrays["graded" if graded(index) else "scene"][index]
    if graded(index):
        other = data.arrays["scene"][data.facts[index, 3]]
    else:
        same = np.flatnonzero(data.facts[:, 3] == index)
        other = data.arrays["graded"][rng.choice(same)] if len(same) else own
    return [reference_pixels(picture, rng, side) for picture in (own, other)]
