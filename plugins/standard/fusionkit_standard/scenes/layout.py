"""The layout: which place this is, where the camera stands and what is put where."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

from .buildings import draw_building
from .camera import Camera
from .ground import ELEVATED, OPEN, STREET, Street, paint_backdrop, paint_ground
from .painter import OVERSAMPLING, Painter
from .placement import plan_things
from .roadside import (
    draw_lamp,
    draw_posts,
    draw_sign,
    draw_traffic_light,
    draw_tree,
    draw_wires,
)
from .stage import Stage, Weather

SHARE = {STREET: 0.62, OPEN: 0.24, ELEVATED: 0.14}
ACROSS = 0.22  # share of streets seen from their side
WILD, WATER = 0.5, 0.35  # shares of the open country without a road, and of that with water


def weather_of(chance: Random) -> Weather:
    """Day 40 %, dusk 20 %, night 40 %, with the heat that goes with it."""
    air = chance.uniform(-3.0, 19.0)
    overcast = chance.random()
    drop = chance.uniform(14.0, 32.0) * (1.0 - 0.4 * overcast)
    pick = chance.random()
    if pick < 0.4:
        sun = chance.uniform(0.45, 1.0) if overcast < 0.65 else chance.uniform(0.0, 0.25)
        return Weather(
            "day", sun, sun * chance.uniform(3.0, 11.0), air, air - drop, overcast, False
        )
    if pick < 0.6:
        heat = chance.uniform(0.0, 3.5)
        return Weather(
            "dusk", chance.uniform(0.0, 0.2), heat, air, air - drop, overcast, chance.random() < 0.8
        )
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
    street = Street(
        kind, middle - half, middle + half, chance.uniform(1.8, 4.0), chance.uniform(60.0, 220.0)
    )
    near = camera.nearest_ground()
    if kind == STREET and chance.random() < ACROSS:
        street.across = stage.road_across = True
        street.left = near + chance.uniform(4.0, 16.0)
        street.right = street.left + 2 * half
    elif kind == OPEN and chance.random() < WILD:
        street.wild = True
        if chance.random() < WATER:
            shore = near + chance.uniform(10.0, 50.0)
            street.water = (shore, shore * chance.uniform(2.0, 8.0))
    stage.road_edges = (0.0, 0.0) if street.wild else (street.left, street.right)
    paint_backdrop(stage)
    paint_ground(stage, street)
    _put_buildings(stage, street)
    drawers: list[tuple[float, Callable[[], None]]] = []
    _plan_roadside(stage, street, drawers)
    plan_things(stage, street, drawers)
    for _, draw in sorted(drawers, key=lambda entry: -entry[0]):
        draw()
    return stage, kind


def _put_buildings(stage: Stage, street: Street) -> None:
    chance = stage.chance
    plans: list[tuple[float, tuple]] = []
    if street.across:
        tall, x = chance.uniform(4.0, 14.0), -45.0
        setback = street.right + street.pavement + chance.choice((0.0, 0.0, 2.0, 6.0))
        while x < 45.0:
            wide, deep = chance.uniform(7.0, 20.0), chance.uniform(8.0, 14.0)
            height = max(3.2, tall * chance.uniform(0.6, 1.4))
            z = setback + chance.uniform(0.0, 1.5)
            gable = height < 8.0 and chance.random() < 0.7
            # Outer ones first, so that a side wall never hides the neighbour's front.
            away = min(abs(x), abs(x + wide)) if x * (x + wide) > 0 else 0.0
            plans.append((1000.0 + away, (x, x + wide, z, z + deep, height, gable)))
            x += wide + chance.choice((0.0, 0.3, 2.0, 6.0, 14.0))
    elif street.kind == OPEN:
        for _ in range(chance.choice((0, 0, 1, 1, 2))):
            side, z, wide = (
                chance.choice((-1, 1)),
                chance.uniform(30.0, 90.0),
                chance.uniform(7.0, 14.0),
            )
            edge = street.kerb(side) + side * chance.uniform(5.0, 20.0)
            low, high = sorted((edge, edge + side * wide))
            plans.append(
                (z + 8, (low, high, z, z + 8, chance.uniform(3.0, 6.0), chance.random() < 0.7))
            )
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
            plans.append(
                (z + 90, (at, at + 45.0, z, z + 12, tall * chance.uniform(0.8, 1.6), False))
            )
    for _, plan in sorted(plans, key=lambda entry: -entry[0]):
        draw_building(stage, *plan)


def _plan_roadside(stage: Stage, street: Street, drawers: list) -> None:
    chance, near = stage.chance, stage.camera.nearest_ground()

    def plan(z: float, draw: Callable, *arguments) -> None:
        drawers.append((z, lambda: draw(stage, *arguments)))

    if street.across or street.wild:
        _scatter(stage, street, plan)
        return
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
                plan(
                    z,
                    draw_tree,
                    street.kerb(side) + side * chance.uniform(1.6, 5.0),
                    z,
                    chance.uniform(0.7, 1.8),
                )
        if (street.kind != OPEN and chance.random() < 0.65) or chance.random() < 0.25:
            z, pitch = near + chance.uniform(3.0, 14.0), chance.uniform(14.0, 26.0)
            while z < 75.0:
                plan(z, draw_lamp, x, z, -side * chance.uniform(1.0, 1.6))
                z += pitch
        for _ in range(chance.choice((0, 0, 1, 1, 2))):
            z = near + chance.uniform(3.0, 22.0)
            plan(z, draw_sign, x + side * 0.1, z)
        if chance.random() < 0.2:
            z, step, count = _posts(chance, near)
            # A row is sorted in at its far end: what stands between its posts covers them.
            plan(z + (count - 1) * step, draw_posts, x + side * 0.2, z, step, count)
        if chance.random() < 0.15:
            z = near + chance.uniform(5.0, 25.0)
            plan(z, draw_traffic_light, x, z, -side * chance.choice((0.0, 0.0, 2.5)))
    if chance.random() < 0.18:
        side = chance.choice((-1, 1))
        x = street.kerb(side) + side * 1.2
        start = near + chance.uniform(4.0, 10.0)
        plan(start + 20.0, draw_wires, x, start, 120.0, chance.uniform(14.0, 24.0))


def _posts(chance: Random, near: float) -> tuple[float, float, int]:
    """Where a row of posts begins, its step and its number."""
    count = chance.choice((1, 1, 3, 5, 8))
    return near + chance.uniform(2.0, 14.0), chance.uniform(1.5, 3.0), count


def _scatter(stage: Stage, street: Street, plan: Callable) -> None:
    """Trees, bushes, lamps and signs beside a road across the view, or anywhere on wild land."""
    chance, camera = stage.chance, stage.camera
    near = camera.nearest_ground()

    def somewhere(low: float, high: float) -> tuple[float, float]:
        z = low * (max(high, low) / low) ** chance.random()
        return camera.side_at(chance.uniform(-0.05, 1.05), z), z

    for _ in range(chance.choice((0, 0, 1, 2))):
        x, z = somewhere(near + 1.0, 25.0)
        plan(z, draw_posts, x, z, 0.0, 1)
    if street.wild:
        for _ in range(chance.randint(2, 16)):
            x, z = somewhere(near + 6.0, 110.0)
            plan(z, draw_tree, x, z, chance.choice((0.8, 1.5, 3.0, 6.0, 9.0)))
        return
    low, high = street.right + 0.6, street.right + street.pavement + 3.0
    for _ in range(chance.choice((0, 1, 2, 3, 5))):
        x, z = somewhere(low, high)
        plan(z, draw_tree, x, z, chance.uniform(1.0, 9.0))
    if chance.random() < 0.3:
        x, z = somewhere(max(near + 2.0, street.left - 2.0), street.left + 0.01)
        plan(z, draw_tree, x, z, chance.uniform(3.0, 9.0))
    for draw, arguments in ((draw_lamp, (-0.3,)), (draw_lamp, (0.3,)), (draw_sign, ())):
        if chance.random() < 0.5:
            x, z = somewhere(low, low + 0.5)
            plan(z, draw, x, z, *arguments)
