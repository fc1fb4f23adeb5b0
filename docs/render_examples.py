"""Render the example pictures of the client: a product photo, its cut-out and a surrounding.

The product is a soap bottle with a pump, sphere-traced as a signed distance field under studio
lights; the surrounding is a wooden table in front of a beach at sunset with a shallow focus.
"""

import argparse
from pathlib import Path
from typing import Any, TypeAlias

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont
from rich.progress import track

Array: TypeAlias = npt.NDArray[Any]

OUT = Path(__file__).resolve().parent.parent / "client" / "backdrop_client" / "examples"
SIZE, GRID, BAND = 1024, 4, 64  # pixels, sub-samples per side, rows per step
LABEL_ANGLE, LABEL_LOW, LABEL_HIGH = 0.72, 0.62, 2.28
TEXT = "420 170 5 ALBA|600 54 1 BOTANICAL HAND WASH|760 50 1 orange blossom|825 50 1 & vetiver"
TEXT += "|1000 46 0 250 ml  /  8.4 fl oz"  # top, size, boldness, words
BODY, GOLD = np.array([[0.001, 0.11, 0.145], [0.95, 0.66, 0.34]], np.float32)
PAPER = np.array([0.965, 0.96, 0.95], np.float32)  # the studio's sweep
EYE, TARGET, ZOOM = np.array([0, 4, 15], np.float32), np.array([0.1, 2.13, 0], np.float32), 0.186
SUN = (0.17, 0.055)  # azimuth and elevation in radians
# Colour ramps: position and linear RGB of each stop.
DUSK = "0 1.5 .55 .16; .07 1.15 .46 .2; .18 .62 .3 .25; .34 .22 .18 .28; .6 .1 .12 .24"
CLOUDS = "0 2.6 1.1 .4; .35 1.15 .42 .26; .9 .42 .22 .28"
WOOD = "0.1 .085 .026 .009; .5 .25 .095 .032; .95 .43 .2 .075"


def _smooth(low: float, high: float, x: Array) -> Array:
    t = np.clip((x - low) / (high - low), 0, 1)
    return np.asarray(t * t * (3 - 2 * t), np.float32)


def _mix(a: Array, b: Array, t: Array) -> Array:
    return np.asarray(a + (b - a) * t[..., None])


def _unit(v: Array) -> Array:
    return np.asarray(v / np.sqrt((v * v).sum(-1, keepdims=True) + np.float32(1e-12)))


def _vec(*parts: Array | float) -> Array:
    return np.asarray(np.stack(np.broadcast_arrays(*parts), -1), np.float32)


def _ramp(x: Array, stops: str) -> Array:
    table = np.array([row.split() for row in stops.split(";")], float).T
    return _vec(*(np.interp(x, table[0], channel) for channel in table[1:]))


def _lookup(table: Array, x: Array, y: Array, ease: bool = False) -> Array:
    """Sample a table (rows y, columns x) between its cells, clamped at the edges."""
    i = np.clip(x, 0, table.shape[1] - 2).astype(np.int32)
    j = np.clip(y, 0, table.shape[0] - 2).astype(np.int32)
    f, g = np.clip(x - i, 0, 1), np.clip(y - j, 0, 1)
    if ease:
        f, g = _smooth(0, 1, f), _smooth(0, 1, g)
    rows = (table[j + k, i] * (1 - f) + table[j + k, i + 1] * f for k in (0, 1))
    return np.asarray(next(rows) * (1 - g) + next(rows) * g, np.float32)


def _noise(x: Array, y: Array, octaves: int, seed: int) -> Array:
    """Fractal value noise, about 0 to 1."""
    table = np.pad(np.random.default_rng(seed).random((256, 256), np.float32), (0, 1), "wrap")
    waves = ((2**k, 17.3 * k, 9.1 * k) for k in range(octaves))
    cells = (((x * s + a) % 256, (y * s + b) % 256, s) for s, a, b in waves)
    total = sum((_lookup(table, u, v, ease=True) / (2 * s) for u, v, s in cells), np.float32(0))
    return np.asarray(total / (1 - 0.5**octaves))


def _film(linear: Array) -> Array:
    """Apply a gentle film shoulder and the display's gamma; return bytes."""
    x, knee = np.maximum(linear, 1e-6), 0.7
    x = np.where(x > knee, 1 - (1 - knee) * np.exp(-(x - knee) / (1 - knee)), x)
    return np.asarray(np.clip(1.055 * x ** (1 / 2.4) - 0.055, 0, 1) * 255 + 0.5, np.uint8)


def _drum(r: Array, y: Array, radius: float, low: float, high: float, edge: float) -> Array:
    """Distance to an upright cylinder with rounded edges."""
    qx, qy = r - (radius - edge), np.abs(y - (low + high) / 2) - ((high - low) / 2 - edge)
    outside = np.sqrt(np.maximum(qx, 0) ** 2 + np.maximum(qy, 0) ** 2)
    return np.asarray(outside + np.minimum(np.maximum(qx, qy), 0) - edge)


def _rod(p: Array, ax: float, ay: float, bx: float, by: float) -> Array:
    """Distance to a line that leaves the axis under the spout's angle."""
    px, py = p[..., 0] * 0.86 + p[..., 2] * 0.5 - ax, p[..., 1] - ay
    h = np.clip((px * bx + py * by) / (bx * bx + by * by), 0, 1)
    side = p[..., 0] * 0.5 - p[..., 2] * 0.86
    return np.asarray(np.sqrt((px - bx * h) ** 2 + (py - by * h) ** 2 + side * side))


def _parts(p: Array) -> tuple[Array, Array]:
    """Distances to the bottle's body and to its metal pump."""
    y, r = p[..., 1], np.sqrt(p[..., 0] ** 2 + p[..., 2] ** 2)
    body = np.maximum(_drum(r, y, 1.0, 0.0, 3.0, 0.3), _drum(r, y, 1.0, 0.0, 9.0, 0.07))
    pump = np.minimum(_drum(r, y, 0.45, 2.9, 3.40, 0.04), _drum(r, y, 0.13, 3.3, 3.9, 0.02))
    pump = np.minimum(pump, _drum(r, y, 0.30, 3.36, 3.5, 0.05))
    head = _drum(r, y, 0.33, 3.78, 4.16, 0.09)
    for part in (_rod(p, 0, 4.0, 0.98, 0.04) - 0.115, _rod(p, 0.98, 4.04, 0.12, -0.18) - 0.1):
        weld = np.maximum(0.1 - np.abs(head - part), 0) / 0.1
        head = np.minimum(head, part) - weld * weld * 0.025
    return body, np.minimum(pump, head)


def _distance(p: Array) -> Array:
    return np.asarray(np.minimum(*_parts(p)))


def _march(origin: Array, ray: Array, steps: int, far: float) -> Array:
    """Sphere-trace rays; return the distance to the bottle, or infinity."""
    hit, t = np.full(len(ray), np.inf, np.float32), np.zeros(len(ray), np.float32)
    alive = np.arange(len(ray))
    for _ in range(steps):
        p, up = origin[alive] + ray[alive] * t[alive, None], ray[alive, 1]
        d = _distance(p)
        near = d < 0.0012
        hit[alive[near]] = t[alive[near]]
        t[alive] += np.maximum(d, 0.001)
        gone = (p[:, 1] > 4.4) & (up > 0) | (p[:, 1] < -0.1) & (up < 0)
        alive = alive[~near & ~gone & (t[alive] < far)]
    return hit


def _normal(p: Array) -> Array:
    axes = np.array([[1, -1, -1], [-1, -1, 1], [-1, 1, -1], [1, 1, 1]], np.float32)
    return _unit(sum((_distance(p + 0.0015 * a)[:, None] * a for a in axes), np.zeros_like(p)))


def _softbox(a: Array, e: Array, box: tuple[float, float, float, float], edge: float) -> Array:
    """How much a lamp covers the direction; `box` is its azimuth and elevation in degrees."""
    (a0, a1, e0, e1), h = np.radians(box), edge
    across = _smooth(a0 - h, a0 + h, a) * _smooth(a1 + h, a1 - h, a)
    return np.asarray(across * _smooth(e0 - h, e0 + h, e) * _smooth(e1 + h, e1 - h, e))


def _studio(d: Array) -> Array:
    """Light of the studio from direction `d`: a white room, soft boxes and two black flags."""
    a, e = np.arctan2(d[..., 0], d[..., 2]), np.arcsin(np.clip(d[..., 1], -1, 1))
    room = 0.45 + 0.20 * _smooth(-0.2, 1.2, e) + 0.55 * _smooth(2.75, 3.0, np.abs(a))
    room *= 1 - 0.85 * _softbox(np.abs(a), e, (132, 160, -60, 40), 0.12)
    lamps = 8.0 * _softbox(a, e, (-122, -98, -26, 60), 0.035)
    lamps += 4.0 * _softbox(a, e, (103, 115, -26, 60), 0.03)
    lamps += 4.2 * _softbox(a, e, (-400, 400, 58, 400), 0.10)
    lamps += 0.8 * _softbox(a, e, (-66, -12, -40, 50), 0.22)
    return _vec(room + lamps, room + lamps * 0.97, room + lamps * 0.93)


def _sphere(count: int) -> Array:
    """Spread directions evenly over the sphere (Fibonacci spiral)."""
    y, a = 1 - (2 * np.arange(count) + 1) / count, np.arange(count) * np.pi * (3 - 5**0.5)
    return _vec(np.sqrt(1 - y * y) * np.sin(a), y, np.sqrt(1 - y * y) * np.cos(a))


def _basis(n: Array) -> Array:
    """Second-order polynomials of normals, enough to describe diffuse light."""
    x, y, z = n.T
    return _vec(1, x, y, z, x * y, y * z, z * x, x * x, z * z)


def _draw_label() -> Array:
    """Draw the printed label as linear RGB."""
    image = Image.new("RGB", (1000, 1150), "#f3ead9")
    draw, ink, brass = ImageDraw.Draw(image), "#173f45", "#b98a4a"
    draw.rectangle((34, 34, 965, 1115), outline=brass, width=5)
    for k in range(9):  # a small sprig of leaves
        y, s = 300.0 - 22 * k, 1 if k % 2 else -1
        leaf = [(500, y), (500 + s * 40, y - 44), (500 + s * 92, y - 50), (500 + s * 60, y - 8)]
        draw.polygon(leaf, fill="#c8743c" if k % 3 else brass)
    draw.line((500, 330, 500, 80), fill=ink, width=5)
    draw.line((360, 705, 640, 705), fill=brass, width=4)
    for top, size, bold, words in (line.split(" ", 3) for line in TEXT.split("|")):
        font = ImageFont.load_default(int(size))
        draw.text((500, int(top)), words, ink, font, anchor="mt", stroke_width=int(bold))
    return np.asarray((np.asarray(image, np.float32) / 255) ** 2.2, np.float32)


class Studio:
    """The bottle on a white sweep, with its light precomputed."""

    def __init__(self, seed: int) -> None:
        self.rng, self.label, light = np.random.default_rng(seed), _draw_label(), _sphere(3000)
        sent = np.where(light[:, 1:2] < 0, PAPER * 0.75, _studio(light)) * 4 / len(light)
        around = np.maximum(_sphere(400) @ light.T, 0) @ sent
        self.diffuse = np.linalg.lstsq(_basis(_sphere(400)), around, None)[0].astype(np.float32)
        self.floor = self._gather_floor()

    def _gather_floor(self) -> Array:
        """How much of the studio's light reaches the floor around the bottle."""
        z, x = np.mgrid[-6:4:121j, -5:5:121j].astype(np.float32)
        sky, p = _sphere(300)[:150], _vec(x, 0.0, z)
        weights = (_studio(sky).mean(-1) + 0.12) * sky[:, 1]
        total: Array = np.zeros_like(x)
        for d, weight in zip(sky, weights / weights.sum(), strict=True):
            steps = (0.5 + 3 * _distance(p + d * t) / t for t in 1.32 ** np.arange(-11, 7.0))
            total += weight * np.clip(np.minimum.reduce(list(steps)), 0, 1)
        return total

    def _sweep(self, origin: Array, ray: Array) -> Array:
        """Colour of the white sweep that a ray meets: the floor with the shadow, or the wall."""
        x, _, z = (origin + ray * (-origin[:, 1:2] / np.minimum(ray[:, 1:2], -1e-4))).T
        lit = _lookup(self.floor, (x + 5) * 12, (z + 6) * 12)
        lit += (1 - lit) * _smooth(3.2, 5.0, np.hypot(x, z + 0.5))
        return np.asarray(PAPER * lit[:, None] ** np.float32(1.25))

    def _material(self, p: Array) -> tuple[Array, Array, Array]:
        """Albedo, mirror colour and roughness of the surface at `p`."""
        body, pump = _parts(p)
        u = ((np.arctan2(p[:, 0], p[:, 2]) + 0.06) / LABEL_ANGLE + 1) / 2
        v = (LABEL_HIGH - p[:, 1]) / (LABEL_HIGH - LABEL_LOW)
        uv = np.stack([v, u], -1)
        metal, paper = (pump < body)[:, None], ((uv > 0) & (uv < 1)).all(-1, keepdims=True)
        row, column = (np.clip(uv, 0, 0.9999) * self.label.shape[:2]).astype(np.int32).T
        albedo = np.where(metal, 0, np.where(paper, self.label[row, column], BODY))
        mirror = np.where(metal, GOLD, np.where(paper, 0, 0.036)).astype(np.float32)
        return albedo, mirror, np.where(metal, 0.016, 0.003).astype(np.float32)

    def shade(self, p: Array, ray: Array, bounce: int) -> Array:
        """Light that leaves the bottle at `p` against `ray`."""
        n, (albedo, mirror, rough) = _normal(p), self._material(p)
        shut = np.zeros(len(p), np.float32)
        for k, step in enumerate((0.06, 0.15, 0.3, 0.55)):
            q = p + n * np.float32(step)
            shut += (1 - np.minimum(_distance(q), q[:, 1]) / step) * 0.4 / 2**k
        matt = albedo * (_basis(n) @ self.diffuse) * np.clip(1 - shut, 0, 1)[:, None]
        n = _unit(n + self.rng.standard_normal(n.shape, np.float32) * rough * bounce)
        facing = -(ray * n).sum(-1, keepdims=True)
        fresnel = mirror + (1 - mirror) * (1 - np.clip(facing, 0, 1)) ** 5 * (mirror > 0)
        gloss = self.seen(p + n * np.float32(0.01), _unit(ray + 2 * facing * n), bounce)
        return np.asarray(matt + fresnel * gloss)

    def seen(self, origin: Array, ray: Array, bounce: int) -> Array:
        """Light that arrives at `origin` against `ray`, with reflections up to `bounce`."""
        slope = -ray[:, 1] / np.maximum(origin[:, 1], 0.01)
        colour = _mix(_studio(ray), self._sweep(origin, ray) * 0.8, _smooth(0.15, 0.5, slope))
        if bounce:
            t = _march(origin, ray, 28, 5.0)
            near = np.isfinite(t)
            hits = origin[near] + ray[near] * t[near, None]
            colour[near] = self.shade(hits, ray[near], bounce - 1)
        return colour

    def look(self, px: Array, py: Array) -> Array:
        """Trace camera rays; return the photo's colour, the bottle's own, and its coverage."""
        front, right = _unit(TARGET - EYE), _vec(1, 0, 0)
        ray = _unit(front + ZOOM * (px[:, None] * right + py[:, None] * np.cross(right, front)))
        seen = np.zeros((len(ray), 7), np.float32)
        seen[:, :3] = self._sweep(EYE + 0 * ray, ray) * (1 - 0.05 * (px**2 + py**2))[:, None]
        close = np.flatnonzero((np.abs(px - 0.04) < 0.42) & (np.abs(py) < 0.9))
        t = _march(EYE + ray[close] * 12, ray[close], 70, 6.0) + 12
        close, t = close[np.isfinite(t)], t[np.isfinite(t)]
        bottle = np.minimum(self.shade(EYE + ray[close] * t[:, None], ray[close], 1), 1.6)
        seen[close] = np.concatenate([bottle, bottle, np.ones_like(bottle[:, :1])], -1)
        return seen


def render_product(size: int) -> tuple[Image.Image, Image.Image]:
    """Render the product photo and its cut-out (half the size, straight alpha)."""
    studio, rng = Studio(7), np.random.default_rng(8)
    frame = np.zeros((size, size, 7), np.float32)
    for top in track(range(0, size, BAND), "product"):
        pixels = np.mgrid[top : top + BAND, 0:size].reshape(2, -1)
        for cell in np.ndindex(GRID, GRID):
            inside = np.add(rng.random(pixels.shape), np.array(cell)[:, None]) / GRID
            y, x = ((pixels + inside) * 2 / size - 1).astype(np.float32)
            frame[top : top + BAND] += studio.look(x, -y).reshape(-1, size, 7) / GRID**2
    cut = frame[..., 3:].reshape(size // 2, 2, size // 2, 2, 4).mean((1, 3))
    alpha = cut[..., 3:]
    colour = np.where(alpha > 0, _film(cut[..., :3] / np.maximum(alpha, 1e-4)), 0)
    cutout = np.concatenate([colour, alpha * 255 + 0.5], -1).astype(np.uint8)
    return Image.fromarray(_film(frame[..., :3])), Image.fromarray(cutout)


def _sky(a: Array, e: Array) -> Array:
    """Evening sky at azimuth `a` and elevation `e`, with the sun and lit clouds."""
    off = np.hypot(a - SUN[0], e - SUN[1])
    glow = np.exp(-off * 5) * 1.1 + np.exp(-off * 18) * 3 + 60 * _smooth(0.03, 0.024, off)
    warp = _noise(a * 5, e * 12, 3, 3)
    cloud = _smooth(0.47, 0.70, _noise(a * 4 + warp, e * 17 + warp, 5, 4)) * _smooth(0.03, 0.12, e)
    sky = _mix(_ramp(e, DUSK), _ramp(off, CLOUDS), cloud * 0.75)
    return np.asarray(sky + glow[..., None] * _vec(1, 0.52, 0.18))


def _sea(x: Array, z: Array, a: Array, e: Array) -> Array:
    """Water that mirrors the sky in small waves, with a little foam near the shore."""
    wave, tilt = (_noise(x * 1.2 + k, z * 2.5, 4, 5) - 0.5 for k in (0, 40))
    mirror = _sky(a + tilt * 0.25, np.abs(-e + 0.05 + wave * 0.45))
    foam = _smooth(0.55, 0.68, _noise(x * 0.7, z * 1.4, 4, 7)) * _smooth(12, 8, z)
    return _mix(mirror * 0.62 + _vec(0.03, 0.07, 0.1), _vec(1.0, 0.7, 0.5), foam)


def _beach(a: Array, e: Array) -> Array:
    """Everything behind the table, seen sharply."""
    z = np.minimum(1 / np.maximum(-e, 1e-3), 400)
    x = a * z
    sand = _vec(0.74, 0.37, 0.17) * (0.5 + _noise(x * 4, z * 4, 4, 8))[..., None]
    shore = z - 7.6 - 0.7 * _noise(x * 0.5, z * 0, 3, 9) - 0.12 * x
    ground = _mix(sand, _sea(x, z, a, e), _smooth(-0.6, 0.25, shore))
    return _mix(ground, _sky(a, np.maximum(e, 0)), _smooth(-0.002, 0.002, e))


def _blur(image: Array, radius: float) -> Array:
    """Blur like an open lens: with a disc that has a slightly brighter rim."""
    half = int(radius) + 2
    r = np.hypot(*np.mgrid[-half : half + 1, -half : half + 1])
    disc = _smooth(radius + 1, radius - 1, r) * (0.75 + 0.25 * (r / radius) ** 4)
    return np.asarray(cv2.filter2D(image, -1, disc / disc.sum()))


def _lamps(shape: tuple[int, ...], seed: int) -> Array:
    """Two sagging strings of warm lamps as single bright pixels."""
    rng, lamps = np.random.default_rng(seed), np.zeros(shape, np.float32)
    for height, sag, count in ((0.02, 0.13, 15), (0.16, 0.10, 12)):
        u = (np.arange(count) + 0.5 + 0.3 * rng.random(count)) / count
        v = height + sag * (1 - (2 * u - 1) ** 2) + 0.02 * rng.random(count)
        tint = np.array([1, 0.38, 0.1]) + rng.random((count, 3)) * [0, 0.2, 0.12]
        place = (v * shape[0]).astype(int), (u * shape[1]).astype(int)
        lamps[place] = tint * (350 + 650 * rng.random((count, 1)))
    return lamps


def _wood(x: Array, z: Array, sheen: Array) -> Array:
    """Planks that run into the picture: grain, gaps, and the sunset in the varnish."""
    plank = np.floor(x / 0.42)
    u, off = x / 0.42 - plank, plank * 7.7
    rings = 0.5 + 0.5 * np.sin(6.28 * (u * 3 + off + 7 * _noise(x * 1.5 + off, z / 2 + off, 3, 11)))
    fibre = 0.6 * _noise(x * 70 + off, z * 1.8 + off, 3, 12) + 0.4 * _noise(x * 240, z * 5, 2, 14)
    base = _ramp(0.35 * rings**2 + 0.5 * fibre + 0.3 * _noise(off, off, 1, 13), WOOD)
    gap = 0.12 + 0.88 * _smooth(0.0, 0.03, np.minimum(u, 1 - u))
    return np.asarray((base * 0.85 + sheen * (0.03 + 0.2 * fibre)[..., None]) * gap[..., None])


def _table(width: int, height: int, glow: Array) -> Array:
    """The table in full focus, with four samples in each pixel."""
    v, u = np.mgrid[0 : height * 2, 0 : width * 2].astype(np.float32) / 2
    drop = np.maximum(v / height - 0.36, 0.01)
    row = np.clip((1.2 * height - v) * 0.75, 0, height - 1).astype(np.int32)
    wood = _wood((u / width - 0.5) / drop * 0.9, 1 / drop, glow[row, u.astype(np.int32)])
    return np.asarray(wood.reshape(height, 2, width, 2, 3).mean((1, 3)))


def render_reference(width: int, height: int) -> Image.Image:
    """Render the wanted surrounding: a table in focus in front of a blurred beach."""
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    v, u = y / height, x / width - np.float32(0.5)
    far: Array = 0.72 * np.minimum(_beach(u * 1.2, (0.40 - v) * 0.9), 40)
    far = np.add(_blur(far, width / 110), _blur(_lamps(far.shape, 21), width / 62))
    dim = far / np.maximum(far.max(-1, keepdims=True) / 5, 1)
    table = _table(width, height, _blur(dim, width / 20))
    soft = np.maximum(_smooth(0.74, 0.66, v), _smooth(0.92, 1.0, v))
    sharp = _mix(table, _blur(table, width / 500), soft)
    near = _mix(sharp, _blur(table, width / 220), _smooth(0.70, 0.60, v))
    image = _mix(far, near, _smooth(0.594, 0.606, v))
    return Image.fromarray(_film(image * (1.05 - 0.5 * (u**2 + (v - 0.5) ** 2))[..., None]))


def main() -> None:
    """Write the three example pictures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=OUT, help="folder for the pictures")
    out: Path = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    reference = render_reference(1024, 768)
    reference.save(out / "reference.jpg", quality=92, optimize=True, progressive=True)
    product, cutout = render_product(SIZE)
    product.save(out / "product.jpg", quality=92, optimize=True, progressive=True)
    cutout.save(out / "product-cutout.png", optimize=True)


if __name__ == "__main__":
    main()
