"""What scenes are painted with: noise, gradients, perspective planes, layers, light.

Pictures are float32 [side, side, 3] in 0..1, masks float32 [side, side] in 0..1. Positions are shares
of the side.
"""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
Rng = np.random.Generator
Colour = tuple[float, float, float] | Floats


def grid(side: int) -> tuple[Floats, Floats]:
    """x and y of each pixel's centre, 0..1."""
    steps = (np.arange(side, dtype=np.float32) + 0.5) / side
    x, y = np.meshgrid(steps, steps)
    return x, y


def noise(
    rng: Rng, side: int, cells: tuple[float, float], octaves: int = 4, gain: float = 0.5
) -> Floats:
    """Fractal noise [side, side] of mean 0.5, within 0..1; ``cells`` across (x, y)."""
    total = np.zeros((side, side), np.float32)
    weight, sum_of_weights = 1.0, 0.0
    for octave in range(octaves):
        columns, rows = (min(side, max(2, round(c * 2**octave) + 1)) for c in cells)
        coarse = rng.random((rows, columns), dtype=np.float32)
        total += weight * cv2.resize(coarse, (side, side), interpolation=cv2.INTER_CUBIC)
        sum_of_weights += weight
        weight *= gain
    spread: Floats = np.clip((total / sum_of_weights - 0.5) * 1.7 + 0.5, 0, 1)
    return spread


def line(rng: Rng, side: int, cells: float, octaves: int = 5, gain: float = 0.5) -> Floats:
    """Fractal noise [side] around 0, about -0.5..0.5: a ridge, a shore, an edge of a roof."""
    total = np.zeros(side, np.float32)
    weight, sum_of_weights = 1.0, 0.0
    for octave in range(octaves):
        count = min(side, max(3, round(cells * 2**octave) + 1))
        coarse = rng.random((1, count), dtype=np.float32)
        total += weight * cv2.resize(coarse, (side, 1), interpolation=cv2.INTER_CUBIC)[0]
        sum_of_weights += weight
        weight *= gain
    centred: Floats = total / sum_of_weights - 0.5
    return centred


def jitter(rng: Rng, colour: Colour, amount: float = 0.05) -> Floats:
    """The colour, a little brighter or darker and of another tint."""
    base = np.asarray(colour, np.float32)
    moved = base * (1 + rng.normal(0, amount)) * (1 + rng.normal(0, amount * 0.7, 3))
    clipped: Floats = np.clip(moved, 0, 1).astype(np.float32)
    return clipped


def choose(rng: Rng, colours: list[tuple[float, float, float]]) -> Floats:
    """One of the colours, jittered."""
    return jitter(rng, colours[int(rng.integers(len(colours)))])


def mix(first: Floats | Colour, second: Floats | Colour, share: Floats | float) -> Floats:
    """``first`` where ``share`` is 0, ``second`` where it is 1; masks are broadcast over colours."""
    part = np.asarray(share, np.float32)
    if part.ndim == 2:
        part = part[..., None]
    one, two = np.asarray(first, np.float32), np.asarray(second, np.float32)
    mixed: Floats = one + (two - one) * part
    return mixed


def ramp(values: Floats, low: float, high: float) -> Floats:
    """Smoothly 0 below ``low`` to 1 above ``high``."""
    t = np.clip((values - low) / (high - low), 0, 1)
    smooth: Floats = (t * t * (3 - 2 * t)).astype(np.float32)
    return smooth


def vertical(side: int, stops: list[tuple[float, Floats]]) -> Floats:
    """A vertical gradient through colours at heights 0 (top) to 1."""
    y = (np.arange(side, dtype=np.float32) + 0.5) / side
    places = [place for place, _ in stops]
    channels = [np.interp(y, places, [float(colour[c]) for _, colour in stops]) for c in range(3)]
    column = np.stack(channels, axis=1).astype(np.float32)
    return np.repeat(column[:, None], side, axis=1)


def blur(picture: Floats, sigma: float) -> Floats:
    """Gaussian blur, ``sigma`` in pixels."""
    if sigma < 0.2:
        return picture
    blurred: Floats = cv2.GaussianBlur(picture, (0, 0), sigma)
    return blurred


def below(side: int, height: Floats | float, softness: float = 1.0) -> Floats:
    """1 below a line (its height in each column, 0..1 from the top), over ``softness`` pixels."""
    _, y = grid(side)
    depth = (y - np.asarray(height, np.float32)) * side / softness
    covered: Floats = np.clip(depth + 0.5, 0, 1).astype(np.float32)
    return covered


def depth_below(side: int, horizon: float) -> Floats:
    """How near the ground is in each pixel: 0 at the horizon, 1 at the lower edge."""
    _, y = grid(side)
    near: Floats = np.clip((y - horizon) / max(1e-3, 1 - horizon), 0, 1)
    return near


def plane(texture: Floats, horizon: float, scale: float, turn: float = 0.0) -> Floats:
    """A texture [side, side(, 3)] on the ground below ``horizon``, far parts averaged away.

    Past its edges the texture goes on mirrored, so that no seam is seen.
    """
    side = texture.shape[0]
    x, y = grid(side)
    depth = 1 / np.clip(y - horizon, 0.012, None)
    along, across = depth * 0.5, (x - 0.5) * depth
    cos, sin = float(np.cos(turn)), float(np.sin(turn))
    u = ((across * cos - along * sin) * scale + 0.43) * side
    v = ((across * sin + along * cos) * scale + 0.31) * side
    warped = cv2.remap(
        texture, _mirrored(u, side), _mirrored(v, side),
        cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT,
    )  # fmt: skip
    mean = texture.mean(axis=(0, 1))
    far = ramp(depth * scale, 1.5, 9.0)
    if texture.ndim == 3:
        return mix(warped, mean, far)
    flat: Floats = warped + (float(mean) - warped) * far
    return flat


def _mirrored(place: Floats, side: int) -> Floats:
    folded: Floats = (side - np.abs(np.mod(place, 2 * side) - side)).astype(np.float32)
    return folded


def glow(side: int, centre: tuple[float, float], radius: float) -> Floats:
    """A soft light around ``centre`` (x, y), 1 in the middle."""
    x, y = grid(side)
    square = (x - centre[0]) ** 2 + (y - centre[1]) ** 2
    light: Floats = np.exp(-square / (2 * radius**2)).astype(np.float32)
    return light


def discs(
    rng: Rng, side: int, count: int, box: tuple[float, float, float, float],
    radius: tuple[float, float], colours: list[tuple[float, float, float]],
) -> Floats:  # fmt: skip
    """Bokeh: bright discs of light on black within ``box`` (left, top, right, bottom)."""
    picture = np.zeros((side, side, 3), np.float32)
    for _ in range(count):
        layer = np.zeros((side, side), np.float32)
        centre = (
            int(rng.uniform(box[0], box[2]) * side), int(rng.uniform(box[1], box[3]) * side)
        )  # fmt: skip
        size = max(1, int(rng.uniform(*radius) * side))
        cv2.circle(layer, centre, size, float(rng.uniform(0.2, 0.8)), -1, cv2.LINE_AA)
        picture += layer[..., None] * choose(rng, colours)
    return blur(picture, side * 0.006)


def finish(rng: Rng, picture: Floats) -> Floats:
    """Exposure, a slight vignette and grain, as a photo has them."""
    side = picture.shape[0]
    x, y = grid(side)
    corner = (x - 0.5) ** 2 + (y - 0.5) ** 2
    shade = 1 - float(rng.uniform(0, 0.45)) * corner
    exposed = picture * shade[..., None] * float(rng.uniform(0.9, 1.1))
    exposed = exposed + rng.normal(0, 0.006, picture.shape).astype(np.float32)
    clipped: Floats = np.clip(exposed, 0, 1).astype(np.float32)
    return clipped
