"""The ground: backdrop, road, pavements, markings and what lies flat on them."""

from __future__ import annotations

from dataclasses import dataclass

from .camera import FARTHEST
from .painter import ON_GROUND
from .stage import Stage, grey, tint

STREET, OPEN, ELEVATED = "street", "open", "elevated"


@dataclass(slots=True)
class Street:
    """Ground plan: road between two x, pavements beyond, and how far down it reaches.

    A street `across` the view lies between two depths instead, `left` the nearer one. `wild` land
    has no road; its `water` is a lake or a river between two depths, if there is any.
    """

    kind: str
    left: float
    right: float
    pavement: float
    end: float
    across: bool = False
    wild: bool = False
    water: tuple[float, float] | None = None

    def lane(self, side: float) -> float:
        """Centre of the driving lane on the left (-1) or right (+1)."""
        middle, half = (self.left + self.right) / 2, (self.right - self.left) / 2
        return middle + side * half * 0.46

    def kerb(self, side: float) -> float:
        return self.right if side > 0 else self.left


def paint_backdrop(stage: Stage) -> None:
    """The sky's part and the far outlines of hills and woods."""
    chance, weather, camera, painter = stage.chance, stage.weather, stage.camera, stage.painter
    # Part 0 is the sky: an untouched painted pixel is sky, so nothing has to be drawn for it.
    painter.part("sky", (1.0, 1.0, 1.0), weather.sky, FARTHEST, grain=0.0, thermal_grain=0.0)
    width, horizon = camera.width, camera.horizon
    for distance, label in ((600.0, "hill"), (150.0, "tree")):
        if chance.random() > (0.45 if label == "hill" else 0.75):
            continue
        tall = camera.focal * chance.uniform(20.0, 70.0) / distance
        if label == "tree":
            tall = camera.focal * chance.uniform(6.0, 14.0) / distance
            part = painter.part(
                "tree",
                tint((0.08, 0.11, 0.05), chance.uniform(0.7, 1.3)),
                weather.air - 0.5,
                distance,
                grain=0.4,
                thermal_grain=2.0,
            )
        else:
            part = painter.part(
                "hill",
                tint((0.16, 0.18, 0.13), chance.uniform(0.7, 1.3)),
                weather.air - 2.5,
                distance,
                grain=0.15,
                thermal_grain=1.6,
            )
        steps = 9 if label == "hill" else 28
        level, outline = chance.uniform(0.3, 0.9), []
        for step in range(steps + 1):
            level += chance.uniform(-0.28, 0.28)
            level = min(max(level, 0.1), 1.1)
            outline.append((step * width / steps, horizon - level * tall))
        painter.polygon([*outline, (width, horizon + 3), (0, horizon + 3)], part)


def paint_ground(stage: Stage, street: Street) -> None:
    """Soil or paving up to the horizon, the road and everything painted on it."""
    chance, weather, camera, painter = stage.chance, stage.weather, stage.camera, stage.painter
    width, height = camera.width, camera.height
    grass = street.kind == OPEN or chance.random() < 0.3
    colour = tint((0.11, 0.15, 0.06) if grass else (0.24, 0.23, 0.21), chance.uniform(0.7, 1.4))
    cool = weather.air + (chance.uniform(-4.5, -1.0) if grass else chance.uniform(-2.0, 3.0))
    sun = weather.heat * (0.35 if grass else 0.9)
    ground = painter.part(
        "ground",
        colour,
        cool + sun,
        ON_GROUND,
        grain=0.3 if grass else 0.12,
        thermal_grain=1.2 if grass else 0.7,
    )
    painter.polygon(
        ((0, camera.horizon), (width, camera.horizon), (width, height), (0, height)), ground
    )
    stage.road_albedo = grey(chance, 0.07, 0.20, 0.04)
    stage.road_temperature = weather.air + chance.uniform(-2.0, 5.0) + weather.heat
    road = painter.part(
        "road", stage.road_albedo, stage.road_temperature, ON_GROUND, grain=0.10, thermal_grain=0.6
    )
    near = max(camera.nearest_ground() * 0.8, 0.95)
    far = 900.0

    def strip(x0: float, x1: float, z0: float, z1: float, part: int) -> None:
        z0, z1 = max(z0, near), max(z1, near)
        if z1 > z0:
            point = camera.point
            painter.polygon(
                (point(x0, 0, z0), point(x1, 0, z0), point(x1, 0, z1), point(x0, 0, z1)), part
            )

    def surface(label, albedo, kelvin, grain=0.1, heat_grain=0.6) -> int:
        return painter.part(
            label,
            albedo,
            stage.road_temperature + kelvin,
            ON_GROUND,
            grain=grain,
            thermal_grain=heat_grain,
        )

    if street.water:
        shine = 0.35 + 0.65 * weather.sun
        depths = painter.part(
            "ground",
            tint((0.22, 0.28, 0.33), shine * chance.uniform(0.6, 1.6)),
            weather.air + chance.uniform(-4.0, 6.0),
            ON_GROUND,
            grain=0.08,
            thermal_grain=0.35,
        )
        strip(-900.0, 900.0, *street.water, depths)
    if street.wild:
        stage.road_albedo, stage.road_temperature = colour, cool + sun
        return
    if street.across:
        _paint_across(street, strip, surface, road, chance)
        return
    if street.kind != OPEN:
        slab = surface("ground", tint(grey(chance, 0.22, 0.38), 1.0), chance.uniform(-2.5, 1.5))
        edge = surface("ground", grey(chance, 0.3, 0.5), chance.uniform(-3.0, 0.5))
        for side in (-1, 1):
            kerb = street.kerb(side)
            low, high = sorted((kerb, kerb + side * street.pavement))
            strip(low, high, near, far, slab)
            low, high = sorted((kerb, kerb + side * 0.25))
            strip(low, high, near, far, edge)
    strip(street.left, street.right, near, far, road)
    if chance.random() < 0.35:  # a crossing road
        cross = chance.uniform(12.0, 40.0)
        strip(-200.0, 200.0, cross, cross + chance.uniform(6.0, 10.0), road)
    tracks = surface(
        "road", tint(stage.road_albedo, chance.uniform(0.8, 0.95)), chance.uniform(0.5, 2.2)
    )
    for side in (-1, 1):
        for wheel in (-0.8, 0.8):
            x = street.lane(side) + wheel
            strip(x - 0.22, x + 0.22, near, far, tracks)
    for _ in range(chance.randrange(5)):  # repaired patches and cracks
        patch = surface(
            "road", tint(stage.road_albedo, chance.uniform(0.6, 1.3)), chance.uniform(-2.0, 2.0)
        )
        x = chance.uniform(street.left, street.right - 1.0)
        z = near + chance.uniform(0.5, 14.0)
        if chance.random() < 0.5:
            strip(
                x,
                min(x + chance.uniform(0.6, 2.5), street.right),
                z,
                z + chance.uniform(0.8, 5.0),
                patch,
            )
        else:
            line = [camera.point(x + chance.uniform(-0.5, 0.5), 0, z + k * 2.0) for k in range(6)]
            painter.line(line, 2, patch)
    if weather.sun > 0.3 and chance.random() < 0.6:  # shadow cast across the road
        shade = surface("road", tint(stage.road_albedo, 0.35), -0.5 * weather.heat)
        z = near + chance.uniform(1.0, 12.0)
        reach = street.left + chance.uniform(0.3, 1.0) * (street.right - street.left)
        for _ in range(4):
            z0 = z + chance.uniform(0.0, 3.0)
            strip(
                street.left,
                reach * chance.uniform(0.7, 1.0),
                z0,
                z0 + chance.uniform(0.4, 1.6),
                shade,
            )
    white = surface("road", (0.55, 0.55, 0.53), chance.uniform(-2.0, 1.0), heat_grain=0.5)
    yellow = surface("road", (0.5, 0.38, 0.08), chance.uniform(-2.0, 1.0), heat_grain=0.5)
    middle = (street.left + street.right) / 2
    marking = chance.random()
    if marking < 0.35:
        paint = chance.choice((white, yellow))
        for offset in (-0.14, 0.14):
            strip(middle + offset - 0.06, middle + offset + 0.06, near, far, paint)
    elif marking < 0.85:
        z = near + chance.uniform(0.0, 4.0) - 4.0
        while z < 70.0:
            strip(middle - 0.08, middle + 0.08, z, z + 2.4, white)
            z += 5.5
    if chance.random() < 0.6:
        for side in (-1, 1):
            x = street.kerb(side) - side * 0.35
            strip(x - 0.07, x + 0.07, near, far, white)
    if chance.random() < 0.25:  # a zebra crossing
        z, x = near + chance.uniform(2.0, 14.0), street.left + 0.3
        while x < street.right - 0.5:
            strip(x, x + 0.5, z, z + 3.0, white)
            x += 1.0


def _paint_across(street: Street, strip, surface, road: int, chance) -> None:
    """A road that runs across the view, with a pavement on either side."""
    slab = surface("ground", tint(grey(chance, 0.22, 0.38), 1.0), chance.uniform(-2.5, 1.5))
    edge = surface("ground", grey(chance, 0.3, 0.5), chance.uniform(-3.0, 0.5))
    low, high = street.left, street.right
    strip(-200.0, 200.0, low - street.pavement, high + street.pavement, slab)
    strip(-200.0, 200.0, low - 0.25, high + 0.25, edge)
    strip(-200.0, 200.0, low, high, road)
    paint = surface("road", (0.55, 0.55, 0.53), chance.uniform(-2.0, 1.0), heat_grain=0.5)
    middle, x = (low + high) / 2, -40.0 + chance.uniform(0.0, 4.0)
    pitch = chance.choice((2.4, 5.5, 5.5))  # a line or dashes
    while x < 40.0:
        strip(x, x + 2.4, middle - 0.08, middle + 0.08, paint)
        x += pitch
