"""Scenes that people built: night city, marble studio, wooden table, kitchen."""

from __future__ import annotations

import cv2
import numpy as np

from backdrop_export.training.render.canvas import (
    Floats,
    Rng,
    below,
    blur,
    choose,
    discs,
    glow,
    grid,
    jitter,
    mix,
    noise,
    plane,
    ramp,
    vertical,
)

_LAMPS = [(1.0, 0.75, 0.35), (1.0, 0.55, 0.25), (0.4, 0.7, 1.0), (1.0, 0.3, 0.5), (0.9, 0.9, 0.8)]


def night_city(rng: Rng, side: int) -> Floats:
    """Towers with lit windows under a dark sky, a wet street that mirrors them, lights."""
    horizon = float(rng.uniform(0.52, 0.68))
    dark = choose(rng, [(0.02, 0.03, 0.10), (0.05, 0.03, 0.12), (0.03, 0.06, 0.12)])
    dusk = choose(rng, [(0.16, 0.14, 0.32), (0.30, 0.16, 0.26), (0.08, 0.16, 0.30)])
    picture = vertical(side, [(0, dark), (horizon, dusk), (1, dusk)])
    for near in (0.0, 0.5, 1.0):
        picture = _towers(rng, picture, horizon, near, mix(dusk, dark, 0.3 + 0.6 * near))
    lights = discs(
        rng, side, int(rng.integers(8, 26)), (0, horizon - 0.12, 1, horizon + 0.02),
        (0.006, 0.03), _LAMPS,
    )  # fmt: skip
    picture = picture + lights
    x, y = grid(side)
    waves = noise(rng, side, (18, 40), 3) - 0.5
    source = np.clip(horizon - (y - horizon) * 1.1 + waves * 0.05, 0, 0.999) * side
    mirror = cv2.remap(
        picture, (x * side + waves * 10).astype(np.float32), source.astype(np.float32),
        cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT,
    )  # fmt: skip
    streaked = cv2.blur(mirror, (3, max(3, side // 9)))
    asphalt = dark * (0.9 + 0.8 * noise(rng, side, (30, 30), 3))[..., None] + np.float32(0.02)
    street = asphalt + streaked * float(rng.uniform(0.45, 0.8))
    return mix(picture, street, below(side, horizon, 1.5))


def _towers(rng: Rng, picture: Floats, horizon: float, near: float, wall: Floats) -> Floats:
    side = picture.shape[0]
    painted = np.ascontiguousarray(picture, dtype=np.float32)
    left = -0.02
    while left < 1.0:
        width = float(rng.uniform(0.07, 0.16)) * (0.7 + 0.6 * near)
        tall = float(rng.uniform(0.18, 0.50)) * (1.05 - 0.25 * near)
        if near > 0.8 and 0.25 < left + width / 2 < 0.75:
            tall *= 0.5
        box = [int(v * side) for v in (left, horizon - tall, left + width, horizon + 0.01)]
        cv2.rectangle(painted, tuple(box[:2]), tuple(box[2:]), jitter(rng, wall, 0.15).tolist(), -1)
        _windows(rng, painted, box, near)
        left += width * float(rng.uniform(0.9, 1.35))
    return painted


def _windows(rng: Rng, painted: Floats, box: list[int], near: float) -> None:
    left, top, right, bottom = box
    pitch = max(3, int(painted.shape[0] * (0.014 + 0.012 * near)))
    lamp = choose(rng, [(1.0, 0.82, 0.45), (1.0, 0.70, 0.35), (0.75, 0.88, 1.0)])
    share = float(rng.uniform(0.25, 0.7))
    for y in range(top + 2, bottom - pitch, pitch):
        for x in range(left + 2, right - pitch // 2, pitch):
            if rng.random() < share:
                colour = (lamp * rng.uniform(0.35, 1.0)).tolist()
                size = max(1, pitch // 2)
                cv2.rectangle(painted, (x, y), (x + size - 1, y + size), colour, -1)


def marble(rng: Rng, side: int, base: Floats, vein: Floats) -> Floats:
    """A slab of polished marble [side, side, 3]."""
    stone = mix(base, mix(base, vein, 0.35), noise(rng, side, (3, 3), 5))
    for cells, width, strength in ((2.2, 0.018, 0.8), (4.5, 0.012, 0.5)):
        folded = np.abs(noise(rng, side, (cells, cells), 5, 0.6) - 0.5)
        stone = mix(stone, vein, np.exp(-folded / width).astype(np.float32) * strength)
    return stone


def marble_studio(rng: Rng, side: int) -> Floats:
    """A plain, softly lit wall and a marble floor or plinth."""
    edge = float(rng.uniform(0.56, 0.70))
    wall = choose(
        rng,
        [(0.86, 0.84, 0.82), (0.70, 0.72, 0.74), (0.88, 0.78, 0.72), (0.30, 0.32, 0.35),
         (0.62, 0.70, 0.64), (0.75, 0.68, 0.80)],
    )  # fmt: skip
    bases = [
        ((0.94, 0.94, 0.93), (0.52, 0.53, 0.56)),
        ((0.10, 0.10, 0.11), (0.80, 0.76, 0.66)),
        ((0.16, 0.30, 0.25), (0.72, 0.80, 0.72)),
        ((0.90, 0.78, 0.74), (0.60, 0.40, 0.38)),
    ]
    base, vein = (jitter(rng, colour, 0.03) for colour in bases[int(rng.integers(4))])
    spot = glow(side, (float(rng.uniform(0.2, 0.8)), float(rng.uniform(0.1, 0.5))), 0.38)
    picture = mix(wall * np.float32(0.62), np.clip(wall * 1.12, 0, 1), spot)
    slab = marble(rng, side, base, vein)
    floor = plane(slab, edge - 0.22, 0.42, float(rng.normal(0, 0.4)))
    shine = 0.85 + 0.35 * glow(side, (float(rng.uniform(0.3, 0.7)), edge + 0.12), 0.25)
    picture = mix(picture, floor * shine[..., None], below(side, edge))
    if rng.random() < 0.45:
        picture = _panel(rng, picture, slab, edge)
    rim = np.exp(-(((grid(side)[1] - edge) / 0.006) ** 2)).astype(np.float32)
    return mix(picture, base * np.float32(0.6), rim * 0.45)


def _panel(rng: Rng, picture: Floats, slab: Floats, edge: float) -> Floats:
    """An arch or disc of marble on the wall."""
    side = picture.shape[0]
    x, y = grid(side)
    centre, radius = float(rng.uniform(0.3, 0.7)), float(rng.uniform(0.18, 0.30))
    middle = edge - radius * float(rng.uniform(0.6, 1.1))
    reach = np.hypot(x - centre, np.minimum(y - middle, 0 if rng.random() < 0.5 else 9))
    inside = np.clip((radius - reach) * side, 0, 1) * (1 - below(side, edge))
    shadow = blur(np.roll(inside, int(side * 0.02), axis=1), side * 0.02)
    picture = mix(picture, picture * np.float32(0.7), shadow * (1 - inside))
    return mix(picture, slab * np.float32(0.92), inside.astype(np.float32))


def wood(rng: Rng, side: int, colour: Floats, planks: int) -> Floats:
    """Planks along y with grain, knots and joints, [side, side, 3]."""
    x, _y = grid(side)
    index = np.floor(x * planks).astype(int)
    tone = rng.uniform(0.8, 1.15, planks + 1).astype(np.float32)[index]
    shift = rng.random(planks + 1).astype(np.float32)[index]
    bent = noise(rng, side, (planks * 2, 2), 3) + shift
    rings = 0.5 + 0.5 * np.sin((x * planks * 3 + bent * 5 + shift * 9) * 6.28)
    fibre = noise(rng, side, (90, 4), 3)
    shade = tone * (0.72 + 0.22 * rings + 0.28 * fibre)
    place = np.abs(np.mod(x * planks, 1) - 0.5)
    joint = ramp(place.astype(np.float32), 0.470, 0.495)
    boards: Floats = (colour * shade[..., None] * (1 - 0.7 * joint)[..., None]).astype(np.float32)
    return boards


def wooden_table(rng: Rng, side: int) -> Floats:
    """A table of planks; behind it a room or garden out of focus."""
    edge = float(rng.uniform(0.42, 0.58))
    colour = choose(rng, [(0.62, 0.42, 0.25), (0.42, 0.26, 0.15), (0.76, 0.58, 0.38),
                          (0.50, 0.40, 0.33)])  # fmt: skip
    behind = choose(rng, [(0.36, 0.42, 0.28), (0.60, 0.52, 0.42), (0.30, 0.28, 0.28),
                          (0.66, 0.70, 0.70), (0.42, 0.30, 0.22)])  # fmt: skip
    soft = blur(noise(rng, side, (4, 4), 3), side * 0.03)
    picture = mix(behind * np.float32(0.55), np.clip(behind * 1.35, 0, 1), soft)
    bright = np.clip(behind * 1.7 + 0.1, 0, 1)
    lamps = [tuple(float(v) for v in jitter(rng, bright, 0.08)), (1.0, 0.86, 0.6)]
    picture = picture + discs(
        rng,
        side,
        int(rng.integers(4, 16)),
        (0, 0, 1, edge),
        (0.02, 0.07),
        lamps,  # type: ignore[arg-type]
    ) * np.float32(0.5)
    top = plane(
        wood(rng, side, colour, int(rng.integers(4, 7))), edge - 0.16, 0.40,
        float(rng.choice([0.0, 1.57]) + rng.normal(0, 0.10)),
    )  # fmt: skip
    shine = 0.82 + 0.5 * glow(side, (float(rng.uniform(0.2, 0.8)), edge), 0.28)
    return mix(picture, top * shine[..., None], below(side, edge, 1.5))


def tiles(rng: Rng, side: int, colour: Floats, columns: int, rows: int) -> Floats:
    """A wall of glazed tiles in running or straight bond."""
    x, y = grid(side)
    row = np.floor(y * rows)
    offset = np.mod(row, 2) * (0.5 if rng.random() < 0.6 else 0.0)
    u, v = np.mod(x * columns + offset, 1), np.mod(y * rows, 1)
    column = np.floor(x * columns + offset).astype(int) + 1
    tone = rng.uniform(0.88, 1.08, (rows + 2, columns + 3)).astype(np.float32)
    gap = np.maximum(ramp(np.abs(u - 0.5), 0.455, 0.475), ramp(np.abs(v - 0.5), 0.42, 0.46))
    gloss = 1 + 0.10 * (0.5 - v)
    face = colour * (tone[row.astype(int), column] * gloss)[..., None].astype(np.float32)
    return mix(face, colour * np.float32(0.62), gap)


def kitchen(rng: Rng, side: int) -> Floats:
    """A worktop, a tiled wall, a cabinet or shelf with jars, a window now and then."""
    edge = float(rng.uniform(0.52, 0.66))
    glaze = choose(rng, [(0.90, 0.90, 0.88), (0.66, 0.78, 0.76), (0.82, 0.74, 0.62),
                         (0.34, 0.44, 0.50), (0.86, 0.62, 0.54)])  # fmt: skip
    columns = int(rng.integers(7, 12))
    picture = tiles(rng, side, glaze, columns, int(columns * rng.uniform(1.3, 2.2)))
    light = 0.72 + 0.45 * glow(side, (float(rng.uniform(0, 1)), float(rng.uniform(0, 0.4))), 0.4)
    picture = np.ascontiguousarray(picture * light[..., None])
    shelf = float(rng.uniform(0.16, 0.30))
    if rng.random() < 0.6:
        _cabinet(rng, picture, shelf)
    else:
        _shelf(rng, picture, shelf)
    if rng.random() < 0.35:
        _window(rng, picture, edge)
    picture = blur(picture, float(rng.uniform(0.2, 1.3)) * side / 256)
    stone = choose(rng, [(0.86, 0.85, 0.82), (0.30, 0.30, 0.31), (0.70, 0.52, 0.34),
                         (0.55, 0.53, 0.50)])  # fmt: skip
    speckle = (0.85 + 0.3 * noise(rng, side, (50, 50), 3))[..., None]
    top = plane(np.ascontiguousarray(stone * speckle), edge - 0.2, 0.5)
    top = top * (0.9 + 0.3 * glow(side, (0.5, edge), 0.3))[..., None]
    picture = mix(picture, top, below(side, edge))
    lip = np.exp(-(((grid(side)[1] - edge) / 0.008) ** 2)).astype(np.float32)
    return mix(picture, stone * np.float32(0.5), lip * 0.5)


def _box(
    painted: Floats, left: float, top: float, right: float, bottom: float, colour: Floats
) -> None:
    side = painted.shape[0]
    corners = [int(v * side) for v in (left, top, right, bottom)]
    cv2.rectangle(painted, tuple(corners[:2]), tuple(corners[2:]), colour.tolist(), -1)


def _cabinet(rng: Rng, painted: Floats, bottom: float) -> None:
    front = choose(rng, [(0.92, 0.91, 0.88), (0.36, 0.46, 0.44), (0.58, 0.40, 0.26),
                         (0.24, 0.30, 0.40)])  # fmt: skip
    doors = int(rng.integers(3, 5))
    _box(painted, 0, bottom, 1, bottom + 0.02, front * np.float32(0.35))
    for index in range(doors):
        left, right = index / doors, (index + 1) / doors
        _box(painted, left, 0, right, bottom, front * np.float32(0.6))
        _box(painted, left + 0.006, 0, right - 0.006, bottom - 0.006, front)
        _box(painted, left + 0.03, 0, right - 0.03, bottom - 0.03, front * np.float32(0.88))
        knob = right - 0.045 if index % 2 == 0 else left + 0.03
        _box(
            painted,
            knob,
            bottom - 0.09,
            knob + 0.012,
            bottom - 0.05,
            np.array((0.3, 0.28, 0.25), np.float32),
        )


def _shelf(rng: Rng, painted: Floats, height: float) -> None:
    board = choose(rng, [(0.55, 0.38, 0.24), (0.30, 0.22, 0.16), (0.90, 0.88, 0.84)])
    left = float(rng.uniform(0.02, 0.2))
    while left < 0.95:
        width, tall = float(rng.uniform(0.04, 0.09)), float(rng.uniform(0.07, 0.15))
        jar = choose(rng, [(0.85, 0.80, 0.72), (0.55, 0.25, 0.18), (0.30, 0.42, 0.30),
                           (0.75, 0.60, 0.30), (0.88, 0.90, 0.90)])  # fmt: skip
        _box(painted, left, height - tall, left + width, height, jar)
        _box(
            painted, left + width * 0.7, height - tall, left + width, height, jar * np.float32(0.75)
        )
        _box(
            painted, left, height - tall - 0.015, left + width, height - tall, jar * np.float32(0.5)
        )
        left += width + float(rng.uniform(0.015, 0.07))
    _box(painted, 0, height, 1, height + 0.025, board)
    _box(painted, 0, height + 0.025, 1, height + 0.05, painted[-1, -1] * np.float32(0.6))


def _window(rng: Rng, painted: Floats, edge: float) -> None:
    frame = jitter(rng, (0.94, 0.93, 0.90), 0.03)
    left = float(rng.choice([-0.05, 0.68]))
    top, right, bottom = 0.02, left + 0.36, edge - 0.12
    _box(painted, left, top, right, bottom, frame)
    day = choose(rng, [(0.85, 0.93, 1.0), (1.0, 0.92, 0.78), (0.80, 0.90, 0.75)])
    middle = (left + right) / 2
    _box(painted, left + 0.02, top + 0.02, middle - 0.008, bottom - 0.02, day)
    _box(painted, middle + 0.008, top + 0.02, right - 0.02, bottom - 0.02, day)
