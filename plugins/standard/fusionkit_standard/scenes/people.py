"""Persons: flat jointed figures that stand at one depth."""

from __future__ import annotations

from math import cos, pi, sin

from .painter import Colour
from .stage import Stage, tint

SKIN = ((0.55, 0.36, 0.27), (0.42, 0.26, 0.18), (0.22, 0.13, 0.09), (0.62, 0.42, 0.33))
CLOTH: tuple[Colour, ...] = (
    (0.03, 0.03, 0.03),
    (0.04, 0.05, 0.09),
    (0.06, 0.06, 0.07),
    (0.10, 0.10, 0.11),
    (0.25, 0.25, 0.26),
    (0.05, 0.09, 0.20),
    (0.10, 0.16, 0.28),
    (0.60, 0.58, 0.55),
    (0.42, 0.40, 0.36),
    (0.20, 0.16, 0.11),
    (0.35, 0.30, 0.20),
    (0.08, 0.12, 0.07),
    (0.32, 0.06, 0.06),
    (0.45, 0.25, 0.28),
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


def clothing(stage: Stage) -> tuple[float, float, float]:
    """Temperatures of skin, upper and lower clothing in degC.

    A thick coat shows little of the body's heat, a shirt most of it; the two halves are drawn
    apart, so that bright legs under a dark coat occur, and the reverse.
    """
    chance, air = stage.chance, stage.weather.air
    skin = chance.uniform(30.0, 34.0)
    sun = 0.6 * stage.weather.heat
    thin = 0.35 if air < 8.0 else 0.5
    upper = air + chance.uniform(thin - 0.1, 0.88) * (33 - air) + sun * chance.random()
    lower = air + chance.uniform(thin, 0.88) * (33 - air) + sun * chance.random()
    return skin, upper, lower


def draw_person(stage: Stage, x: float, z: float) -> None:
    """A person standing or walking at ground point (x, z): head, hair, torso, jointed limbs."""
    chance = stage.chance
    stage.shadow(
        [(x - 0.32, z - 0.2), (x + 0.32, z - 0.2), (x + 0.3, z + 0.25), (x - 0.3, z + 0.25)],
        0.45 if stage.weather.sun else 0.7,
        -0.5,
    )
    h = chance.gauss(1.72, 0.09) if chance.random() < 0.92 else chance.uniform(1.0, 1.45)
    figure = Figure(stage, "person", x, z, chance.choice((-1.0, 1.0)))
    skin, upper, lower = clothing(stage)
    complexion = chance.choice(SKIN)
    top, trousers = chance.choice(CLOTH), chance.choice(CLOTH)
    hair = chance.choice(((0.03, 0.02, 0.02), (0.10, 0.06, 0.03), (0.3, 0.22, 0.1)))
    side_view = chance.random() < 0.5
    phase = chance.uniform(0, 2 * pi)
    swing = chance.uniform(0.25, 0.6) if chance.random() < 0.75 else 0.08
    leg = [
        figure.part(tint(trousers, f), lower + d, heat_grain=1.6)
        for f, d in ((0.75, chance.uniform(-3.0, 0.0)), (1.0, 0.0))
    ]
    arm = [
        figure.part(tint(top, f), upper + d, heat_grain=1.8)
        for f, d in ((0.7, chance.uniform(-3.5, -0.5)), (1.15, chance.uniform(-1.5, 1.0)))
    ]
    torso = figure.part(top, upper, heat_grain=1.8)
    fold = figure.part(tint(top, 0.75), upper + chance.uniform(-3.5, 3.5), heat_grain=1.5)
    # An open jacket, a scarf or a print: something else in the middle of the chest.
    inner = figure.part(chance.choice(CLOTH), upper + chance.uniform(-4.0, 5.0), heat_grain=1.5)
    open_front = chance.random() < 0.4
    bare_legs = stage.weather.air > 13.0 and chance.random() < 0.25
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
        figure.limb(knee, foot, 0.04 * h, 0.027 * h, bare if bare_legs else leg[number])
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
    if open_front:
        wide = 0.3 * half
        figure.limb((lean, 0.82 * h), (0.3 * lean, bottom + 0.04 * h), wide, 0.7 * wide, inner)
    if chance.random() < 0.22:
        pack = figure.part(chance.choice(CLOTH), stage.weather.air + 4.0)
        back = -1.25 * half if side_view else 0.0
        figure.disc(back, 0.69 * h, 0.085 * h if not side_view else 0.06 * h, 0.12 * h, pack)
    draw_arm(1, 1.0)
    figure.limb(shoulder, (lean, 0.9 * h), 0.03 * h, 0.03 * h, bare)
    draw_head(figure, lean, 0.925 * h, h, bare, hair, skin, side_view)


def draw_head(figure: Figure, s: float, y: float, h: float, bare: int, hair, skin, side_view):
    chance, air = figure.stage.chance, figure.stage.weather.air
    # Hair insulates a little, a hat or a hood as much as a coat.
    covered = chance.random() < 0.2
    heat = air + chance.uniform(0.35, 0.7) * (33 - air) if covered else skin - chance.uniform(2, 7)
    back = figure.part(chance.choice(CLOTH) if covered else hair, heat)
    figure.disc(s, y + 0.014 * h, 0.058 * h, 0.068 * h, back)
    if side_view:
        figure.disc(s + 0.018 * h, y - 0.008 * h, 0.042 * h, 0.056 * h, bare)
    elif chance.random() < 0.6:
        figure.disc(s, y - 0.012 * h, 0.046 * h, 0.056 * h, bare)
