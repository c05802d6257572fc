"""The stage: what every object needs to draw itself: camera, painter, weather and chance."""

from __future__ import annotations

from dataclasses import dataclass, field
from random import Random

from .camera import Camera
from .painter import ON_GROUND, Colour, Painter


@dataclass(slots=True)
class Weather:
    """Light and heat of the hour.

    `sun` is the share of direct sunlight (0 at night), `heat` what the sun has stored in surfaces
    facing it (kelvin), `air` and `sky` temperatures in degC, `dark` whether lamps are on.
    """

    daytime: str
    sun: float
    heat: float
    air: float
    sky: float
    overcast: float
    dark: bool


@dataclass(slots=True)
class Lamp:
    """A street lamp: world position of its head in metres and its strength."""

    x: float
    y: float
    z: float
    strength: float
    tint: Colour


@dataclass(slots=True)
class Stage:
    """One scene while it is being drawn. Things get instance numbers 1, 2, ... in `labels`."""

    camera: Camera
    painter: Painter
    weather: Weather
    chance: Random
    labels: list[str] = field(default_factory=list)
    lamps: list[Lamp] = field(default_factory=list)
    road_albedo: Colour = (0.12, 0.12, 0.12)
    road_temperature: float = 10.0
    road_edges: tuple[float, float] = (-4.0, 4.0)
    road_across: bool = False
    """Whether the road runs across the view, so that `road_edges` are depths."""

    def thing(self, label: str) -> int:
        """Register a thing and return its instance number."""
        self.labels.append(label)
        return len(self.labels)

    def shadow(self, corners: list[tuple[float, float]], share: float, warmth: float) -> None:
        """Darken the ground inside world corners (x, z); `warmth` kelvin is added to it."""
        centre = sum(corner[self.road_across] for corner in corners) / len(corners)
        low, high = self.road_edges
        label = "road" if low < centre < high else "ground"
        part = self.painter.part(
            label,
            tint(self.road_albedo, share),
            self.road_temperature + warmth,
            ON_GROUND,
            grain=0.1,
            thermal_grain=0.6,
        )
        point = self.camera.point
        self.painter.polygon([point(x, 0.0, z) for x, z in corners], part)


def tint(colour: Colour, factor: float) -> Colour:
    """The colour made brighter or darker, kept below full reflectance."""
    r, g, b = colour
    return min(r * factor, 0.95), min(g * factor, 0.95), min(b * factor, 0.95)


def grey(chance: Random, low: float, high: float, spread: float = 0.06) -> Colour:
    """A nearly neutral colour: brightness varies strongly, hue little."""
    value = chance.uniform(low, high)
    return (
        value * (1 + chance.uniform(-spread, spread)),
        value * (1 + chance.uniform(-spread, spread) / 2),
        value * (1 + chance.uniform(-spread, spread)),
    )
