"""The placement: which things stand where, at which depth and in which pose."""

from __future__ import annotations

from collections.abc import Callable
from math import pi
from random import Random

from .bicycles import draw_bicycle
from .ground import STREET, Street
from .people import draw_person
from .stage import Stage
from .vehicles import draw_bus, draw_car, draw_truck

AIM = {
    "person": 2.0,
    "car": 2.1,
    "truck": 0.75,
    "bus": 0.6,
    "bicycle": 0.95,
}  # mean tries per scene

PARKED = 0.35  # share of streets with a row of parked cars
GROUP, CROWD = 0.25, 0.1  # shares of scenes with people in company
BEHIND_A_CAR = 0.12


class _Plan:
    """Chooses free spots on the ground, as discs that may not overlap."""

    def __init__(self, stage: Stage, street: Street) -> None:
        self.stage, self.street, self.taken = stage, street, []
        self.nearest = stage.camera.nearest_ground() * 1.08

    def depth(self, height: float, low: float, high: float) -> float:
        """A depth at which something `height` metres tall covers low to high of the picture."""
        camera, chance = self.stage.camera, self.stage.chance
        share = low * (high / low) ** chance.random()
        z = camera.focal * height / (share * camera.height)
        return max(z, self.nearest)

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
    limit, count, product = 2.718281828459045**-mean, 0, chance.random()
    while product > limit:
        count, product = count + 1, product * chance.random()
    return count


def plan_things(
    stage: Stage, street: Street, drawers: list[tuple[float, Callable[[], None]]]
) -> None:
    """Append (depth, draw) of every person, bicycle and vehicle of the scene."""
    chance = stage.chance
    plan = _Plan(stage, street)
    counts = {label: _count(chance, mean) for label, mean in AIM.items()}
    if street.wild:
        counts = {label: min(count, 2) for label, count in counts.items()} | {
            "person": counts["person"] + chance.randint(0, 2)
        }
    empty = chance.random() < 0.03
    if empty:
        counts = dict.fromkeys(AIM, 0)
    drawing = {"bus": draw_bus, "truck": draw_truck, "car": draw_car}
    spots = []
    if not empty and street.kind == STREET and chance.random() < PARKED:
        for spot in _parked_row(stage, street):
            if plan.free(spot[0], spot[1], 2.0):
                spots.append(("car", spot))
    for label in ("bus", "truck", "car"):
        for _ in range(counts[label]):
            spot = _vehicle_spot(stage, street, plan, label)
            if spot:
                spots.append((label, spot))
    for label, spot in spots:
        drawers.append((spot[1], lambda s=spot, d=drawing[label]: d(stage, *s)))

    def stand(x: float, z: float) -> None:
        drawers.append((z, lambda: draw_person(stage, x, z)))

    for label, (x, z, *_) in spots:
        if label == "car" and chance.random() < BEHIND_A_CAR:
            stand(x + chance.uniform(-1.5, 1.5), z + chance.uniform(1.2, 3.0))
    for _ in range(counts["bicycle"]):
        for _ in range(6):
            x, z = _foot_spot(stage, street, plan, 1.7, 0.1, 0.55, 1.6)
            if plan.free(x, z, 0.75):
                ridden = chance.random() < 0.7
                drawers.append((z, lambda x=x, z=z, r=ridden: draw_bicycle(stage, x, z, r)))
                break
    company = chance.random()
    for number in range(counts["person"]):
        for _ in range(6):
            x, z = _foot_spot(stage, street, plan, 1.72, 0.065, 0.5, 0.0)
            if not plan.free(x, z, 0.4):
                continue
            stand(x, z)
            if number == 0 and company < CROWD + GROUP:
                crowd = company < CROWD
                spread = chance.uniform(1.5, 4.0) if crowd else chance.uniform(0.5, 1.2)
                for _ in range(chance.randint(4, 10) if crowd else chance.randint(1, 3)):
                    side = x + chance.gauss(0.0, spread)
                    deep = max(z + chance.gauss(0.0, spread), plan.nearest)
                    if plan.free(side, deep, 0.22):
                        stand(side, deep)
            break


def _foot_spot(
    stage: Stage, street: Street, plan: _Plan, height: float, low: float, high: float, inward: float
) -> tuple[float, float]:
    """Where somebody may be who covers `low` to `high` of the picture's height.

    `inward` is how far onto the road a bicycle may be, in metres; 0 means on foot.
    """
    chance, camera = stage.chance, stage.camera
    z = plan.depth(height, low, high)
    if street.wild:
        return camera.side_at(chance.uniform(0.03, 0.97), z), z
    if street.across:
        pick = chance.random()
        if pick < 0.5:
            z = street.right + chance.uniform(0.3 - inward, street.pavement - 0.2)
        elif pick < 0.75:
            z = chance.uniform(street.left, street.right)
        z = max(z, plan.nearest)
        return camera.side_at(chance.uniform(0.02, 0.98), z), z
    if not inward and chance.random() < 0.4:
        return chance.uniform(street.left, street.right), z
    side = chance.choice((-1, 1))
    near, far = (-inward, 1.5) if inward else (0.3, street.pavement - 0.2)
    return street.kerb(side) + side * chance.uniform(near, far), z


def _parked_row(stage: Stage, street: Street) -> list[tuple[float, float, float, bool]]:
    """Cars along the kerb, bumper to bumper, engines mostly cold."""
    chance, camera = stage.chance, stage.camera
    side, pitch = chance.choice((-1, 1)), chance.uniform(5.2, 7.0)
    count, turned = chance.randint(3, 6), chance.choice((0.0, pi))
    spots = []
    if street.across:
        z = street.right - 1.0
        start = camera.side_at(chance.uniform(-0.1, 0.5), z)
        for k in range(count):
            heading = pi / 2 + turned + chance.gauss(0.0, 0.03)
            spots.append((start + k * pitch, z, heading, chance.random() < 0.1))
        return spots
    z = camera.nearest_ground() + chance.uniform(4.0, 14.0)
    for k in range(count):
        heading = turned + chance.gauss(0.0, 0.03)
        x = street.kerb(side) - side * 0.95
        spots.append((x, z + k * pitch, heading, chance.random() < 0.1))
    return spots


def _vehicle_spot(stage: Stage, street: Street, plan: _Plan, label: str):
    chance = stage.chance
    height, radius = {"car": (1.5, 2.1), "truck": (3.0, 3.6), "bus": (3.1, 4.8)}[label]
    for _ in range(8):
        z = plan.depth(height, 0.06 if label == "car" else 0.11, 0.42) + radius
        pick = chance.random()
        if street.wild:
            x, running = stage.camera.side_at(chance.uniform(0.05, 0.95), z), chance.random() < 0.6
            spot = (x, z, chance.uniform(0.0, 2 * pi), running)
        elif street.across:
            middle, half = (street.left + street.right) / 2, (street.right - street.left) / 2
            turn = chance.choice((-1, 1))
            z = max(middle + turn * 0.46 * half, plan.nearest)
            x = stage.camera.side_at(chance.uniform(0.02, 0.98), z)
            spot = (x, z, turn * pi / 2 + chance.gauss(0.0, 0.05), chance.random() < 0.85)
        elif pick < 0.3:
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
