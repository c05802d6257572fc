"""Persons and bicycles: flat jointed figures that stand at one depth."""

from __future__ import annotations

from math import cos, pi, sin

from .painter import Colour
from .stage import Stage, grey, tint

SKIN = ((0.55, 0.36, 0.27), (0.42, 0.26, 0.18), (0.22, 0.13, 0.09), (0.62, 0.42, 0.33))
CLOTH: tuple[Colour, ...] = (
    (0.04, 0.05, 0.10),
    (0.03, 0.03, 0.03),
    (0.35, 0.05, 0.05),
    (0.07, 0.13, 0.32),
    (0.60, 0.58, 0.55),
    (0.10, 0.22, 0.10),
    (0.45, 0.33, 0.10),
    (0.25, 0.25, 0.26),
    (0.55, 0.20, 0.30),
)
BICYCLE_PAINT: tuple[Colour, ...] = (
    (0.45, 0.04, 0.04),
    (0.05, 0.10, 0.40),
    (0.04, 0.04, 0.04),
    (0.65, 0.65, 0.62),
    (0.05, 0.30, 0.12),
    (0.75, 0.50, 0.05),
)


class Figure:
    """Draws in metres at one depth: (s, y) to the right of and above the standing point."""

    def __init__(self, stage: Stage, label: str, x: float, z: float, flip: float = 1.0) -> None:
        self.stage, self.label, self.z, self.flip = stage, label, z, flip
        self.scale = stage.camera.scale(z)
        self.column, self.row = stage.camera.point(x, 0.0, z)
        self.instance = stage.thing(label)

    def part(self, albedo: Colour, temperature: float, grain=0.12, heat_grain=0.9, glow=(0, 0, 0)):
        return self.stage.painter.part(
            self.label,
            albedo,
            temperature,
            self.z,
            instance=self.instance,
            grain=grain,
            thermal_grain=heat_grain,
            emission=glow,
        )

    def at(self, s: float, y: float) -> tuple[float, float]:
        return self.column + self.flip * s * self.scale, self.row - y * self.scale

    def limb(self, start, end, first: float, last: float, part: int) -> None:
        k = self.scale
        # Never thinner than a painted pixel: a far leg would otherwise vanish between rows.
        thin = 0.5
        self.stage.painter.limb(
            self.at(*start), self.at(*end), max(first * k, thin), max(last * k, thin), part
        )

    def disc(self, s: float, y: float, across: float, down: float, part: int) -> None:
        k = self.scale
        self.stage.painter.ellipse(*self.at(s, y), max(across * k, 0.6), max(down * k, 0.6), part)

    def ring(self, s: float, y: float, across: float, down: float, width: float, part: int):
        k = self.scale
        self.stage.painter.ring(*self.at(s, y), across * k, down * k, width * k, part)

    def shape(self, points, part: int) -> None:
        self.stage.painter.polygon([self.at(s, y) for s, y in points], part)


def _clothing(stage: Stage) -> tuple[float, float, float]:
    """Temperatures of skin, upper and lower clothing in degC."""
    chance, air = stage.chance, stage.weather.air
    skin = chance.uniform(30.0, 33.0)
    sun = 0.5 * stage.weather.heat
    upper = air + chance.uniform(0.45, 0.8) * (33 - air) + sun * chance.random()
    lower = air + chance.uniform(0.4, 0.75) * (33 - air) + sun * chance.random()
    return skin, upper, lower


def draw_person(stage: Stage, x: float, z: float) -> None:
    """A person standing or walking at ground point (x, z): head, hair, torso, jointed limbs."""
    chance = stage.chance
    stage.shadow(
        [(x - 0.32, z - 0.2), (x + 0.32, z - 0.2), (x + 0.3, z + 0.25), (x - 0.3, z + 0.25)],
        0.45 if stage.weather.sun else 0.7,
        -0.5,
    )
    h = chance.gauss(1.72, 0.09)
    figure = Figure(stage, "person", x, z, chance.choice((-1.0, 1.0)))
    skin, upper, lower = _clothing(stage)
    complexion = chance.choice(SKIN)
    top, trousers = chance.choice(CLOTH), chance.choice(CLOTH)
    hair = chance.choice(((0.03, 0.02, 0.02), (0.10, 0.06, 0.03), (0.3, 0.22, 0.1)))
    side_view = chance.random() < 0.5
    phase = chance.uniform(0, 2 * pi)
    swing = chance.uniform(0.25, 0.6) if chance.random() < 0.75 else 0.08
    leg = [figure.part(tint(trousers, f), lower + d) for f, d in ((0.75, -1.2), (1.0, 0.0))]
    arm = [figure.part(tint(top, f), upper + d) for f, d in ((0.7, -1.8), (1.15, -0.6))]
    torso = figure.part(top, upper)
    fold = figure.part(tint(top, 0.75), upper + chance.uniform(1.0, 3.0))
    bare = figure.part(complexion, skin, heat_grain=0.3)
    shoe = figure.part((0.05, 0.05, 0.05), stage.weather.air + 0.35 * (33 - stage.weather.air))
    long_coat = chance.random() < 0.2
    for number, sign in ((0, -1.0), (1, 1.0)):
        angle = sign * swing * sin(phase)
        if side_view:
            knee = (0.245 * h * sin(angle + 0.12), 0.5 * h - 0.235 * h * cos(angle))
            bend = angle - 0.25 - 0.35 * max(0.0, -sign * cos(phase)) * swing / 0.6
            foot = (knee[0] + 0.24 * h * sin(bend), max(knee[1] - 0.24 * h * cos(bend), 0.03))
            toe = (foot[0] + 0.13, foot[1] - 0.01)
            hip = (0.0, 0.5 * h)
        else:
            hip = (sign * 0.045 * h, 0.5 * h)
            knee = (sign * 0.055 * h, 0.265 * h)
            lift = 0.05 * max(0.0, sign * sin(phase)) * (swing > 0.1)
            foot = (sign * (0.05 + 0.02 * swing) * h, 0.03 + lift)
            toe = (foot[0] + sign * 0.03, foot[1] - 0.02)
        figure.limb(hip, knee, 0.052 * h, 0.04 * h, leg[number])
        figure.limb(knee, foot, 0.04 * h, 0.027 * h, leg[number])
        figure.limb(foot, toe, 0.035, 0.03, shoe)
    lean = 0.02 * h if side_view else 0.0
    half = (0.075 if side_view else 0.118) * h
    shoulder = (lean, 0.8 * h)

    def draw_arm(number: int, sign: float) -> None:
        angle = -sign * 0.9 * swing * sin(phase)
        start = (lean, 0.79 * h) if side_view else (sign * half * 0.95, 0.79 * h)
        if side_view:
            elbow = (start[0] + 0.16 * h * sin(angle), start[1] - 0.16 * h * cos(angle))
            hand = (
                elbow[0] + 0.14 * h * sin(angle + 0.35),
                elbow[1] - 0.14 * h * cos(angle + 0.35),
            )
        else:
            elbow = (start[0] + sign * 0.03 * h, start[1] - 0.16 * h)
            hand = (elbow[0] + sign * 0.005 * h, elbow[1] - 0.14 * h)
        figure.limb(start, elbow, 0.035 * h, 0.03 * h, arm[number])
        figure.limb(elbow, hand, 0.028 * h, 0.022 * h, arm[number])
        figure.disc(*hand, 0.025 * h, 0.025 * h, bare)

    draw_arm(0, -1.0)
    bottom = 0.34 * h if long_coat else 0.47 * h
    figure.shape(
        (
            (lean - half, 0.79 * h),
            (lean - 0.5 * half, 0.835 * h),
            (lean + 0.5 * half, 0.835 * h),
            (lean + half, 0.79 * h),
            (half * 0.85, bottom),
            (-half * 0.85, bottom),
        ),
        torso,
    )
    tilt = chance.uniform(-0.5, 0.5) * half
    figure.limb((tilt, 0.8 * h), (-tilt, bottom), 0.12 * half, 0.3 * half, fold)
    if chance.random() < 0.22:
        pack = figure.part(chance.choice(CLOTH), stage.weather.air + 4.0)
        back = -1.25 * half if side_view else 0.0
        figure.disc(back, 0.69 * h, 0.085 * h if not side_view else 0.06 * h, 0.12 * h, pack)
    draw_arm(1, 1.0)
    figure.limb(shoulder, (lean, 0.9 * h), 0.03 * h, 0.03 * h, bare)
    _draw_head(figure, lean, 0.925 * h, h, bare, hair, skin, side_view)


def _draw_head(figure: Figure, s: float, y: float, h: float, bare: int, hair, skin, side_view):
    back = figure.part(hair, skin - figure.stage.chance.uniform(3.0, 6.0))
    figure.disc(s, y + 0.014 * h, 0.058 * h, 0.068 * h, back)
    if side_view:
        figure.disc(s + 0.018 * h, y - 0.008 * h, 0.042 * h, 0.056 * h, bare)
    elif figure.stage.chance.random() < 0.6:
        figure.disc(s, y - 0.012 * h, 0.046 * h, 0.056 * h, bare)


def draw_bicycle(stage: Stage, x: float, z: float, ridden: bool) -> None:
    """A bicycle at (x, z), seen from the side or from behind, with or without its rider."""
    chance, air = stage.chance, stage.weather.air
    from_side = chance.random() < 0.7
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
                    (wheel[0] - dx, wheel[1] - dy), (wheel[0] + dx, wheel[1] + dy), 0.006, 0.006, metal
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
    skin, upper, lower = _clothing(stage)
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
        _draw_head(rider, 0.17, 1.61, 1.72, bare, hair, skin, True)
    else:
        for sign, low in ((-1.0, chance.uniform(0.1, 0.4)), (1.0, chance.uniform(0.1, 0.4))):
            rider.limb((sign * 0.09, 0.97), (sign * 0.14, 0.6), 0.09, 0.07, near)
            rider.limb((sign * 0.14, 0.6), (sign * 0.12, low), 0.06, 0.045, near)
        rider.limb((0.0, 0.92), (0.0, 1.46), 0.17, 0.2, coat)
        for sign in (-1.0, 1.0):
            rider.limb((sign * 0.2, 1.4), (sign * 0.29, 1.05), 0.055, 0.045, sleeve)
        _draw_head(rider, 0.0, 1.62, 1.72, bare, hair, skin, False)
