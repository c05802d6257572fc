"""Bicycles, from the side or from behind, with or without a rider."""

from __future__ import annotations

from math import cos, pi, sin

from .painter import Colour
from .people import CLOTH, SKIN, Figure, clothing, draw_head
from .stage import Stage, tint

BICYCLE_PAINT: tuple[Colour, ...] = (
    (0.45, 0.04, 0.04),
    (0.05, 0.10, 0.40),
    (0.04, 0.04, 0.04),
    (0.65, 0.65, 0.62),
    (0.05, 0.30, 0.12),
    (0.75, 0.50, 0.05),
)


def draw_bicycle(stage: Stage, x: float, z: float, ridden: bool) -> None:
    """A bicycle at (x, z), seen from the side or from behind, with or without its rider."""
    chance, air = stage.chance, stage.weather.air
    from_side = chance.random() < 0.6
    flip = chance.choice((-1.0, 1.0))
    reach = 0.85 if from_side else 0.25
    stage.shadow(
        [(x - reach, z - 0.2), (x + reach, z - 0.2), (x + reach, z + 0.25), (x - reach, z + 0.25)],
        0.55 if stage.weather.sun else 0.75,
        -0.3,
    )
    bicycle = Figure(stage, "bicycle", x, z, flip)
    colour = chance.choice(BICYCLE_PAINT)
    tyre = bicycle.part((0.03, 0.03, 0.03), air + chance.uniform(1.0, 4.0), heat_grain=0.6)
    frame = bicycle.part(colour, air - chance.uniform(0.5, 2.5) + 0.5 * stage.weather.heat)
    metal = bicycle.part((0.45, 0.45, 0.46), air - chance.uniform(1.0, 3.0))
    dark = stage.weather.dark
    r = 0.35
    if from_side:
        rear, front, crank = (-0.52, r), (0.53, r), (-0.07, 0.29)
        saddle, head = (-0.2, 0.92), (0.4, 0.88)
        for wheel in (rear, front):
            for turn in range(4):
                angle = turn * pi / 4 + 0.3
                dx, dy = r * cos(angle), r * sin(angle)
                bicycle.limb(
                    (wheel[0] - dx, wheel[1] - dy),
                    (wheel[0] + dx, wheel[1] + dy),
                    0.006,
                    0.006,
                    metal,
                )
            bicycle.ring(*wheel, r, r, 0.065, tyre)
        for start, end in (
            (rear, crank),
            (rear, (-0.17, 0.78)),
            (crank, saddle),
            (crank, (0.42, 0.72)),
            ((-0.17, 0.78), (0.41, 0.8)),
            (head, front),
        ):
            bicycle.limb(start, end, 0.03, 0.03, frame)
        bicycle.limb((0.33, 1.0), (0.46, 0.98), 0.03, 0.03, metal)
        bicycle.limb((-0.33, 0.94), (-0.08, 0.94), 0.045, 0.03, tyre)
        if dark and ridden:
            lamp = bicycle.part((0.8, 0.8, 0.7), air + 3, glow=(3.0, 2.8, 2.2))
            bicycle.disc(0.5, 0.85, 0.05, 0.05, lamp)
            lamp = bicycle.part((0.5, 0.05, 0.05), air + 2, glow=(2.0, 0.1, 0.1))
            bicycle.disc(-0.6, 0.62, 0.05, 0.05, lamp)
    else:
        bicycle.disc(0.0, r, 0.05, r, tyre)
        bicycle.limb((0.0, 0.5), (0.0, 1.0), 0.035, 0.035, frame)
        bicycle.limb((-0.3, 1.02), (0.3, 1.02), 0.03, 0.03, metal)
        bicycle.limb((-0.12, 0.93), (0.12, 0.93), 0.05, 0.05, tyre)
        if dark:
            lamp = bicycle.part((0.5, 0.05, 0.05), air + 2, glow=(2.5, 0.12, 0.1))
            bicycle.disc(0.0, 0.7, 0.06, 0.06, lamp)
    if ridden:
        _draw_rider(stage, x, z, flip, from_side)


def _draw_rider(stage: Stage, x: float, z: float, flip: float, from_side: bool) -> None:
    chance = stage.chance
    rider = Figure(stage, "person", x, z - 0.02, flip)
    skin, upper, lower = clothing(stage)
    top, trousers = chance.choice(CLOTH), chance.choice(CLOTH)
    near = rider.part(trousers, lower + 1.0)
    far = rider.part(tint(trousers, 0.7), lower - 0.8)
    coat = rider.part(top, upper)
    sleeve = rider.part(tint(top, 1.2), upper - 1.2)
    bare = rider.part(chance.choice(SKIN), skin, heat_grain=0.3)
    hair = chance.choice(((0.04, 0.03, 0.02), (0.7, 0.7, 0.68), (0.5, 0.05, 0.05)))
    if from_side:
        turn = chance.uniform(0, 2 * pi)
        for part, angle in ((far, turn + pi), (near, turn)):
            foot = (-0.07 + 0.17 * cos(angle), 0.29 + 0.17 * sin(angle))
            knee = (0.16 + 0.08 * cos(angle), 0.66 + 0.1 * sin(angle))
            rider.limb((-0.2, 0.97), knee, 0.095, 0.07, part)
            rider.limb(knee, foot, 0.065, 0.045, part)
            rider.limb(foot, (foot[0] + 0.15, foot[1]), 0.04, 0.03, part)
        rider.limb((-0.2, 0.93), (0.08, 1.42), 0.13, 0.14, coat)
        rider.limb((0.08, 1.42), (0.22, 1.13), 0.06, 0.05, sleeve)
        rider.limb((0.22, 1.13), (0.4, 1.02), 0.05, 0.035, sleeve)
        rider.disc(0.41, 1.02, 0.045, 0.045, bare)
        draw_head(rider, 0.17, 1.61, 1.72, bare, hair, skin, True)
    else:
        for sign, low in ((-1.0, chance.uniform(0.1, 0.4)), (1.0, chance.uniform(0.1, 0.4))):
            rider.limb((sign * 0.09, 0.97), (sign * 0.14, 0.6), 0.09, 0.07, near)
            rider.limb((sign * 0.14, 0.6), (sign * 0.12, low), 0.06, 0.045, near)
        rider.limb((0.0, 0.92), (0.0, 1.46), 0.17, 0.2, coat)
        for sign in (-1.0, 1.0):
            rider.limb((sign * 0.2, 1.4), (sign * 0.29, 1.05), 0.055, 0.045, sleeve)
        draw_head(rider, 0.0, 1.62, 1.72, bare, hair, skin, False)
