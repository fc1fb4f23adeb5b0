"""The matte: which pixels of the photo are the product, and the masks made of it."""

from __future__ import annotations

import dataclasses

import cv2
import numpy as np
import numpy.typing as npt

from backdrop_server.errors import InvalidInputError
from backdrop_server.stages.edges import sureness
from backdrop_server.stages.keying import (
    as_alpha,
    border,
    connected_to_border,
    key_uniform_background,
    large_parts,
)
from backdrop_server.stages.matting import MattingNetwork
from backdrop_server.stages.pictures import Picture, resize
from backdrop_server.stages.upsampling import along_edges

Pixels = npt.NDArray[np.uint8]

SMALLEST_SUBJECT = 5e-4
LARGEST_SUBJECT = 0.98
TRUST = {"grabcut": 0.6}
"""How far a way's matte can be trusted where its outline is clear: GrabCut fills holes, for one."""
SURE_KEY = 0.97
"""A keyed matte that is as sure looks complete: our own network has to be without doubt, too."""
GRABCUT_SIDE = 320
GRABCUT_ROUNDS = 3
GRABCUT_INSET = 0.04


@dataclasses.dataclass(frozen=True, eq=False)
class Matte:
    """``alpha`` uint8 [H, W], 255 = subject; ``source`` names the way it was found.

    ``sureness`` is 0 to 1: 1 for a matte that was given.
    """

    alpha: Pixels
    source: str
    sureness: float = 1.0


def find_matte(
    picture: Picture, mask: Pixels | None = None, network: MattingNetwork | None = None
) -> Matte:
    """Find the subject of a photo, by the surest way that applies.

    A ``mask`` (uint8 [H, W], 255 = repaint) is taken as it is; else the photo's own transparency,
    if it hides something; else a published matting ``network`` is asked. Without one a uniform
    background is keyed out from the border; our own network corrects that, or finds the subject
    before any other background, as far as it is to be believed; else GrabCut (Rother et al. 2004)
    separates the middle from the border. Equal inputs give equal mattes.
    Raises InvalidInputError where no subject, or nothing but subject, is found.
    """
    if mask is not None:
        return Matte(np.subtract(255, mask, dtype=np.uint8), "mask")
    if picture.alpha is not None and _share(picture.alpha) <= LARGEST_SUBJECT:
        return _checked(Matte(picture.alpha, "alpha"))
    if network is not None and not network.spec.keyed:
        return _checked(_found(picture, network.alpha(picture.rgb), network.kind))
    keyed = key_uniform_background(picture.rgb)
    key = None if keyed is None else _found(picture, keyed, "uniform background")
    if network is not None:
        is_sure = key is not None and key.sureness >= SURE_KEY
        corrected = network.corrected(picture.rgb, keyed, is_sure)
        if corrected is not None:
            return _checked(_found(picture, corrected, network.kind))
    return _checked(key or _found(picture, _grabcut(picture.rgb), "grabcut"))


def working_mask(alpha: Pixels, width: int, height: int) -> Pixels:
    """The mask for inpainting, uint8 [height, width] in {0, 255}; 255 = repaint.

    ``alpha`` is uint8 [H0, W0], 255 = subject; what is less than half subject is repainted.
    """
    return np.where(resize(alpha, width, height) < 128, 255, 0).astype(np.uint8)


def latent_mask(mask: Pixels, vae_scale_factor: int) -> Pixels:
    """The mask at latent size, uint8 [h, w] in {0, 1}; 1 = repaint.

    Picks the pixels that ``torch.nn.functional.interpolate`` picks in its ``nearest`` mode.
    ``mask`` is uint8 [H, W] in {0, 255}, both sides multiples of ``vae_scale_factor``.
    """
    return (mask[::vae_scale_factor, ::vae_scale_factor] >= 128).astype(np.uint8)


def _share(alpha: Pixels) -> float:
    return np.count_nonzero(alpha >= 128) / alpha.size


def _found(picture: Picture, alpha: Pixels, source: str) -> Matte:
    share = TRUST.get(source, 1.0) * sureness(picture.rgb, alpha)
    return Matte(alpha, source, round(share, 3))


def _checked(matte: Matte) -> Matte:
    share = _share(matte.alpha)
    if SMALLEST_SUBJECT <= share <= LARGEST_SUBJECT:
        return matte
    what = "all of it looks like background" if share < 0.5 else "all of it looks like product"
    raise InvalidInputError(
        "image",
        f"no subject could be told from its background: {what}",
        "a photo with a plain or transparent background around the product, or a mask_image",
    )


# --- GrabCut --------------------------------------------------------------------------------------


def _grabcut(rgb: Pixels) -> Pixels:
    height, width = rgb.shape[:2]
    scale = min(1.0, GRABCUT_SIDE / max(height, width))
    small = resize(rgb, max(1, round(width * scale)), max(1, round(height * scale)))
    if min(small.shape[:2]) < 8:
        return np.zeros((height, width), np.uint8)
    subject = _closed(large_parts(_cut(small)))
    share = along_edges(subject.astype(np.float32), small, rgb)
    return as_alpha(np.clip(share * 1.6 - 0.3, 0, 1))


def _cut(rgb: Pixels) -> npt.NDArray[np.bool_]:
    """GrabCut from a rectangle just inside the border."""
    height, width = rgb.shape[:2]
    labels = np.full((height, width), cv2.GC_PR_FGD, np.uint8)
    depth = max(1, round(min(height, width) * GRABCUT_INSET))
    labels[border(height, width, depth)] = cv2.GC_BGD
    cv2.setRNGSeed(0)  # OpenCV keeps one generator per thread, and GrabCut starts from k-means
    cv2.grabCut(
        rgb, labels, None, np.zeros((1, 65)), np.zeros((1, 65)),
        GRABCUT_ROUNDS, cv2.GC_INIT_WITH_MASK,
    )  # fmt: skip
    return np.isin(labels, (cv2.GC_FGD, cv2.GC_PR_FGD))


def _closed(subject: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """The subject without its holes and hairline cracks."""
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (5, 5))
    solid = cv2.morphologyEx(subject.astype(np.uint8), cv2.MORPH_CLOSE, disc)
    return ~connected_to_border(solid == 0)
