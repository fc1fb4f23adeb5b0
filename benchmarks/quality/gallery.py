"""Pictures for docs/quality.md: photo, matte, thresholding's cut and ours, before a dark ground.

python -m benchmarks.quality.gallery
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from backdrop_client import examples
from backdrop_server.stages.composite import paste_back
from backdrop_server.stages.layers import Cutout
from backdrop_server.stages.shadow import KINDS, cast_shadow
from benchmarks.quality import rivals
from benchmarks.quality.dataset import Sample, samples
from benchmarks.quality.grounds import photo_files
from benchmarks.quality.mattes import ours, shipped_network

Pixels = npt.NDArray[np.uint8]

PICTURES = Path(__file__).parents[2] / "docs" / "pictures"
SHOWN = ("mug on gradient 0", "chain on coloured 0", "ring on gradient 1")
HARD = ("glass on gradient 1", "pale shoe on white 3", "ring on photo 0")
DARK, PALE = (28, 44, 70), (226, 214, 196)


def row(sample: Sample) -> Pixels:
    """The photo, the matte found, thresholding with hard paste, and ours: uint8 [H, 4 W, 3]."""
    alpha, foreground, _ = ours(sample, shipped_network())
    dark = _plain(sample.photo, DARK)
    rival = paste_back(sample.photo, rivals.threshold(sample.photo), dark)
    parts = [sample.photo, np.dstack([alpha] * 3), rival, paste_back(foreground, alpha, dark)]
    return np.hstack(parts)


def shadows(sample: Sample) -> Pixels:
    """The product with each kind of shadow, side by side."""
    alpha, foreground, _ = ours(sample, shipped_network())
    pale = _plain(sample.photo, PALE)
    cast = [cast_shadow(alpha, kind, 40, 0.6) for kind in KINDS]
    return np.hstack([Cutout(foreground, alpha, shadow).over(pale) for shadow in cast])


def _plain(like: Pixels, colour: tuple[int, int, int]) -> Pixels:
    plain = np.empty_like(like)
    plain[:] = colour
    return plain


def main() -> None:
    """Write the three pictures."""
    photos = photo_files([examples.path("reference.jpg").parent])
    chosen = {s.name: s for s in samples(photos) if s.name in {*SHOWN, *HARD}}
    made = {
        "quality-mattes": np.vstack([row(chosen[name]) for name in SHOWN]),
        "quality-limits": np.vstack([row(chosen[name]) for name in HARD]),
        "quality-shadows": shadows(chosen[SHOWN[0]]),
    }
    for name, pixels in made.items():
        picture = Image.fromarray(pixels)
        picture.thumbnail((1000, 1000))
        picture.save(PICTURES / f"{name}.png", optimize=True)
        print(f"written: {name}.png")


if __name__ == "__main__":
    main()
