"""The matte: which pixels of the photo are the product, and the masks made of it."""

from __future__ import annotations

import dataclasses
import functools
from concurrent.futures import Executor

import cv2
import numpy as np
import numpy.typing as npt

from backdrop_server.errors import InvalidInputError
from backdrop_server.stages.edges import sureness
from backdrop_server.stages.grabcut import grabcut, softened
from backdrop_server.stages.keying import key_uniform_background
from backdrop_server.stages.matting import (
    DOUBT,
    OWN_MATTING,
    MattingNetwork,
    corrected,
    doubt,
    is_believable,
    network_input,
)
from backdrop_server.stages.pictures import Picture, resize_matte
from backdrop_server.stages.upsampling import along_edges

Pixels = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]

SMALLEST_SUBJECT = 5e-4
LARGEST_SUBJECT = 0.98
KEYED = "uniform background"
"""The source of a matte that was keyed out."""
TRUST = 0.6
"""How far GrabCut's matte can be trusted where its outline is clear, alone or led by a network that is
all doubt."""
ROUGH_PIXELS = 512 * 512
"""The size of the copy in which a uniform background is keyed out first: a smaller one shows less than
our network sees, and at 1024x1024 this one still has 16 pixels for each of the latents' mask."""
PART, ANOTHER = 5, 0.05
"""A part of a rough matte is so many pixels wide; parts of this share of it make another subject."""
SURE_KEY = 0.97
"""A keyed matte that is as sure looks complete: our own network has to be without doubt, too."""


@dataclasses.dataclass(frozen=True, eq=False)
class Matte:
    """``alpha`` uint8 [H, W], 255 = subject; ``source`` names the way it was found.

    ``sureness`` is 0 to 1: 1 for a matte that was given. ``maps``: of a rough matte, what our own
    network said, if it is believed, [2, side, side].
    """

    alpha: Pixels
    source: str
    sureness: float = 1.0
    maps: Floats | None = None


def find_matte(
    picture: Picture,
    mask: Pixels | None = None,
    network: MattingNetwork | None = None,
    beside: Executor | None = None,
) -> Matte:
    """Find the subject of a photo, at the photo's size: `rough_matte`, and `refined`."""
    return refined(picture.rgb, rough_matte(picture, mask, network, beside))


def rough_matte(
    picture: Picture,
    mask: Pixels | None = None,
    network: MattingNetwork | None = None,
    beside: Executor | None = None,
) -> Matte:
    """Find the subject of a photo, by the surest way that applies.

    A ``mask`` (uint8 [H, W], 255 = repaint) is taken as it is; else the photo's own transparency,
    if it hides something; else a published matting ``network`` is asked. Without one a uniform
    background is keyed out from the border, and our own network corrects that as far as it is to be
    believed; before any other background GrabCut starts from what our network sees, or, without it,
    from all but the border. Equal inputs give equal mattes. What our network sees is made ready by
    ``beside`` while this thread keys.

    Of a photo larger than ROUGH_PIXELS a uniform background is keyed out of a copy of that size. Such
    a matte has the copy's size, and `refined` is to follow; any other is finished.
    Raises InvalidInputError where no subject, or nothing but subject, is found.
    """
    if mask is not None:
        return Matte(np.subtract(255, mask, dtype=np.uint8), "mask")
    if picture.alpha is not None and _share(picture.alpha) <= LARGEST_SUBJECT:
        return _checked(Matte(picture.alpha, "alpha"))
    if network is not None and not network.spec.keyed:
        return _checked(_found(picture.rgb, network.alpha(picture.rgb), network.kind))
    seen = _copy(picture.rgb)
    if network is not None:
        return _checked(_by_our_own(picture.rgb, seen, network, beside))
    keyed = key_uniform_background(seen)
    if keyed is None:
        return _checked(_found(picture.rgb, grabcut(picture.rgb), "grabcut", TRUST))
    return _checked(_found(seen, keyed, KEYED))


def refined(rgb: Pixels, rough: Matte) -> Matte:
    """The matte of the photo ``rgb`` uint8 [H, W, 3], at its size, whose `rough_matte` is given.

    The background is keyed out once more, of the photo itself. Where that finds another subject, the
    rough matte is drawn along the photo's edges, since the new scene is painted around it.
    """
    if rough.alpha.shape == rgb.shape[:2]:
        return dataclasses.replace(rough, maps=None)
    keyed = key_uniform_background(rgb)
    if keyed is not None:
        alpha = keyed if rough.maps is None else corrected(rgb, rough.maps, keyed)
        if not _is_another(alpha, rough.alpha):
            return _found(rgb, alpha, rough.source)
    return _found(rgb, _drawn(rgb, rough.alpha), rough.source, TRUST)


def _drawn(rgb: Pixels, rough: Pixels) -> Pixels:
    """A rough matte uint8 [h, w] along the edges of the photo: uint8 [H, W]."""
    known = rough.astype(np.float32) / 255
    share = along_edges(known, _shrunk(rgb, rough.shape[1], rough.shape[0]), rgb)
    if doubt(known) <= DOUBT:
        return softened(rgb, share > 0.5)
    # Glass is more than its edges.
    clear: Pixels = np.rint(255 * np.clip(share, 0, 1)).astype(np.uint8)
    return clear


def _copy(rgb: Pixels) -> Pixels:
    """The photo at a size of about ROUGH_PIXELS, if it is larger."""
    height, width = rgb.shape[:2]
    scale = min(1.0, (ROUGH_PIXELS / (height * width)) ** 0.5)
    return _shrunk(rgb, max(1, round(width * scale)), max(1, round(height * scale)))


def _shrunk(picture: Pixels, width: int, height: int) -> Pixels:
    if picture.shape[:2] == (height, width):
        return picture
    small: Pixels = cv2.resize(picture, (width, height), interpolation=cv2.INTER_AREA)
    return small


def _is_another(alpha: Pixels, rough: Pixels) -> bool:
    """Whether two mattes differ by more than their edges: in whole parts, at the rough one's size."""
    small = _shrunk(alpha, rough.shape[1], rough.shape[0])
    differs = ((small >= 128) != (rough >= 128)).astype(np.uint8)
    parts = cv2.morphologyEx(differs, cv2.MORPH_OPEN, np.ones((PART, PART), np.uint8))
    return np.count_nonzero(parts) > ANOTHER * np.count_nonzero(rough >= 128)


def _by_our_own(
    rgb: Pixels, seen: Pixels, network: MattingNetwork, beside: Executor | None
) -> Matte:
    look = functools.partial(network_input, seen, network.spec)
    given = look if beside is None else beside.submit(look).result
    keyed = key_uniform_background(seen)
    if keyed is None:
        return _cut_out(rgb, network.share(given()))
    key = functools.cache(lambda: _found(seen, keyed, KEYED))
    maps = network.maps(given(), keyed)
    if not is_believable(maps, keyed, lambda: key().sureness >= SURE_KEY):
        return key()
    return dataclasses.replace(_found(seen, corrected(seen, maps, keyed), OWN_MATTING), maps=maps)


def working_mask(alpha: Pixels, width: int, height: int) -> Pixels:
    """The mask for inpainting, uint8 [height, width] in {0, 255}; 255 = repaint.

    ``alpha`` is uint8 [H0, W0], 255 = subject; what is less than half subject is repainted.
    """
    own = resize_matte(alpha, width, height)
    mask: Pixels = cv2.threshold(own, 127, 255, cv2.THRESH_BINARY_INV)[1]
    return mask


def latent_mask(mask: Pixels, vae_scale_factor: int) -> Pixels:
    """The mask at latent size, uint8 [h, w] in {0, 1}; 1 = repaint.

    Picks the pixels that ``torch.nn.functional.interpolate`` picks in its ``nearest`` mode.
    ``mask`` is uint8 [H, W] in {0, 255}, both sides multiples of ``vae_scale_factor``.
    """
    return (mask[::vae_scale_factor, ::vae_scale_factor] >= 128).astype(np.uint8)


def _share(alpha: Pixels) -> float:
    return np.count_nonzero(alpha >= 128) / alpha.size


def _found(rgb: Pixels, alpha: Pixels, source: str, trust: float = 1.0) -> Matte:
    return Matte(alpha, source, round(trust * sureness(rgb, alpha), 3))


def _cut_out(rgb: Pixels, share: Floats) -> Matte:
    """The matte by GrabCut, from our own network's ``share`` where that leads to a subject."""
    alpha = grabcut(rgb, share)
    if _is_subject(alpha):
        return _found(rgb, alpha, OWN_MATTING, 1 - (1 - TRUST) * doubt(share))
    return _found(rgb, grabcut(rgb), "grabcut", TRUST)


def _is_subject(alpha: Pixels) -> bool:
    return SMALLEST_SUBJECT <= _share(alpha) <= LARGEST_SUBJECT


def _checked(matte: Matte) -> Matte:
    if _is_subject(matte.alpha):
        return matte
    found = "background" if _share(matte.alpha) < 0.5 else "product"
    raise InvalidInputError(
        "image",
        f"no subject could be told from its background: all of it looks like {found}",
        "a photo with a plain or transparent background around the product, or a mask_image",
    )
