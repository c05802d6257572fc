"""Buildings: boxes with floors, windows, doors and sometimes a gable."""

from __future__ import annotations

from random import Random

from .painter import BLACK, Colour
from .stage import Stage, tint

WALLS: tuple[Colour, ...] = (
    (0.42, 0.37, 0.30),
    (0.30, 0.15, 0.10),
    (0.50, 0.48, 0.44),
    (0.25, 0.24, 0.23),
    (0.58, 0.53, 0.42),
    (0.36, 0.28, 0.21),
    (0.62, 0.60, 0.57),
    (0.40, 0.22, 0.15),
)
WINDOW_LIGHT: tuple[Colour, ...] = ((1.0, 0.78, 0.42), (1.0, 0.9, 0.7), (0.8, 0.9, 1.0))
SMALLEST_WINDOW = 1.6  # painted pixels; smaller ones are left out, texture stands for them


class Facade:
    """One flat wall: maps (along, up) in metres to the picture."""

    def __init__(self, stage: Stage, along, depth: float, wall: float) -> None:
        self.stage, self.along, self.depth, self.wall = stage, along, depth, wall

    def part(self, albedo, temperature, grain=0.06, heat_grain=0.9, glow=BLACK, label="building"):
        return self.stage.painter.part(
            label,
            albedo,
            temperature,
            self.depth,
            grain=grain,
            thermal_grain=heat_grain,
            emission=glow,
            wall=self.wall,
        )

    def panel(self, a0: float, a1: float, y0: float, y1: float, part: int) -> None:
        point = self.stage.camera.point
        (x0, z0), (x1, z1) = self.along(a0), self.along(a1)
        self.stage.painter.polygon(
            (point(x0, y0, z0), point(x1, y0, z1), point(x1, y1, z1), point(x0, y1, z0)), part
        )

    def pixels(self, a0: float, a1: float) -> float:
        point = self.stage.camera.point
        (x0, z0), (x1, z1) = self.along(a0), self.along(a1)
        return abs(point(x0, 0, z0)[0] - point(x1, 0, z1)[0])


def _decorate(
    facade: Facade, length: float, height: float, colour: Colour, heat: float, lit: float
):
    """Floors, windows, a plinth and a door on one wall."""
    stage = facade.stage
    weather = stage.weather
    # A stream of its own: how many windows are drawn depends on the picture's size, and the rest
    # of the scene must not.
    chance = Random(stage.chance.getrandbits(32))
    floor = chance.uniform(2.8, 3.5)
    floors = max(1, int(height / floor))
    pitch = chance.uniform(1.9, 3.4)
    count = min(max(1, int(length / pitch)), 14)
    pitch = length / count
    open_share = chance.uniform(0.42, 0.65)
    plinth = facade.part(tint(colour, 0.6), heat - chance.uniform(0.5, 2.5))
    facade.panel(0, length, 0, chance.uniform(0.4, 1.0), plinth)
    cornice = facade.part(tint(colour, 1.25), heat + chance.uniform(0.5, 2.0))
    facade.panel(0, length, height - 0.35, height, cornice)
    if chance.random() < 0.6:
        band = facade.part(
            tint(colour, chance.choice((0.7, 1.3))), heat + chance.uniform(-1.5, 1.5)
        )
        for k in range(1, floors):
            facade.panel(0, length, k * floor - 0.12, k * floor + 0.12, band)
    cold = weather.air - chance.uniform(0.5, 5.0)
    sky = tint((0.30, 0.34, 0.40), 0.25 + 0.6 * weather.sun)
    panes = [
        facade.part(tint(sky, f), cold + d, grain=0.15, heat_grain=0.5)
        for f, d in ((0.5, 0.0), (0.9, -1.5), (0.3, 1.5))
    ]
    glow = chance.choice(WINDOW_LIGHT)
    lights = [
        facade.part(
            (0.3, 0.28, 0.25),
            cold + chance.choice((2.5, 2.5, 9.0)),
            glow=tint_light(glow, chance.uniform(0.25, 0.9)),
        )
        for _ in range(2)
    ]
    shop = chance.random() < 0.35 and floors > 1
    for row in range(floors):
        y0, y1 = row * floor + 0.95, row * floor + floor - 0.55
        if row == 0 and shop:
            y0, y1 = 0.5, floor - 0.5
        share = 0.85 if row == 0 and shop else open_share
        for k in range(count):
            a0 = (k + 0.5 - share / 2) * pitch
            a1 = a0 + share * pitch
            if facade.pixels(a0, a1) < SMALLEST_WINDOW:
                continue
            bright = chance.random() < (lit * 2.0 if row == 0 and shop else lit)
            part = chance.choice(lights) if bright else chance.choice(panes)
            facade.panel(a0, a1, y0, y1, part)
    if not shop:
        door = facade.part(tint(colour, 0.35), heat + chance.uniform(0.5, 3.0))
        at = chance.uniform(0.15, 0.75) * length
        facade.panel(at, at + 1.1, 0.0, 2.2, door)


def tint_light(colour: Colour, strength: float) -> Colour:
    """Light may exceed full reflectance, so nothing is clipped here."""
    return colour[0] * strength, colour[1] * strength, colour[2] * strength


def draw_building(
    stage: Stage, x0: float, x1: float, z0: float, z1: float, height: float, gable: bool
) -> None:
    """A box between x0 < x1 and z0 < z1: the wall facing the camera axis and the near end."""
    chance, weather = stage.chance, stage.weather
    colour = chance.choice(WALLS)
    colour = tint(colour, chance.uniform(0.75, 1.3))
    heat = weather.air + chance.uniform(-2.5, 3.0)
    sunny_side = chance.random() < 0.5
    side_sun = weather.heat * (1.0 if sunny_side else 0.15)
    end_sun = weather.heat * (0.25 if sunny_side else 0.9)
    side_light = 1.0 + weather.sun * (0.25 if sunny_side else -0.35)
    end_light = 1.0 + weather.sun * (-0.3 if sunny_side else 0.2)
    lit = chance.uniform(0.05, 0.5) if weather.dark else 0.0
    roof_colour = tint(
        chance.choice(((0.25, 0.10, 0.06), (0.12, 0.12, 0.13), (0.2, 0.16, 0.12))),
        1 + 0.3 * weather.sun,
    )
    near_x = x0 if x0 > 0 else (x1 if x1 < 0 else None)
    point = stage.camera.point
    if gable:
        roof = stage.painter.part(
            "building", roof_colour, heat + weather.heat - 2.0, z0, grain=0.12, thermal_grain=1.2
        )
        middle, top = (x0 + x1) / 2, height + min(0.35 * (x1 - x0), 3.0)
        stage.painter.polygon(
            [point(middle, top, z) for z in (z1, z0)]
            + [point(near_x if near_x is not None else x0, height, z) for z in (z0, z1)],
            roof,
        )
    elif stage.camera.altitude > height:
        roof = stage.painter.part("building", roof_colour, heat - 2.0, z0, thermal_grain=1.0)
        stage.painter.polygon(
            [point(x, height, z) for x, z in ((x0, z0), (x1, z0), (x1, z1), (x0, z1))], roof
        )
    if near_x is not None:
        facade = Facade(stage, lambda a: (near_x, z0 + a), (z0 + z1) / 2, near_x)
        wall = tint(colour, side_light)
        part = facade.part(wall, heat + side_sun, grain=0.09, heat_grain=0.6)
        facade.panel(0, z1 - z0, 0, height, part)
        _decorate(facade, z1 - z0, height, wall, heat + side_sun, lit)
    column0, column1 = point(x0, 0, z0)[0], point(x1, 0, z0)[0]
    if column1 > 0 and column0 < stage.camera.width:
        facade = Facade(stage, lambda a: (x0 + a, z0), z0, 0.0)
        wall = tint(colour, end_light)
        part = facade.part(wall, heat + end_sun, grain=0.09, heat_grain=0.6)
        facade.panel(0, x1 - x0, 0, height, part)
        if gable:
            stage.painter.polygon(
                (point(x0, height, z0), point((x0 + x1) / 2, top, z0), point(x1, height, z0)), part
            )
        _decorate(facade, x1 - x0, height, wall, heat + end_sun, lit)
