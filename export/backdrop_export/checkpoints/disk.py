"""Disk space that downloads and a bundle need, beside what is free."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

from backdrop_export.checkpoints.pieces import ADAPTER, SINGLE_FILE, Pieces, converted_parts
from backdrop_export.checkpoints.recipe import Recipe
from backdrop_export.checkpoints.writing import links_reach
from backdrop_server.errors import SetupError

_MARGIN = 0.05
"""Of the disk space needed: configurations, graphs' structure, logs."""
_LORA_PARTS = ("unet", "text_encoder", "text_encoder_2")


@dataclasses.dataclass(frozen=True)
class Disk:
    """Space on one file system, in bytes."""

    folder: str
    needed: int
    free: int

    def check(self, what: str) -> None:
        """Raise SetupError when ``what`` does not fit."""
        if self.needed > self.free:
            raise SetupError(
                f"{self.folder} has {self.free / 1e9:.3g} GB free, and {what} needs "
                f"{self.needed / 1e9:.3g} GB there; free some, or choose another folder with --out"
            )


def check_space(recipe: Recipe, pieces: Pieces, out: Path) -> None:
    """Raise SetupError when downloads and what assembling writes do not fit on the disk."""
    download = sum(
        piece.listing.files[path]
        for piece in pieces.values()
        for path in piece.listing.to_download(piece.paths)
    )
    for disk in disks(out, written_size(recipe, pieces, out), download):
        disk.check(f"the bundle {recipe.name}")


def written_size(recipe: Recipe, pieces: Pieces, out: Path) -> int:
    """Bytes of what is not linked: conversions, fused components, and copies."""
    total = 0
    converted = converted_parts(pieces)
    for part, piece in pieces.items():
        linked = links_reach(piece.listing.root or _cache(), out)
        fused = recipe.lora and part in _LORA_PARTS and part not in converted
        pickled = part == ADAPTER and piece.files[0].endswith(".bin")
        if part == SINGLE_FILE or fused or pickled or not linked:
            total += piece.bytes
    return total


def disks(out: Path, written: int, download: int) -> tuple[Disk, ...]:
    """What ``written`` bytes in ``out`` and ``download`` bytes in the hub's cache need, by disk."""
    needs: dict[int, tuple[Path, int]] = {}
    for folder, size in ((out, written), (_cache(), download)):
        place = existing(folder)
        device = place.stat().st_dev
        first, before = needs.get(device, (folder, 0))
        needs[device] = (first, before + int(size * (1 + _MARGIN)))
    return tuple(
        Disk(str(folder), needed, shutil.disk_usage(existing(folder)).free)
        for folder, needed in needs.values()
        if needed
    )


def _cache() -> Path:
    from huggingface_hub import constants

    return existing(Path(constants.HF_HUB_CACHE))


def existing(folder: Path) -> Path:
    """``folder``, or the nearest one above it that is there."""
    folder = folder.absolute()
    while not folder.exists():
        folder = folder.parent
    return folder
