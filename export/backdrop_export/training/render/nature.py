"""Scenes under the open sky: beach, desert, snow, meadow, mountains, sunset, water, forest."""

from __future__ import annotations

import cv2
import numpy as np

from backdrop_export.training.render.canvas import (
    Floats,
    Rng,
    below,
    blur,
    choose,
    depth_below,
    glow,
    grid,
    jitter,
    line,
    mix,
    noise,
    plane,
    ramp,
    vertical,
)

_SKIES = [
    ((0.20, 0.45, 0.80), (0.72, 0.86, 0.95)),
    ((0.35, 0.60, 0.88), (0.88, 0.93, 0.96)),
    ((0.60, 0.66, 0.72), (0.84, 0.85, 0.86)),
    ((0.30, 0.42, 0.66), (0.98, 0.82, 0.66)),
    ((0.12, 0.32, 0.66), (0.60, 0.78, 0.92)),
]


def sky(rng: Rng, side: int, horizon: float) -> Floats:
    """A day's sky down to ``horizon`` with some clouds."""
    top, low = _SKIES[int(rng.integers(len(_SKIES)))]
    colours = [(0.0, jitter(rng, top)), (horizon, jitter(rng, low)), (1.0, jitter(rng, low))]
    picture = vertical(side, colours)
    cloud = noise(rng, side, (3, 9), 5)
    cover = ramp(cloud, float(rng.uniform(0.45, 0.75)), 0.95) * float(rng.uniform(0.3, 0.95))
    fade = 1 - depth_below(side, horizon * 0.4) * 0.5
    return mix(picture, jitter(rng, (0.97, 0.96, 0.95), 0.02), cover * fade)


def _ridge(
    rng: Rng, side: int, height: float, relief: float, cells: float, gain: float = 0.5
) -> Floats:
    """The line of a ridge: heights in shares of the side from the top, one per column."""
    ridge: Floats = height + relief * line(rng, side, cells, 6, gain)
    return ridge


def beach(rng: Rng, side: int) -> Floats:
    """Sand in front, a shore with foam, the sea up to the horizon."""
    horizon = float(rng.uniform(0.26, 0.45))
    picture = sky(rng, side, horizon)
    x, y = grid(side)
    shore_at = horizon + float(rng.uniform(0.10, 0.22))
    shore = shore_at + float(rng.uniform(-0.16, 0.16)) * (x[0] - 0.5) + 0.04 * line(rng, side, 3)
    deep = choose(rng, [(0.05, 0.30, 0.50), (0.05, 0.42, 0.55), (0.20, 0.38, 0.48)])
    shallow = choose(rng, [(0.35, 0.75, 0.75), (0.45, 0.72, 0.72), (0.30, 0.66, 0.70)])
    reach = np.clip((y - horizon) / np.maximum(shore - horizon, 0.02)[None], 0, 1)
    sea = mix(deep, shallow, (reach**1.5).astype(np.float32))
    waves = noise(rng, side, (5, 60), 3)
    sea = sea * (0.86 + 0.3 * waves)[..., None]
    foam_line = np.exp(-(((y - shore[None]) / 0.016) ** 2)) + 0.8 * np.exp(
        -(((y - shore[None] + 0.045 + 0.02 * line(rng, side, 4)[None]) / 0.008) ** 2)
    )
    sand_colour = choose(rng, [(0.87, 0.77, 0.58), (0.92, 0.86, 0.72), (0.78, 0.64, 0.46)])
    grain = 0.85 + 0.16 * noise(rng, side, (10, 24), 5) + 0.12 * rng.random((side, side))
    wet = np.exp(-np.clip(y - shore[None], 0, 1) / 0.07).astype(np.float32)
    sand = sand_colour * grain[..., None].astype(np.float32)
    sand = mix(sand, sand_colour * np.float32(0.62), wet * 0.8)
    picture = mix(picture, sea, below(side, horizon))
    picture = mix(picture, sand, below(side, shore, 3))
    foam = np.clip(foam_line * (0.45 + noise(rng, side, (24, 24), 3)), 0, 1)
    foam = foam.astype(np.float32) * below(side, horizon + 0.03)
    picture = mix(picture, (0.97, 0.98, 0.97), foam)
    if rng.random() < 0.35:
        picture = _palm(rng, picture)
    return picture


def _palm(rng: Rng, picture: Floats) -> Floats:
    """Palm leaves that hang into the picture from an upper corner."""
    side = picture.shape[0]
    layer = np.zeros((side, side), np.float32)
    left = rng.random() < 0.5
    foot = np.array([-0.02 if left else 1.02, rng.uniform(0.02, 0.2)])
    for _ in range(int(rng.integers(4, 7))):
        angle = rng.uniform(-0.5, 1.1)
        length = rng.uniform(0.25, 0.42)
        tip = foot + length * np.array([np.cos(angle) * (1 if left else -1), np.sin(angle)])
        for share in np.linspace(0.1, 1, 22):
            spot = foot + (tip - foot) * share + np.array([0, 0.1 * share**2])
            end = spot + np.array([0.02 * (1 if left else -1), 0.10 * (1.1 - share)])
            start, stop = (tuple(int(v * side) for v in point) for point in (spot, end))
            cv2.line(layer, start, stop, 1.0, max(1, side // 128), cv2.LINE_AA)
    return mix(picture, jitter(rng, (0.10, 0.30, 0.12)), layer * 0.95)


def desert(rng: Rng, side: int) -> Floats:
    """Dunes with a lit and a shaded side, ripples in front."""
    horizon = float(rng.uniform(0.30, 0.48))
    picture = sky(rng, side, horizon)
    sand = choose(rng, [(0.88, 0.62, 0.34), (0.82, 0.50, 0.28), (0.90, 0.74, 0.50)])
    shade = sand * np.array([0.55, 0.48, 0.48], np.float32)
    _, y = grid(side)
    count = int(rng.integers(3, 5))
    for index in range(count):
        near = index / (count - 1)
        base = horizon + near**1.4 * float(rng.uniform(0.26, 0.36))
        crest = _ridge(rng, side, base, 0.22 * (0.5 + near), 1.3, 0.25)
        slope = np.gradient(blur(crest[None], side * 0.01)[0]) * side
        lit = 1 / (1 + np.exp(-(slope + float(rng.uniform(-0.1, 0.1))) * 9))
        drop = np.clip((y - crest[None]) / 0.30, 0, 1)
        rows = np.repeat(lit[None], side, 0).astype(np.float32)
        light = rows + (np.float32(0.75) - rows) * drop
        dune = mix(shade, sand * np.float32(1.05), light)
        ripples = np.sin((y + 0.35 * noise(rng, side, (3, 3), 3)) * 260 * (1.15 - 0.6 * drop))
        dune = dune * (1 + 0.05 * near * ripples * drop)[..., None].astype(np.float32)
        dune = mix(dune, picture[int(horizon * side) - 2].mean(0), 0.45 * (1 - near))
        picture = mix(picture, dune, below(side, crest, 1.5))
    return picture


def snow(rng: Rng, side: int) -> Floats:
    """Snowy ground and hills with dark conifers; flakes now and then."""
    horizon = float(rng.uniform(0.32, 0.48))
    high = choose(rng, [(0.70, 0.78, 0.88), (0.80, 0.83, 0.87), (0.55, 0.70, 0.90)])
    picture = vertical(side, [(0, high), (horizon, jitter(rng, (0.90, 0.92, 0.95), 0.03))])
    far = _ridge(rng, side, horizon - 0.03, 0.16, 2)
    picture = mix(picture, jitter(rng, (0.74, 0.80, 0.88), 0.03), below(side, far, 2))
    white, blue = jitter(rng, (0.95, 0.96, 0.98), 0.02), jitter(rng, (0.66, 0.75, 0.88), 0.04)
    for base in (horizon, horizon + float(rng.uniform(0.12, 0.22))):
        drifts = noise(rng, side, (2, 7), 4)
        ground = mix(blue, white, ramp(drifts, 0.15, 0.75))
        edge = _ridge(rng, side, base, 0.07, 1.5, 0.3)
        picture = mix(picture, ground, below(side, edge, 2))
        picture = _conifers(rng, picture, base, int(rng.integers(3, 11)))
    if rng.random() < 0.6:
        flakes = (rng.random((side, side)) < 0.006).astype(np.float32)
        picture = mix(picture, (1, 1, 1), np.clip(blur(flakes, 0.8) * 4.5, 0, 1))
    return picture


def _conifers(rng: Rng, picture: Floats, base: float, count: int) -> Floats:
    """Firs with snow on their branches, whose feet stand near ``base``; the middle stays free."""
    side = picture.shape[0]
    dark = jitter(rng, (0.12, 0.22, 0.20), 0.1)
    for _ in range(count):
        x = rng.uniform(0, 0.34) if rng.random() < 0.5 else rng.uniform(0.66, 1)
        tall = rng.uniform(0.14, 0.34)
        foot = base + rng.uniform(-0.01, 0.05)
        for tier in range(6):
            top = foot - tall * (1 - tier / 7)
            bottom = top + tall * 0.26
            half = tall * (0.06 + 0.24 * tier / 6)
            for offset, colour in ((0.0, dark), (-0.018, np.array((0.93, 0.95, 0.97), np.float32))):
                layer = np.zeros((side, side), np.float32)
                lower = bottom + offset * (2.2 if offset else 1)
                corners = [(x, top + offset), (x - half, lower), (x + half * 0.9, lower)]
                points = (np.array(corners) * side * 8).astype(np.int32)
                cv2.fillPoly(layer, [points], 1.0, cv2.LINE_AA, 3)
                picture = mix(picture, colour, layer * (1.0 if offset == 0 else 0.7))
    return picture


def meadow(rng: Rng, side: int) -> Floats:
    """Grass with flowers, a line of trees, a sky."""
    horizon = float(rng.uniform(0.28, 0.46))
    picture = sky(rng, side, horizon)
    hill = _ridge(rng, side, horizon - 0.02, 0.14, 1.5, 0.4)
    picture = mix(picture, jitter(rng, (0.45, 0.60, 0.48), 0.08), below(side, hill, 2))
    trees = _ridge(rng, side, horizon + 0.005, 0.08, 14, 0.7)
    picture = mix(picture, jitter(rng, (0.16, 0.32, 0.15), 0.1), below(side, trees, 1.5))
    green = choose(rng, [(0.36, 0.58, 0.18), (0.46, 0.60, 0.22), (0.24, 0.48, 0.20)])
    near = depth_below(side, horizon)
    grass = mix(green * np.float32(1.25), green * np.float32(0.75), near)
    grass = grass * (0.75 + 0.5 * noise(rng, side, (40, 9), 3))[..., None]
    picture = mix(picture, grass, below(side, horizon + 0.02, 2))
    picture = _blades(rng, picture, horizon, green)
    petals = [(0.95, 0.85, 0.25), (0.95, 0.95, 0.95), (0.85, 0.25, 0.30), (0.60, 0.40, 0.80)]
    return _flowers(rng, picture, horizon, [petals[i] for i in rng.permutation(4)[:2]])


def _blades(rng: Rng, picture: Floats, horizon: float, green: Floats) -> Floats:
    side = picture.shape[0]
    painted = np.ascontiguousarray(picture)
    for _ in range(700):
        near = rng.random() ** 0.6
        x, foot = rng.random(), horizon + 0.03 + near * (0.99 - horizon)
        tip = (x + rng.normal(0, 0.012), foot - 0.015 - 0.06 * near * rng.random())
        colour = np.clip(green * rng.uniform(0.5, 1.5), 0, 1).tolist()
        points = (int(x * side * 8), int(foot * side * 8)), tuple(int(v * side * 8) for v in tip)
        cv2.line(painted, *points, colour, 1, cv2.LINE_AA, 3)
    return painted


def _flowers(
    rng: Rng, picture: Floats, horizon: float, petals: list[tuple[float, float, float]]
) -> Floats:
    side = picture.shape[0]
    painted = np.ascontiguousarray(picture)
    for _ in range(int(rng.integers(60, 200))):
        near = rng.random() ** 1.2
        x, y = rng.random(), horizon + 0.05 + near * (0.93 - horizon)
        colour = choose(rng, petals).tolist()
        radius = int(side * 8 * (0.003 + 0.009 * near))
        cv2.circle(painted, (int(x * side * 8), int(y * side * 8)), radius, colour, -1, 16, 3)
    return painted


def mountains(rng: Rng, side: int) -> Floats:
    """Ranges one behind another with snow and facets; a meadow or scree in front."""
    ground = float(rng.uniform(0.58, 0.72))
    picture = sky(rng, side, ground)
    haze = picture[int(ground * side) - 1].mean(axis=0)
    rock = choose(rng, [(0.36, 0.38, 0.44), (0.42, 0.36, 0.34), (0.28, 0.34, 0.42)])
    _, y = grid(side)
    for index in range(3):
        near = index / 2
        peak = float(rng.uniform(0.30, 0.36)) + near * (ground - 0.36)
        crest = _ridge(rng, side, peak, 0.62 - 0.30 * near, 2.2, 0.52)
        facets = noise(rng, side, (7, 5), 5, 0.62)
        sloped = np.roll(facets, 5, axis=1) - facets
        lit = np.clip(0.62 + 2.6 * sloped, 0.15, 1.3)
        mass = rock * lit[..., None].astype(np.float32)
        snow_line = 0.16 + 0.10 * float(rng.random()) - 0.16 * near
        depth = y - crest[None] + 0.10 * (facets - 0.5)
        white = ramp(snow_line - depth, -0.015, 0.02) * (0.55 + 0.45 * ramp(lit, 0.3, 0.7))
        mass = mix(
            mass, np.array((0.94, 0.96, 0.99), np.float32) * lit[..., None].clip(0.72, 1), white
        )
        mass = mix(mass, haze, 0.5 * (1 - near) + 0.08)
        picture = mix(picture, mass.astype(np.float32), below(side, crest))
    floor = choose(rng, [(0.34, 0.44, 0.22), (0.45, 0.42, 0.36), (0.28, 0.38, 0.24)])
    rough = (0.65 + 0.7 * noise(rng, side, (14, 22), 5))[..., None]
    edge = ground + 0.06 * line(rng, side, 3)
    return mix(picture, floor * rough, below(side, edge, 2))


def sunset(rng: Rng, side: int) -> Floats:
    """A low sun, burning clouds, dark land, or water that mirrors it all."""
    horizon = float(rng.uniform(0.45, 0.60))
    top = choose(rng, [(0.22, 0.14, 0.40), (0.12, 0.18, 0.42), (0.45, 0.20, 0.38)])
    middle = choose(rng, [(0.88, 0.36, 0.34), (0.80, 0.30, 0.45), (0.95, 0.50, 0.25)])
    low = choose(rng, [(1.0, 0.72, 0.30), (1.0, 0.62, 0.36), (0.98, 0.82, 0.48)])
    sun = (float(rng.uniform(0.2, 0.8)), horizon - float(rng.uniform(0.02, 0.10)))
    picture = vertical(side, [(0, top), (horizon * 0.6, middle), (horizon, low), (1, low)])
    clouds = ramp(noise(rng, side, (2.5, 12), 5), 0.50, 0.85)
    burning = mix(top * np.float32(0.8), low, glow(side, (sun[0], sun[1] - 0.1), 0.30))
    picture = mix(picture, burning, clouds * 0.75)
    picture = picture + glow(side, sun, 0.16)[..., None] * np.array((0.5, 0.3, 0.1), np.float32)
    picture = mix(picture, (1.0, 0.95, 0.78), ramp(glow(side, sun, 0.045), 0.45, 0.60))
    hills = _ridge(rng, side, horizon - 0.01, 0.10, 2.5)
    dark = top * np.float32(0.45)
    if rng.random() < 0.7:
        picture = mix(picture, mix(dark, middle, 0.25), below(side, hills, 1.5))
    if rng.random() < 0.6:
        return _mirrored(rng, picture, horizon, sun, low)
    ground = dark * (0.5 + 0.9 * noise(rng, side, (8, 26), 5))[..., None]
    warm = glow(side, (sun[0], horizon), 0.35)[..., None] * low * np.float32(0.22)
    return mix(picture, ground + warm, below(side, horizon + 0.03 * line(rng, side, 3), 2))


def _mirrored(
    rng: Rng, picture: Floats, horizon: float, sun: tuple[float, float], low: Floats
) -> Floats:
    """Water below the horizon with the sky in it and a path of light under the sun."""
    side = picture.shape[0]
    x, y = grid(side)
    waves = noise(rng, side, (6, 70), 3) - 0.5
    source = np.clip(2 * horizon - y + waves * 0.05, 0, 0.999) * side
    mirror = cv2.remap(
        picture, (x * side + waves * 8).astype(np.float32), source.astype(np.float32),
        cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT,
    )  # fmt: skip
    near = np.clip(y - horizon, 0, 1)
    path = np.exp(-(((x - sun[0]) / (0.035 + 0.16 * near)) ** 2)) * ramp(waves, -0.12, 0.22)
    water = mirror * (0.78 - 0.5 * near)[..., None].astype(np.float32)
    water = mix(water, low, (path * 0.85).astype(np.float32))
    return mix(picture, water, below(side, horizon))


def water(rng: Rng, side: int) -> Floats:
    """A surface of clear water seen from above, ripples and caustics, hardly any sky."""
    horizon = float(rng.uniform(-0.25, 0.06))
    deep = choose(rng, [(0.02, 0.22, 0.42), (0.03, 0.36, 0.46), (0.05, 0.28, 0.36)])
    light = choose(rng, [(0.32, 0.74, 0.84), (0.40, 0.80, 0.78), (0.36, 0.66, 0.88)])
    bent = noise(rng, side, (5, 5), 3) * 0.12
    web = np.abs(noise(rng, side, (9, 9), 3) - 0.5) + np.abs(noise(rng, side, (7, 7), 2) - 0.5)
    caustics = np.exp(-web * float(rng.uniform(11, 18))).astype(np.float32)
    caustics = plane(caustics, horizon, float(rng.uniform(0.5, 0.8)), float(rng.random() * 6))
    _, y = grid(side)
    shade = np.clip(1 - (y - horizon) / (1 - horizon) * 0.75 + bent - 0.06, 0, 1)
    picture = mix(light, deep, np.clip(1 - shade, 0, 1))
    swell = plane(noise(rng, side, (6, 3), 4), horizon, 0.7, float(rng.normal(0, 0.3)))
    picture = picture * (0.72 + 0.56 * swell)[..., None]
    picture = mix(picture, (0.92, 1.0, 1.0), np.clip(caustics * 0.9, 0, 0.9))
    glint = ramp(plane(noise(rng, side, (16, 8), 3), horizon, 0.8), 0.72, 0.92)
    picture = mix(picture, (1, 1, 1), glint * 0.7 * (1 - depth_below(side, 0.1) * 0.6))
    if horizon > 0.02:
        picture = mix(picture, sky(rng, side, 0.05), 1 - below(side, horizon))
    return picture


def forest(rng: Rng, side: int) -> Floats:
    """Trunks one behind another in mist, leaves above, moss or leaves on the ground."""
    horizon = float(rng.uniform(0.48, 0.62))
    season = int(rng.integers(3))
    mist = jitter(rng, [(0.72, 0.82, 0.62), (0.86, 0.76, 0.52), (0.66, 0.74, 0.74)][season])
    leaf = jitter(rng, [(0.16, 0.36, 0.12), (0.66, 0.36, 0.10), (0.12, 0.26, 0.20)][season])
    earth = jitter(rng, [(0.26, 0.32, 0.14), (0.50, 0.30, 0.14), (0.20, 0.24, 0.18)][season])
    bark = jitter(rng, (0.20, 0.15, 0.11), 0.1)
    back = noise(rng, side, (9, 9), 5)
    picture = mix(mist, leaf, ramp(back, 0.35, 0.9) * 0.7)
    near = depth_below(side, horizon)
    litter = 0.6 + 0.8 * plane(noise(rng, side, (20, 20), 5, 0.7), horizon - 0.05, 0.5)
    ground = mix(mist, earth, ramp(near, -0.1, 0.35)) * litter[..., None]
    picture = mix(picture, ground, below(side, horizon + 0.03 * line(rng, side, 4), 6))
    for depth in (0.15, 0.45, 0.8):
        picture = _trunks(rng, picture, horizon, depth, mix(mist, bark, 0.25 + 0.75 * depth))
        crowns = ramp(noise(rng, side, (7 - 3 * depth, 7), 6, 0.65), 0.42, 0.60)
        crowns = crowns * (1 - ramp(grid(side)[1], 0.05, 0.42 - 0.10 * depth))
        speckle = 0.6 + 0.8 * noise(rng, side, (40, 40), 2)[..., None]
        picture = mix(picture, mix(mist, leaf, 0.35 + 0.6 * depth) * speckle, crowns * 0.9)
    if rng.random() < 0.5:
        beams = plane(noise(rng, side, (14, 2), 2), -0.9, 0.3, 0.5)
        picture = picture + (ramp(beams, 0.55, 0.85) * 0.22)[..., None] * mist
    return picture


def _trunks(rng: Rng, picture: Floats, horizon: float, depth: float, colour: Floats) -> Floats:
    side = picture.shape[0]
    x, _ = grid(side)
    for _ in range(int(rng.integers(5, 9) * (1.3 - depth))):
        at = float(rng.uniform(-0.02, 1.02))
        if depth > 0.6 and 0.3 < at < 0.7:
            at = at - 0.35 if at < 0.5 else at + 0.35
        half = (0.008 + 0.034 * depth) * float(rng.uniform(0.7, 1.3))
        bend = 0.03 * line(rng, side, 1.5, 3)[:, None]
        across = (x - at - bend) / half
        body = np.clip((1 - np.abs(across)) * half * side, 0, 1)
        foot = horizon + 0.30 * depth**1.5 + 0.02 * float(rng.random())
        round_shade = 1.15 - 0.45 * np.clip(across, -1, 1)
        skin = (0.75 + 0.5 * noise(rng, side, (60, 8), 2)) * round_shade
        mask = (body * (1 - below(side, foot, 3))).astype(np.float32)
        picture = mix(picture, colour * skin[..., None].astype(np.float32), mask)
    return picture
