"""The placement: which things stand where, at which depth and in which pose."""

from __future__ import annotations

from collections.abc import Callable
from math import pi
from random import Random

from .bicycles import draw_bicycle
from .ground import Street
from .people import draw_person
from .stage import Stage
from .vehicles import draw_bus, draw_car, draw_truck

AIM = {"person": 2.0, "car": 1.9, "truck": 0.6, "bus": 0.6, "bicycle": 0.75}  # mean tries per scene


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
    if chance.random() < 0.12:
        counts["person"] += chance.randint(2, 4)  # a small crowd
    if chance.random() < 0.03:
        counts = dict.fromkeys(AIM, 0)  # an empty place
    drawing = {"bus": draw_bus, "truck": draw_truck, "car": draw_car}
    for label in ("bus", "truck", "car"):
        for _ in range(counts[label]):
            spot = _vehicle_spot(stage, street, plan, label)
            if spot:
                z = spot[1]
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
