"""The matte: which pixels of the photo are the product, and the masks made of it."""

from __future__ import annotations

import dataclasses
import functools
from concurrent.futures import Executor

import numpy as np
import numpy.typing as npt

from backdrop_server.errors import InvalidInputError
from backdrop_server.stages.edges import sureness
from backdrop_server.stages.grabcut import grabcut
from backdrop_server.stages.keying import key_uniform_background
from backdrop_server.stages.matting import OWN_MATTING, MattingNetwork, doubt, network_input
from backdrop_server.stages.pictures import Picture, resize

Pixels = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]

SMALLEST_SUBJECT = 5e-4
LARGEST_SUBJECT = 0.98
KEYED = "uniform background"
"""The source of a matte that was keyed out."""
TRUST = 0.6
"""How far GrabCut's matte can be trusted where its outline is clear, alone or led by a network that is
all doubt."""
SURE_KEY = 0.97
"""A keyed matte that is as sure looks complete: our own network has to be without doubt, too."""


@dataclasses.dataclass(frozen=True, eq=False)
class Matte:
    """``alpha`` uint8 [H, W], 255 = subject; ``source`` names the way it was found.

    ``sureness`` is 0 to 1: 1 for a matte that was given.
    """

    alpha: Pixels
    source: str
    sureness: float = 1.0


def find_matte(
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
    Raises InvalidInputError where no subject, or nothing but subject, is found.
    """
    if mask is not None:
        return Matte(np.subtract(255, mask, dtype=np.uint8), "mask")
    if picture.alpha is not None and _share(picture.alpha) <= LARGEST_SUBJECT:
        return _checked(Matte(picture.alpha, "alpha"))
    if network is not None and not network.spec.keyed:
        return _checked(_found(picture, network.alpha(picture.rgb), network.kind))
    if network is not None:
        return _checked(_by_our_own(picture, network, beside))
    keyed = key_uniform_background(picture.rgb)
    if keyed is None:
        return _checked(_found(picture, grabcut(picture.rgb), "grabcut", TRUST))
    return _checked(_found(picture, keyed, KEYED))


def _by_our_own(picture: Picture, network: MattingNetwork, beside: Executor | None) -> Matte:
    look = functools.partial(network_input, picture.rgb, network.spec)
    given = look if beside is None else beside.submit(look).result
    keyed = key_uniform_background(picture.rgb)
    if keyed is None:
        return _cut_out(picture, network.share(given()))
    key = functools.cache(lambda: _found(picture, keyed, KEYED))
    corrected = network.corrected(picture.rgb, given(), keyed, lambda: key().sureness >= SURE_KEY)
    return key() if corrected is None else _found(picture, corrected, OWN_MATTING)


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


def _found(picture: Picture, alpha: Pixels, source: str, trust: float = 1.0) -> Matte:
    return Matte(alpha, source, round(trust * sureness(picture.rgb, alpha), 3))


def _cut_out(picture: Picture, share: Floats) -> Matte:
    """The matte by GrabCut, from our own network's ``share`` where that leads to a subject."""
    alpha = grabcut(picture.rgb, share)
    if _is_subject(alpha):
        return _found(picture, alpha, OWN_MATTING, 1 - (1 - TRUST) * doubt(share))
    return _found(picture, grabcut(picture.rgb), "grabcut", TRUST)


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
