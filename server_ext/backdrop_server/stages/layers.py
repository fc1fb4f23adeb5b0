"""The finished picture as layers: background, shadow, subject; and the picture made of them."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

from backdrop_server.plan import Plan
from backdrop_server.stages.composite import darken, harmonize, paste_back
from backdrop_server.stages.foreground import edge_colours, with_colours
from backdrop_server.stages.pictures import resize
from backdrop_server.stages.shadow import cast_shadow

Pixels = npt.NDArray[np.uint8]


@dataclasses.dataclass(frozen=True, eq=False)
class Cutout:
    """The product apart from its old background, at the photo's size.

    ``foreground`` uint8 [H, W, 3], the photo bit for bit where ``alpha`` uint8 [H, W] is 255;
    ``shadow`` uint8 [H, W], 255 = no light, None for none; ``wraps``: whether the light of the
    surroundings falls on its edge.
    """

    foreground: Pixels
    alpha: Pixels
    shadow: Pixels | None = None
    wraps: bool = False

    def over(self, background: Pixels) -> Pixels:
        """The picture before ``background`` uint8 [h, w, 3], which is resized: uint8 [H, W, 3]."""
        behind = resize(background, self.alpha.shape[1], self.alpha.shape[0])
        if self.shadow is not None:
            behind = darken(behind, self.shadow)
        front = self.foreground
        if self.wraps:
            front = harmonize(front, self.alpha, behind)
        return paste_back(front, self.alpha, behind)

    def layers(self, backgrounds: Iterable[Pixels]) -> list[Pixels]:
        """RGBA uint8 [H, W, 4]: each background, then the shadow in black, then the subject.

        Laid over each other in linear light they are the picture, but for ``wraps``, which depends
        on the background.
        """
        height, width = self.alpha.shape
        whole = np.full_like(self.alpha, 255)
        made = [np.dstack([resize(behind, width, height), whole]) for behind in backgrounds]
        shadow = np.zeros((height, width, 4), np.uint8)
        if self.shadow is not None:
            shadow[..., 3] = self.shadow
        return [*made, shadow, np.dstack([self.foreground, self.alpha])]


def colours_of(plan: Plan, photo: Pixels, alpha: Pixels) -> Pixels:
    """The product's colours [N, 3] at the soft edge of ``alpha``, as `edge_colours`.

    A file's own transparency has its own colours under it: there are none to give. Under any other
    matte the old background shines through the edge, and is taken out.
    """
    if plan.matte_source == "alpha":
        return np.empty((0, 3), np.uint8)
    return edge_colours(photo, alpha)


def cut_out(plan: Plan, photo: Pixels, alpha: Pixels, colours: Pixels) -> Cutout:
    """The product of ``photo`` uint8 [H, W, 3] by ``alpha`` uint8 [H, W] as ``plan`` asks for it.

    ``colours``: its `colours_of`.
    """
    foreground = with_colours(photo, alpha, colours)
    shadow = None
    if plan.shadow != "off" and plan.shadow_strength > 0:
        shadow = cast_shadow(alpha, plan.shadow, plan.shadow_direction, plan.shadow_strength)
    return Cutout(foreground, alpha, shadow, plan.harmonize)
