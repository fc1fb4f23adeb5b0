"""Matting networks: their published input sizes, normalisation and licences, and how they are run."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from backdrop_server.stages.evidence import add_key, features
from backdrop_server.stages.upsampling import along_edges

Pixels = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]
Arrays = Mapping[str, npt.NDArray[Any]]
Run = Callable[[Arrays], Mapping[str, npt.NDArray[Any]]]

_IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_HALF = (0.5, 0.5, 0.5), (1.0, 1.0, 1.0)
SOLID, EMPTY = 0.95, 0.05
"""Shares beyond these are all subject or none: a network says 0.99 where a core must be exact."""
OWN_SOLID, OWN_EMPTY = 0.95, 0.02
"""The same for our own network, whose last layer clips already."""
CORE, PALE_CORE = 0.4, 0.2
"""Inside its outline a product is solid, or clear as glass is, of which our network gives about 0.3:
shares from the first are solid, from the second where keying saw the ground's own colour: a pale
product, since glass changes it."""
CORE_DEPTH = 2
"""Pixels from such a core's rim, where shares are those of a soft edge."""
KEYED_DEPTH = 3
"""Pixels from its rim where what keying holds is believed: it may hold too much, at rims and in
holes, but a network that was trained on renderings doubts the insides of real products."""
RIM = 0.5
"""The share from which the insides of a clear product's solid parts, its rim and foot, are solid."""
DOUBT = 0.1
"""The most `doubt` with which our own network is believed against a keyed matte that looks complete:
beyond it, it may lose parts of objects that it was not trained on."""
DOUBT_WIDTH = 5
"""Pixels of the network's map: soft edges are narrower."""
SEE_THROUGH = (0.15, 0.5)
"""Shares of glass: most of what one sees in it is the ground."""
MOSTLY = 0.68
"""A product is see-through where so much of its inside is. Of opaque ones, pale ones on white among
them, the network says it of less."""
FOUND_NOTHING = 0.1
"""A map whose values differ by less holds no subject; stretching it would draw noise."""
OWN_MATTING = "backdrop"
"""Our own network's kind, and the stem of its files beside `preprocess`."""


@dataclasses.dataclass(frozen=True)
class MattingSpec:
    """A published network: RGB of 0 to 1, resized to ``side`` x ``side``, less ``mean``, by ``std``.

    The first output [1, 1, side, side] is the map; ``logits``: before its sigmoid; ``stretched``: the
    published code stretches it to 0 to 1; ``by_brightest``: it divides the picture by its largest
    value. ``source``: where it is published; ``repositories``: hub ids that this licence covers.
    """

    side: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    licence: str
    source: str
    logits: bool = False
    stretched: bool = True
    by_brightest: bool = False
    commercial: bool = True
    repositories: tuple[str, ...] = ()
    keyed: bool = False
    """Our own network: it sees the ``evidence`` too and gives two maps [1, 2, side, side], its share
    and how far that is to replace the keyed one."""

    @property
    def maps(self) -> int:
        """Maps in the first output."""
        return 2 if self.keyed else 1


MATTING_SPECS: Mapping[str, MattingSpec] = {
    "u2net": MattingSpec(
        320, *_IMAGENET, "Apache-2.0", "github.com/xuebinqin/U-2-Net", by_brightest=True
    ),
    "isnet": MattingSpec(1024, *_HALF, "Apache-2.0", "github.com/xuebinqin/DIS"),
    "birefnet": MattingSpec(
        1024, *_IMAGENET, "MIT", "github.com/ZhengPeng7/BiRefNet", logits=True, stretched=False
    ),
    "rmbg-1.4": MattingSpec(
        1024, *_HALF, "bria-rmbg-1.4, non-commercial", "huggingface.co/briaai/RMBG-1.4",
        commercial=False, repositories=("briaai/RMBG-1.4",),
    ),
    "rmbg-2.0": MattingSpec(
        1024, *_IMAGENET, "CC BY-NC 4.0", "huggingface.co/briaai/RMBG-2.0",
        logits=False, stretched=False, commercial=False, repositories=("briaai/RMBG-2.0",),
    ),
    OWN_MATTING: MattingSpec(
        384, *_HALF, "Apache-2.0", "backdrop-export train matting", stretched=False, keyed=True
    ),
}  # fmt: skip


@dataclasses.dataclass(frozen=True, eq=False)
class MattingNetwork:
    """A network that is at hand: ``run`` takes and gives arrays by name; ``device`` computes it."""

    kind: str
    run: Run
    input_name: str
    output_name: str
    device: str = "cpu"

    @property
    def spec(self) -> MattingSpec:
        """What the network's kind says of it."""
        return MATTING_SPECS[self.kind]

    def alpha(self, rgb: Pixels) -> Pixels:
        """The matte uint8 [H, W] of ``rgb`` uint8 [H, W, 3]; all 0 where it finds no subject.

        For a published network; our own is asked for its `maps`.
        """
        share = _share(self._maps(network_input(rgb, self.spec))[0], self.spec)
        whole = cv2.resize(share, (rgb.shape[1], rgb.shape[0]))
        return _stretched(whole, EMPTY, SOLID)

    def share(self, given: Floats) -> Floats:
        """Our own network's map of the subject before a ground that is not uniform, [side, side].

        ``given``: the photo's `network_input`.
        """
        share: Floats = self._maps(given)[0]
        return share

    def maps(self, given: Floats, keyed: Pixels) -> Floats:
        """Our own network's share and gate [2, side, side] over the matte that was keyed out.

        ``given``: the photo's `network_input`, into which ``keyed`` is put, uint8 [H, W].
        """
        add_key(given[0], _shrunk(keyed, self.spec.side))
        return self._maps(given)

    def _maps(self, given: Floats) -> Floats:
        output = np.asarray(self.run({self.input_name: given})[self.output_name], np.float32)
        return output.reshape(self.spec.maps, *output.shape[-2:])

    def warm_up(self) -> None:
        """Ask once of an empty picture, so that no request waits for the memory of the first run."""
        side = self.spec.side
        self._maps(network_input(np.zeros((side, side, 3), np.uint8), self.spec))


def declaration_of(path: Path) -> Path:
    """The file that tells what the network in ``path`` is: its kind, engine and precision."""
    return path.with_name(f"{path.stem}_network.json")


def is_believable(maps: Floats, keyed: Pixels, is_sure: Callable[[], bool]) -> bool:
    """Whether `corrected` is to be done with our own network's ``maps`` [2, h, w].

    ``is_sure`` tells whether ``keyed`` uint8 [H, W] looks complete, where that matters.
    """
    share = maps[0]
    return (
        is_see_through(share, _shrunk(keyed, len(share))) or doubt(share) <= DOUBT or not is_sure()
    )


def corrected(rgb: Pixels, maps: Floats, keyed: Pixels) -> Pixels:
    """``keyed`` uint8 [H, W] with what our own network's ``maps`` [2, h, w] have in its place.

    ``rgb`` uint8 [H, W, 3] is the photo at the size of ``keyed``, which may be another than that
    which the network saw.
    """
    share, gate = maps
    own = share
    if share.shape != rgb.shape[:2]:
        own = along_edges(share, _shrunk(rgb, len(share)), rgb)
    return _replaced(own, gate, keyed, is_see_through(share, _shrunk(keyed, len(share))))


def network_input(rgb: Pixels, spec: MattingSpec) -> Floats:
    """What the network sees of ``rgb`` uint8 [H, W, 3]: float32 [1, channels, side, side].

    For our own network without the key of a uniform ground.
    """
    small = _shrunk(rgb, spec.side)
    if spec.keyed:
        return features(small)[None]
    brightest = max(1, int(small.max())) if spec.by_brightest else 255
    scaled = small.astype(np.float32) / brightest
    normal = (scaled - np.array(spec.mean, np.float32)) / np.array(spec.std, np.float32)
    return np.ascontiguousarray(normal.transpose(2, 0, 1)[None])


def _shrunk(picture: Pixels, side: int) -> Pixels:
    way = cv2.INTER_AREA if max(picture.shape[:2]) > side else cv2.INTER_LINEAR
    small: Pixels = cv2.resize(picture, (side, side), interpolation=way)
    return small


def _replaced(own: Floats, gate: Floats, keyed: Pixels, clear: bool) -> Pixels:
    """``keyed`` where ``gate`` [h, w] is 0, bit for bit, and ``own`` [H, W] where it is 1.

    The insides of both are solid, unless the product is ``clear``, as glass is.
    """
    part = cv2.resize(gate, keyed.shape[::-1])
    mixed = keyed / np.float32(255) * (1 - part) + own * part
    if clear:
        alpha = _with_core(mixed, mixed >= RIM, 1)
    else:
        alpha = _with_core(mixed, (mixed >= CORE) | ((mixed >= PALE_CORE) & (keyed < 128)))
        alpha[_inside(keyed == 255, KEYED_DEPTH)] = 255
    replaced: Pixels = np.where(part > 0, alpha, keyed)
    return replaced


def _with_core(share: Floats, core: npt.NDArray[np.bool_], depth: int = CORE_DEPTH) -> Pixels:
    """The matte of a share, solid ``depth`` pixels inside ``core``."""
    alpha = _stretched(share, OWN_EMPTY, OWN_SOLID)
    alpha[_inside(core, depth)] = 255
    return alpha


def _inside(region: npt.NDArray[np.bool_], depth: int) -> npt.NDArray[np.bool_]:
    """What is left of a region ``depth`` pixels from its rim."""
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * depth + 1,) * 2)
    inside: npt.NDArray[np.bool_] = cv2.erode(region.astype(np.uint8), disc) > 0
    return inside


def doubt(share: Floats) -> float:
    """The area that is neither subject nor ground in ``share`` [h, w], over the subject's; 1 at most.

    Soft edges are left out. A share that finds nothing is all doubt.
    """
    unsure = ((share > 0.1) & (share < 0.9)).astype(np.uint8)
    broad = cv2.erode(unsure, np.ones((DOUBT_WIDTH, DOUBT_WIDTH), np.uint8))
    subject = np.count_nonzero(share > 0.5)
    return min(1.0, np.count_nonzero(broad) / subject) if subject else 1.0


def is_see_through(share: Floats, keyed: Pixels) -> bool:
    """Whether most of what was keyed out, uint8 [h, w], is see-through by the network's ``share``."""
    inside = share[_inside(keyed > 250, KEYED_DEPTH)]
    low, high = SEE_THROUGH
    return bool(inside.size and ((inside > low) & (inside < high)).mean() >= MOSTLY)


def _stretched(share: Floats, empty: float, solid: float) -> Pixels:
    alpha: Pixels = np.rint(255 * np.clip((share - empty) / (solid - empty), 0, 1)).astype(np.uint8)
    return alpha


def _share(output: Floats, spec: MattingSpec) -> Floats:
    share = 1 / (1 + np.exp(-np.clip(output, -60, 60))) if spec.logits else output
    low, high = float(share.min()), float(share.max())
    if high - low < FOUND_NOTHING:
        return np.zeros_like(output)
    stretched: Floats = (share - low) / (high - low) if spec.stretched else share
    return stretched
