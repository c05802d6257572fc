"""Trees, street lamps, signs, traffic lights and wires along the road."""

from __future__ import annotations

from itertools import pairwise
from math import cos, pi, sin

from .painter import Colour
from .stage import Lamp, Stage, tint

LEAVES: tuple[Colour, ...] = (
    (0.07, 0.12, 0.035),
    (0.05, 0.09, 0.03),
    (0.11, 0.15, 0.05),
    (0.13, 0.12, 0.05),
    (0.06, 0.10, 0.05),
)
LAMP_LIGHT: tuple[Colour, ...] = ((1.0, 0.66, 0.30), (1.0, 0.90, 0.72), (0.85, 0.93, 1.0))
SIGNS: tuple[Colour, ...] = (
    (0.55, 0.03, 0.03),
    (0.05, 0.15, 0.5),
    (0.75, 0.5, 0.03),
    (0.7, 0.7, 0.68),
    (0.04, 0.3, 0.12),
)


def draw_tree(stage: Stage, x: float, z: float, height: float) -> None:
    """A broad-leaved tree, a conifer, a palm or a bush of the given height."""
    chance, weather = stage.chance, stage.weather
    column, row = stage.camera.point(x, 0.0, z)
    k = stage.camera.scale(z)
    painter = stage.painter
    leaf = chance.choice(LEAVES)
    warm = weather.air + chance.uniform(-1.0, 2.0) + 0.25 * weather.heat

    def foliage(light: float, kelvin: float) -> int:
        return painter.part(
            "tree", tint(leaf, light), warm + kelvin, z, grain=0.55, thermal_grain=2.6
        )

    stage.shadow(
        [
            (x + 0.3 * height * cos(a * pi / 4), z + 0.22 * height * sin(a * pi / 4))
            for a in range(8)
        ],
        0.4 if weather.sun > 0.3 else 0.8,
        -0.4 * weather.heat - 0.5,
    )
    bark = painter.part(
        "tree",
        tint((0.14, 0.10, 0.07), chance.uniform(0.7, 1.4)),
        warm + 1.0,
        z,
        grain=0.25,
        thermal_grain=0.8,
    )
    dark, middle, light = (
        foliage(0.55, -1.2),
        foliage(1.0, 0.0),
        foliage(1.5 + 0.6 * weather.sun, 1.4),
    )
    kind = chance.random()
    if height < 2.2:
        for part, lift in ((dark, 0.3), (middle, 0.5), (light, 0.65)):
            for _ in range(3):
                painter.ellipse(
                    column + chance.uniform(-0.5, 0.5) * height * k,
                    row - lift * height * k,
                    0.35 * height * k,
                    0.3 * height * k,
                    part,
                )
        return
    if kind < 0.2:
        painter.limb(
            (column, row),
            (column, row - 0.3 * height * k),
            0.03 * height * k,
            0.03 * height * k,
            bark,
        )
        for level in range(5):
            base, tip = 0.12 + 0.16 * level, 0.4 + 0.15 * level
            half = 0.24 * (1 - level / 6.5) * height * k
            part = (dark, middle, light)[level % 3]
            painter.polygon(
                (
                    (column - half, row - base * height * k),
                    (column + half, row - base * height * k),
                    (column, row - min(tip, 1.0) * height * k),
                ),
                part,
            )
        return
    if kind < 0.3:
        top = (column + chance.uniform(-0.05, 0.05) * height * k, row - 0.88 * height * k)
        painter.limb((column, row), top, 0.03 * height * k, 0.018 * height * k, bark)
        for number in range(11):
            angle = number * 2 * pi / 11 + chance.uniform(-0.2, 0.2)
            reach = 0.24 * height * k
            end = (top[0] + reach * cos(angle), top[1] - 0.6 * reach * sin(angle) + 0.15 * reach)
            painter.limb(
                top, end, 0.035 * height * k, 0.004 * height * k, (dark, middle, light)[number % 3]
            )
        return
    fork = row - chance.uniform(0.3, 0.45) * height * k
    painter.limb((column, row), (column, fork), 0.035 * height * k, 0.022 * height * k, bark)
    for sign in (-1, 1):
        end = (column + sign * 0.16 * height * k, row - 0.6 * height * k)
        painter.limb((column, fork), end, 0.018 * height * k, 0.008 * height * k, bark)
    spread = chance.uniform(0.24, 0.36)
    # Clumps of leaves: dark and wide first, then smaller and lighter ones towards the top.
    for part, count, size, lift in (
        (dark, 9, 0.14, 0.60),
        (middle, 9, 0.11, 0.64),
        (dark, 8, 0.05, 0.62),
        (middle, 10, 0.05, 0.66),
        (light, 12, 0.05, 0.72),
    ):
        for _ in range(count):
            angle, reach = chance.uniform(0, 2 * pi), chance.random() ** 0.5
            reach *= 1.0 if size < 0.1 else 0.9
            painter.ellipse(
                column + spread * reach * cos(angle) * height * k,
                row - (lift + 0.23 * reach * sin(angle)) * height * k,
                size * chance.uniform(0.6, 1.25) * height * k,
                size * chance.uniform(0.45, 0.95) * height * k,
                part,
            )


def _mast(
    stage: Stage, x: float, z: float, height: float, radius: float
) -> tuple[int, tuple, float]:
    weather, chance = stage.weather, stage.chance
    part = stage.painter.part(
        "pole",
        tint((0.22, 0.22, 0.23), chance.uniform(0.4, 1.8)),
        weather.air - chance.uniform(-1.0, 4.0) + 0.4 * weather.heat,
        z,
        thermal_grain=0.4,
    )
    k = stage.camera.scale(z)
    foot, head = stage.camera.point(x, 0.0, z), stage.camera.point(x, height, z)
    thin = max(radius * k, 0.7)
    stage.painter.limb(foot, head, thin * 1.2, thin, part)
    return part, head, k


def draw_lamp(stage: Stage, x: float, z: float, toward: float) -> None:
    """A street lamp whose arm reaches `toward` metres over the road."""
    chance, weather = stage.chance, stage.weather
    height = chance.uniform(5.5, 7.5)
    part, head, k = _mast(stage, x, z, height, 0.07)
    light = chance.choice(LAMP_LIGHT)
    strength = chance.uniform(8.0, 16.0) if weather.dark else 0.0
    glow = (light[0] * strength, light[1] * strength, light[2] * strength)
    tip = (head[0] + toward * k, head[1] - 0.3 * k)
    stage.painter.limb(head, tip, max(0.05 * k, 0.6), max(0.05 * k, 0.6), part)
    lantern = stage.painter.part(
        "pole",
        (0.5, 0.5, 0.5),
        weather.air + (chance.uniform(3, 18) if weather.dark else 1.0),
        z,
        emission=glow,
    )
    stage.painter.ellipse(tip[0], tip[1] + 0.1 * k, max(0.36 * k, 0.9), max(0.14 * k, 0.7), lantern)
    if weather.dark:
        stage.lamps.append(Lamp(x + toward, height, z, chance.uniform(0.8, 1.7), light))


def draw_sign(stage: Stage, x: float, z: float) -> None:
    """A traffic sign: disc, diamond or board on a post."""
    chance, weather = stage.chance, stage.weather
    height = chance.uniform(2.3, 3.0)
    _, (column, row), k = _mast(stage, x, z, height, 0.045)
    colour = chance.choice(SIGNS)
    cold = weather.air - chance.uniform(0.0, 4.0) + 0.5 * weather.heat
    face = stage.painter.part("pole", colour, cold, z, thermal_grain=0.3)
    r = 0.42 * k
    kind = chance.randrange(3)
    if kind == 0:
        stage.painter.ellipse(column, row, r, r, face)
        inner = stage.painter.part("pole", (0.7, 0.7, 0.7), cold - 0.5, z)
        stage.painter.ellipse(column, row, r * 0.6, r * 0.6, inner)
    elif kind == 1:
        r *= 1.25
        stage.painter.polygon(
            ((column, row - r), (column + r, row), (column, row + r), (column - r, row)), face
        )
    else:
        stage.painter.polygon(
            (
                (column - r, row - r * 0.8),
                (column + r, row - r * 0.8),
                (column + r, row + r * 0.8),
                (column - r, row + r * 0.8),
            ),
            face,
        )


def draw_posts(stage: Stage, x: float, z: float, step: float, count: int) -> None:
    """Bollards, bins or cabinets in a row away from the camera: upright, warm and nobody."""
    chance, weather = stage.chance, stage.weather
    tall, half = chance.choice(((1.0, 0.12), (1.2, 0.16), (0.9, 0.3), (1.3, 0.35), (1.6, 0.1)))
    albedo = tint((0.4, 0.4, 0.38), chance.choice((0.15, 0.5, 1.0, 1.6)))
    warm = weather.air + chance.uniform(-2.0, 6.0) + weather.heat * chance.uniform(0.3, 1.4)
    for number in reversed(range(count)):
        deep = z + number * step
        k = stage.camera.scale(deep)
        column, row = stage.camera.point(x, 0.0, deep)
        body = stage.painter.part("pole", albedo, warm, deep, thermal_grain=0.4)
        cap = stage.painter.part("pole", tint(albedo, 1.3), warm + 1.0, deep, thermal_grain=0.4)
        top, wide = row - tall * k, max(half * k, 0.7)
        painter = stage.painter
        painter.polygon(
            (
                (column - wide, row),
                (column + wide, row),
                (column + wide, top),
                (column - wide, top),
            ),
            body,
        )
        painter.ellipse(column, top, wide, max(0.35 * wide, 0.5), cap)


def draw_traffic_light(stage: Stage, x: float, z: float, toward: float) -> None:
    """A traffic light on a mast, with one lamp lit."""
    chance, weather = stage.chance, stage.weather
    part, head, k = _mast(stage, x, z, chance.uniform(3.2, 5.5), 0.07)
    tip = (head[0] + toward * k, head[1])
    stage.painter.limb(head, tip, max(0.05 * k, 0.5), max(0.04 * k, 0.5), part)
    case = stage.painter.part("pole", (0.05, 0.05, 0.05), weather.air + 2.0, z)
    stage.painter.polygon(
        (
            (tip[0] - 0.2 * k, tip[1]),
            (tip[0] + 0.2 * k, tip[1]),
            (tip[0] + 0.2 * k, tip[1] + 1.0 * k),
            (tip[0] - 0.2 * k, tip[1] + 1.0 * k),
        ),
        case,
    )
    active = chance.randrange(3)
    strength = 2.5 if weather.dark else 0.8
    glow = [(1.0, 0.06, 0.04), (1.0, 0.6, 0.05), (0.08, 1.0, 0.45)][active]
    lamp = stage.painter.part(
        "pole",
        glow,
        weather.air + 7.0,
        z,
        emission=(glow[0] * strength, glow[1] * strength, glow[2] * strength),
    )
    stage.painter.ellipse(tip[0], tip[1] + (0.2 + 0.3 * active) * k, 0.14 * k, 0.14 * k, lamp)


def draw_wires(stage: Stage, x: float, start: float, end: float, pitch: float) -> None:
    """Utility poles along the road with sagging wires between them."""
    chance, weather = stage.chance, stage.weather
    height = chance.uniform(7.0, 9.0)
    tips = []
    z = start
    while z < end:
        part, _, k = _mast(stage, x, z, height, 0.12)
        left, right = (stage.camera.point(x + s, height - 0.6, z) for s in (-0.9, 0.9))
        stage.painter.limb(left, right, max(0.07 * k, 0.5), max(0.07 * k, 0.5), part)
        tips.append((z, left, right))
        z += pitch
    wire = stage.painter.part("pole", (0.05, 0.05, 0.05), weather.air - 3.0, (start + end) / 2)
    for (_, l0, r0), (_, l1, r1) in pairwise(tips):
        for (c0, w0), (c1, w1) in ((l0, l1), (r0, r1)):
            sag = 0.06 * abs(c1 - c0)
            stage.painter.line(
                [
                    (c0 + (c1 - c0) * t, w0 + (w1 - w0) * t + 4 * sag * t * (1 - t))
                    for t in (0.0, 0.25, 0.5, 0.75, 1.0)
                ],
                1,
                wire,
            )
