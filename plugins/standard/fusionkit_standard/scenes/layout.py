"""The layout: which place this is, where the camera stands and what is put where."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import pi
from random import Random

from .buildings import draw_building
from .camera import FARTHEST, Camera
from .painter import ON_GROUND, OVERSAMPLING, Painter
from .people import draw_bicycle, draw_person
from .roadside import draw_lamp, draw_sign, draw_traffic_light, draw_tree, draw_wires
from .stage import Stage, Weather, grey, tint
from .vehicles import draw_bus, draw_car, draw_truck

STREET, OPEN, ELEVATED = "street", "open", "elevated"
AIM = {"person": 2.0, "car": 1.9, "truck": 0.6, "bus": 0.6, "bicycle": 0.75}  # mean tries per scene
SHARE = {STREET: 0.65, OPEN: 0.20, ELEVATED: 0.15}


@dataclass(slots=True)
class Street:
    """Ground plan: road between two x, pavements beyond, and how far down it reaches."""

    kind: str
    left: float
    right: float
    pavement: float
    end: float

    def lane(self, side: float) -> float:
        """Centre of the driving lane on the left (-1) or right (+1)."""
        middle, half = (self.left + self.right) / 2, (self.right - self.left) / 2
        return middle + side * half * 0.46

    def kerb(self, side: float) -> float:
        return self.right if side > 0 else self.left


def weather_of(chance: Random) -> Weather:
    """Day 40 %, dusk 20 %, night 40 %, with the heat that goes with it."""
    air = chance.uniform(-3.0, 19.0)
    overcast = chance.random()
    drop = chance.uniform(14.0, 32.0) * (1.0 - 0.4 * overcast)
    pick = chance.random()
    if pick < 0.4:
        sun = chance.uniform(0.45, 1.0) if overcast < 0.65 else chance.uniform(0.0, 0.25)
        return Weather("day", sun, sun * chance.uniform(3.0, 11.0), air, air - drop, overcast, False)
    if pick < 0.6:
        heat = chance.uniform(0.0, 3.5)
        return Weather("dusk", chance.uniform(0.0, 0.2), heat, air, air - drop, overcast,
                       chance.random() < 0.8)  # fmt: skip
    return Weather("night", 0.0, chance.uniform(0.0, 1.0), air, air - drop, overcast, True)


def camera_of(chance: Random, kind: str, height: int, width: int) -> Camera:
    """Height, horizon and focal length of the three layouts, in painted pixels."""
    if kind == ELEVATED:
        horizon, altitude = chance.uniform(0.08, 0.20), chance.uniform(5.0, 8.0)
    else:
        horizon, altitude = chance.uniform(0.36, 0.54), chance.uniform(1.4, 2.4)
    focal, centre = chance.uniform(0.9, 1.5), chance.uniform(0.35, 0.65)
    tall, wide = height * OVERSAMPLING, width * OVERSAMPLING
    return Camera(tall, wide, horizon * tall, centre * wide, focal * wide, altitude)


def compose(chance: Random, height: int, width: int) -> tuple[Stage, str]:
    """Draw a whole scene and return the stage with the kind of place."""
    weather = weather_of(chance)
    pick = chance.random()
    kind = STREET if pick < SHARE[STREET] else OPEN if pick < 1 - SHARE[ELEVATED] else ELEVATED
    camera = camera_of(chance, kind, height, width)
    stage = Stage(camera, Painter(camera), weather, chance)
    half = chance.uniform(3.2, 6.5) if kind != ELEVATED else chance.uniform(3.5, 7.5)
    middle = chance.uniform(-0.55, 0.3) * half
    if kind == ELEVATED:
        middle = chance.uniform(-4.0, 4.0)
    street = Street(kind, middle - half, middle + half, chance.uniform(1.8, 4.0),
                    chance.uniform(60.0, 220.0))  # fmt: skip
    stage.road_edges = (street.left, street.right)
    _paint_backdrop(stage, street)
    _paint_ground(stage, street)
    _put_buildings(stage, street)
    drawers: list[tuple[float, Callable[[], None]]] = []
    _plan_roadside(stage, street, drawers)
    _plan_things(stage, street, drawers)
    for _, draw in sorted(drawers, key=lambda entry: -entry[0]):
        draw()
    return stage, kind


def _paint_backdrop(stage: Stage, street: Street) -> None:
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
            part = painter.part("tree", tint((0.08, 0.11, 0.05), chance.uniform(0.7, 1.3)),
                                weather.air - 0.5, distance, grain=0.4, thermal_grain=2.0)  # fmt: skip
        else:
            part = painter.part("hill", tint((0.16, 0.18, 0.13), chance.uniform(0.7, 1.3)),
                                weather.air - 2.5, distance, grain=0.15, thermal_grain=1.6)  # fmt: skip
        steps = 9 if label == "hill" else 28
        level, outline = chance.uniform(0.3, 0.9), []
        for step in range(steps + 1):
            level += chance.uniform(-0.28, 0.28)
            level = min(max(level, 0.1), 1.1)
            outline.append((step * width / steps, horizon - level * tall))
        painter.polygon([*outline, (width, horizon + 3), (0, horizon + 3)], part)


def _paint_ground(stage: Stage, street: Street) -> None:
    chance, weather, camera, painter = stage.chance, stage.weather, stage.camera, stage.painter
    width, height = camera.width, camera.height
    grass = street.kind == OPEN or chance.random() < 0.3
    colour = tint((0.11, 0.15, 0.06) if grass else (0.24, 0.23, 0.21), chance.uniform(0.7, 1.4))
    cool = weather.air + (chance.uniform(-4.5, -1.0) if grass else chance.uniform(-2.0, 3.0))
    sun = weather.heat * (0.35 if grass else 0.9)
    ground = painter.part("ground", colour, cool + sun, ON_GROUND, grain=0.3 if grass else 0.12,
                          thermal_grain=1.8 if grass else 0.9)  # fmt: skip
    painter.polygon(((0, camera.horizon), (width, camera.horizon), (width, height), (0, height)), ground)
    stage.road_albedo = grey(chance, 0.07, 0.20, 0.04)
    stage.road_temperature = weather.air + chance.uniform(-2.0, 5.0) + weather.heat
    road = painter.part("road", stage.road_albedo, stage.road_temperature, ON_GROUND, grain=0.10,
                        thermal_grain=0.6)  # fmt: skip
    near = max(camera.nearest_ground() * 0.8, 0.95)
    far = 900.0

    def strip(x0: float, x1: float, z0: float, z1: float, part: int) -> None:
        z0, z1 = max(z0, near), max(z1, near)
        if z1 > z0:
            point = camera.point
            painter.polygon((point(x0, 0, z0), point(x1, 0, z0), point(x1, 0, z1), point(x0, 0, z1)), part)

    def surface(label, albedo, kelvin, grain=0.1, heat_grain=0.6) -> int:
        return painter.part(label, albedo, stage.road_temperature + kelvin, ON_GROUND,
                            grain=grain, thermal_grain=heat_grain)  # fmt: skip

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
    tracks = surface("road", tint(stage.road_albedo, chance.uniform(0.8, 0.95)), chance.uniform(0.5, 2.2))
    for side in (-1, 1):
        for wheel in (-0.8, 0.8):
            x = street.lane(side) + wheel
            strip(x - 0.22, x + 0.22, near, far, tracks)
    for _ in range(chance.randrange(5)):  # repaired patches and cracks
        patch = surface("road", tint(stage.road_albedo, chance.uniform(0.6, 1.3)), chance.uniform(-2.0, 2.0))
        x = chance.uniform(street.left, street.right - 1.0)
        z = near + chance.uniform(0.5, 14.0)
        if chance.random() < 0.5:
            strip(x, min(x + chance.uniform(0.6, 2.5), street.right), z, z + chance.uniform(0.8, 5.0), patch)
        else:
            line = [camera.point(x + chance.uniform(-0.5, 0.5), 0, z + k * 2.0) for k in range(6)]
            painter.line(line, 2, patch)
    if weather.sun > 0.3 and chance.random() < 0.6:  # shadow cast across the road
        shade = surface("road", tint(stage.road_albedo, 0.35), -0.5 * weather.heat)
        z = near + chance.uniform(1.0, 12.0)
        reach = street.left + chance.uniform(0.3, 1.0) * (street.right - street.left)
        for _ in range(4):
            z0 = z + chance.uniform(0.0, 3.0)
            strip(street.left, reach * chance.uniform(0.7, 1.0), z0, z0 + chance.uniform(0.4, 1.6), shade)
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


def _put_buildings(stage: Stage, street: Street) -> None:
    chance = stage.chance
    plans: list[tuple[float, tuple]] = []
    if street.kind == OPEN:
        for _ in range(chance.choice((0, 0, 1, 1, 2))):
            side, z, wide = chance.choice((-1, 1)), chance.uniform(30.0, 90.0), chance.uniform(7.0, 14.0)
            edge = street.kerb(side) + side * chance.uniform(5.0, 20.0)
            low, high = sorted((edge, edge + side * wide))
            plans.append((z + 8, (low, high, z, z + 8, chance.uniform(3.0, 6.0), chance.random() < 0.7)))
    else:
        tall = chance.uniform(5.0, 18.0)
        for side in (-1, 1):
            if chance.random() < 0.12:
                continue
            setback = street.pavement + chance.choice((0.0, 0.0, 2.0, 5.0))
            z = chance.uniform(2.0, 12.0) if street.kind == STREET else chance.uniform(15.0, 35.0)
            gap = chance.choice((0.0, 1.5, 4.0, 9.0))
            while z < min(street.end, 110.0):
                deep = chance.uniform(8.0, 22.0)
                height = max(3.2, tall * chance.uniform(0.6, 1.4))
                inner = street.kerb(side) + side * setback
                low, high = sorted((inner, inner + side * chance.uniform(9.0, 16.0)))
                gable = height < 8.0 and chance.random() < 0.6
                plans.append((z + deep, (low, high, z, z + deep, height, gable)))
                z += deep + (chance.uniform(0.3, 1.0) * gap)
        if chance.random() < 0.4:  # the street ends at a building
            z, at = street.end, chance.uniform(-30.0, 0.0)
            plans.append((z + 90, (at, at + 45.0, z, z + 12, tall * chance.uniform(0.8, 1.6), False)))
    for _, plan in sorted(plans, key=lambda entry: -entry[0]):
        draw_building(stage, *plan)


def _plan_roadside(stage: Stage, street: Street, drawers: list) -> None:
    chance, near = stage.chance, stage.camera.nearest_ground()

    def plan(z: float, draw: Callable, *arguments) -> None:
        drawers.append((z, lambda: draw(stage, *arguments)))

    verge = 0.5 if street.kind != OPEN else 1.4
    for side in (-1, 1):
        x = street.kerb(side) + side * verge
        trees = chance.random() < (0.62 if street.kind != OPEN else 0.85)
        if trees:
            z, pitch = near + chance.uniform(2.0, 14.0), chance.uniform(5.0, 14.0)
            base = chance.uniform(3.5, 11.0)
            away = 0.6 if street.kind == STREET else chance.uniform(1.0, 6.0)
            while z < 70.0:
                at = x + side * away * chance.uniform(0.8, 1.6)
                plan(z, draw_tree, at, z, base * chance.uniform(0.75, 1.25))
                z += pitch * chance.uniform(0.7, 1.6) * (1.0 + z / 60.0)
        if chance.random() < 0.3:
            for _ in range(chance.randint(1, 4)):
                z = near + chance.uniform(3.0, 25.0)
                plan(z, draw_tree, street.kerb(side) + side * chance.uniform(1.6, 5.0), z,
                     chance.uniform(0.7, 1.8))  # fmt: skip
        if street.kind != OPEN and chance.random() < 0.65 or chance.random() < 0.25:
            z, pitch = near + chance.uniform(3.0, 14.0), chance.uniform(14.0, 26.0)
            while z < 75.0:
                plan(z, draw_lamp, x, z, -side * chance.uniform(1.0, 1.6))
                z += pitch
        for _ in range(chance.choice((0, 0, 1, 1, 2))):
            z = near + chance.uniform(3.0, 22.0)
            plan(z, draw_sign, x + side * 0.1, z)
        if chance.random() < 0.15:
            z = near + chance.uniform(5.0, 25.0)
            plan(z, draw_traffic_light, x, z, -side * chance.choice((0.0, 0.0, 2.5)))
    if chance.random() < 0.18:
        side = chance.choice((-1, 1))
        x = street.kerb(side) + side * 1.2
        start = near + chance.uniform(4.0, 10.0)
        plan(start + 20.0, draw_wires, x, start, 120.0, chance.uniform(14.0, 24.0))


class _Plan:
    """Chooses free spots on the ground, as discs that may not overlap."""

    def __init__(self, stage: Stage, street: Street) -> None:
        self.stage, self.street, self.taken = stage, street, []

    def depth(self, height: float, low: float, high: float) -> float:
        """A depth at which something `height` metres tall covers low to high of the picture."""
        camera, chance = self.stage.camera, self.stage.chance
        share = low * (high / low) ** chance.random()
        z = camera.focal * height / (share * camera.height)
        return max(z, camera.nearest_ground() * 1.08)

    def free(self, x: float, z: float, radius: float) -> bool:
        camera = self.stage.camera
        if not -0.02 * camera.width < camera.point(x, 0.0, z)[0] < 1.02 * camera.width:
            return False
        if any((x - a) ** 2 + (z - b) ** 2 < (radius + r) ** 2 for a, b, r in self.taken):
            return False
        self.taken.append((x, z, radius))
        return True


def _count(chance: Random, mean: float) -> int:
    """A Poisson number, by multiplying uniform numbers."""
    limit, count, product = 2.718281828459045 ** -mean, 0, chance.random()
    while product > limit:
        count, product = count + 1, product * chance.random()
    return count


def _plan_things(stage: Stage, street: Street, drawers: list) -> None:
    chance = stage.chance
    plan = _Plan(stage, street)
    counts = {label: _count(chance, mean) for label, mean in AIM.items()}
    if chance.random() < 0.12:
        counts["person"] += chance.randint(2, 4)  # a small crowd
    if chance.random() < 0.03:
        counts = dict.fromkeys(AIM, 0)  # an empty place
    drawing = {"bus": draw_bus, "truck": draw_truck, "car": draw_car}
    for label in ("bus", "truck", "car"):
        for _ in range(counts[label]):
            spot = _vehicle_spot(stage, street, plan, label)
            if spot:
                x, z, heading, running = spot
                drawers.append((z, lambda s=spot, d=drawing[label]: d(stage, *s)))
    for _ in range(counts["bicycle"]):
        for _ in range(6):
            z = plan.depth(1.7, 0.13, 0.55)
            side = chance.choice((-1, 1))
            x = street.kerb(side) + side * chance.uniform(-1.6, 1.5)
            if plan.free(x, z, 0.75):
                ridden = chance.random() < 0.6
                drawers.append((z, lambda x=x, z=z, r=ridden: draw_bicycle(stage, x, z, r)))
                break
    for _ in range(counts["person"]):
        for _ in range(6):
            z = plan.depth(1.72, 0.09, 0.5)
            side = chance.choice((-1, 1))
            x = street.kerb(side) + side * chance.uniform(0.3, street.pavement - 0.2)
            if chance.random() < 0.4:
                x = chance.uniform(street.left, street.right)
            if plan.free(x, z, 0.4):
                drawers.append((z, lambda x=x, z=z: draw_person(stage, x, z)))
                break


def _vehicle_spot(stage: Stage, street: Street, plan: _Plan, label: str):
    chance = stage.chance
    height, radius = {"car": (1.5, 2.1), "truck": (3.0, 3.6), "bus": (3.1, 4.8)}[label]
    for _ in range(8):
        z = plan.depth(height, 0.09 if label == "car" else 0.14, 0.42) + radius
        pick = chance.random()
        if pick < 0.3:
            spot = (street.lane(1), z, chance.gauss(0.0, 0.04), True)
        elif pick < 0.6:
            spot = (street.lane(-1), z, pi + chance.gauss(0.0, 0.04), True)
        elif pick < 0.78:
            side = chance.choice((-1, 1))
            x = street.kerb(side) - side * (0.95 if label == "car" else 1.3)
            heading = (0.0 if side > 0 else pi) + chance.gauss(0.0, 0.03)
            spot = (x, z, heading, chance.random() < 0.2)
        else:  # crossing or turning, seen from the side
            x = chance.uniform(street.left - 2.0, street.right + 2.0)
            heading = chance.choice((-1, 1)) * pi / 2 + chance.gauss(0.0, 0.25)
            spot = (x, z + 2.0, heading, chance.random() < 0.8)
        if plan.free(spot[0], spot[1], radius):
            return spot
    return None
