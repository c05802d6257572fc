"""Cars, trucks and buses: side profiles extruded to their width and seen in true perspective."""

from __future__ import annotations

from dataclasses import dataclass
from math import cos, hypot, pi, sin

from .painter import BLACK, Colour
from .stage import Stage, grey, tint

PAINT: tuple[Colour, ...] = (
    (0.70, 0.70, 0.69),
    (0.50, 0.50, 0.51),
    (0.28, 0.29, 0.30),
    (0.05, 0.05, 0.055),
    (0.40, 0.04, 0.035),
    (0.06, 0.12, 0.33),
    (0.10, 0.20, 0.13),
    (0.50, 0.42, 0.28),
    (0.60, 0.58, 0.54),
    (0.15, 0.16, 0.19),
)
BUS_PAINT: tuple[Colour, ...] = (
    (0.62, 0.08, 0.06),
    (0.75, 0.52, 0.05),
    (0.12, 0.30, 0.55),
    (0.70, 0.70, 0.66),
    (0.10, 0.38, 0.18),
)
GLASS: Colour = (0.05, 0.06, 0.07)
RUBBER: Colour = (0.025, 0.025, 0.025)
# Profiles run from the rear bumper over the roof to the front: (length share, height in metres,
# share of the half width, surface of the strip that starts here). Surfaces: b body, l panel with
# tail lights, g glass, r roof, e engine cover, n nose with head lights, u bumper.
SEDAN = (
    (0.00, 0.28, 1.0, "u"), (0.00, 0.58, 1.0, "l"), (0.02, 0.96, 0.97, "b"), (0.15, 1.02, 0.94, "g"),
    (0.29, 1.42, 0.78, "r"), (0.58, 1.44, 0.78, "g"), (0.74, 1.00, 0.94, "e"), (0.96, 0.80, 0.95, "n"),
    (1.00, 0.52, 1.0, "u"), (1.00, 0.25, 1.0, ""),
)  # fmt: skip
ESTATE = (
    (0.00, 0.30, 1.0, "u"), (0.00, 0.62, 1.0, "l"), (0.01, 1.02, 0.97, "g"), (0.07, 1.52, 0.82, "r"),
    (0.60, 1.58, 0.82, "g"), (0.76, 1.08, 0.94, "e"), (0.97, 0.88, 0.96, "n"), (1.00, 0.55, 1.0, "u"),
    (1.00, 0.28, 1.0, ""),
)  # fmt: skip
OFFROAD = (
    (0.00, 0.40, 1.0, "u"), (0.00, 0.72, 1.0, "l"), (0.01, 1.15, 0.98, "g"), (0.05, 1.74, 0.88, "r"),
    (0.62, 1.78, 0.88, "g"), (0.74, 1.20, 0.96, "e"), (0.98, 1.06, 0.97, "n"), (1.00, 0.65, 1.0, "u"),
    (1.00, 0.38, 1.0, ""),
)  # fmt: skip
CAR_WINDOWS = {
    SEDAN: (((0.20, 1.04), (0.30, 1.36), (0.44, 1.38), (0.44, 1.04)),
            ((0.46, 1.04), (0.46, 1.38), (0.57, 1.38), (0.70, 1.04))),
    ESTATE: (((0.05, 1.08), (0.10, 1.46), (0.38, 1.50), (0.38, 1.08)),
             ((0.40, 1.08), (0.40, 1.50), (0.59, 1.50), (0.71, 1.10))),
    OFFROAD: (((0.06, 1.22), (0.09, 1.64), (0.36, 1.68), (0.36, 1.22)),
              ((0.38, 1.22), (0.38, 1.68), (0.61, 1.68), (0.70, 1.24))),
}  # fmt: skip


@dataclass(slots=True)
class Pose:
    """Where a vehicle stands: its centre on the ground, heading (0 = driving away) and size."""

    x: float
    z: float
    heading: float
    length: float
    width: float


class Body:
    """One extruded solid. Local coordinates: l forward from the rear, s to its right, y up."""

    def __init__(self, stage: Stage, label: str, instance: int, pose: Pose) -> None:
        self.stage, self.label, self.instance, self.pose = stage, label, instance, pose
        self.forward = (sin(pose.heading), cos(pose.heading))
        self.right = (cos(pose.heading), -sin(pose.heading))
        fx, fz = self.forward
        rx, rz = self.right
        # The camera in local coordinates decides which faces are visible.
        self.eye_l = -(pose.x * fx + pose.z * fz) + pose.length / 2
        self.eye_s = -(pose.x * rx + pose.z * rz)
        self.side = 0
        if abs(self.eye_s) > pose.width / 2:
            self.side = 1 if self.eye_s > 0 else -1
        sun = stage.weather.sun
        # Strong sun makes faces differ; an overcast sky or lamps light them more evenly.
        self.shade = {"top": 1.0 + 0.35 * sun, "side": 0.9 - 0.25 * sun, "end": 0.95 - 0.1 * sun}

    def ground(self, l: float, s: float) -> tuple[float, float]:
        l -= self.pose.length / 2
        return (
            self.pose.x + l * self.forward[0] + s * self.right[0],
            self.pose.z + l * self.forward[1] + s * self.right[1],
        )

    def at(self, l: float, s: float, y: float) -> tuple[float, float]:
        x, z = self.ground(l, s)
        return self.stage.camera.point(x, y, z)

    def part(self, albedo, temperature, grain=0.03, heat_grain=0.5, glow=BLACK) -> int:
        return self.stage.painter.part(
            self.label, albedo, temperature, self.pose.z,
            instance=self.instance, grain=grain, thermal_grain=heat_grain, emission=glow,
        )  # fmt: skip

    def face(self, points, part: int) -> None:
        self.stage.painter.polygon([self.at(*point) for point in points], part)

    def end_panel(self, l: float, s0: float, s1: float, y0: float, y1: float, part: int) -> None:
        """A rectangle across the vehicle at length `l`."""
        self.face(((l, s0, y0), (l, s1, y0), (l, s1, y1), (l, s0, y1)), part)

    def side_panel(self, l0: float, l1: float, y0: float, y1: float, part: int, share=1.0) -> None:
        """A rectangle on the visible side, if one is visible."""
        if self.side:
            s = self.side * self.pose.width / 2 * share
            self.face(((l0, s, y0), (l1, s, y0), (l1, s, y1), (l0, s, y1)), part)

    def wheels(self, places, radius: float, part: int, hub: int) -> None:
        """Tyres under both ends, and discs on the visible side."""
        half = self.pose.width / 2
        end = 0.02 if self.eye_l < self.pose.length / 2 else self.pose.length - 0.02
        for sign in (-1, 1):
            self.end_panel(end, sign * half * 0.98, sign * half * 0.74, 0.0, radius, part)
        if not self.side:
            return
        s = self.side * half
        for place in places:
            for share, number in ((1.0, part), (0.55, hub)):
                r = radius * share
                ring = [
                    (place + r * cos(k * pi / 6), s, radius + r * sin(k * pi / 6))
                    for k in range(12)
                ]
                self.face(ring, number)

    def rear_visible(self) -> bool:
        return self.eye_l < 0

    def front_visible(self) -> bool:
        return self.eye_l > self.pose.length

    def extrude(self, profile, parts: dict[str, int], side_part: int, base: float = 0.0) -> None:
        """Draw the visible strips of a profile far to near, then the visible side."""
        length, half = self.pose.length, self.pose.width / 2
        eye_y = self.stage.camera.altitude
        strips = []
        for (a, ya, wa, kind), (b, yb, wb, _) in zip(profile, profile[1:], strict=False):
            la, lb = a * length, b * length
            # The outward normal of an edge walked rear to front over the top is (-dy, dl).
            if -(yb - ya) * (self.eye_l - la) + (lb - la) * (eye_y - ya - base) <= 0:
                continue
            quad = (
                (la, -half * wa, ya + base), (lb, -half * wb, yb + base),
                (lb, half * wb, yb + base), (la, half * wa, ya + base),
            )  # fmt: skip
            strips.append((abs(self.eye_l - (la + lb) / 2), quad, kind))
        for _, quad, kind in sorted(strips, reverse=True):
            self.face(quad, parts[kind])
        if self.side:
            s = self.side * half
            self.face([(a * length, s * w, y + base) for a, y, w, _ in profile], side_part)

    def lights(self, height: float, size: float, running: bool) -> None:
        """Head or tail lights at the visible end; they glow when it is dark and the engine runs."""
        half, length = self.pose.width / 2, self.pose.length
        lit = running and self.stage.weather.dark
        air = self.stage.weather.air
        if self.rear_visible():
            strength = self.stage.chance.uniform(1.2, 3.5) if lit else 0.0
            glow = (strength, 0.06 * strength, 0.04 * strength)
            part = self.part((0.45, 0.03, 0.03), air + (4 if running else 0), glow=glow)
            for sign in (-1, 1):
                self.end_panel(
                    -0.01, sign * half * 0.95, sign * half * 0.66, height, height + size, part
                )
            plate = self.part((0.6, 0.6, 0.55), air + 0.5)
            self.end_panel(-0.01, -0.26, 0.26, height - 0.12, height + 0.02, plate)
        elif self.front_visible():
            strength = self.stage.chance.uniform(8.0, 20.0) if lit else 0.0
            glow = (strength, 0.95 * strength, 0.82 * strength)
            part = self.part((0.7, 0.7, 0.68), air + (7 if running else 0), glow=glow)
            for sign in (-1, 1):
                self.end_panel(
                    length, sign * half * 0.93, sign * half * 0.6, height, height + size, part
                )
            warm = air + (self.stage.chance.uniform(8, 16) if running else 0.5)
            grille = self.part((0.03, 0.03, 0.03), warm)
            self.end_panel(
                length, -half * 0.5, half * 0.5, height - 0.12, height + size * 0.7, grille
            )


def _heat(stage: Stage, running: bool) -> dict[str, float]:
    """Temperatures of body, engine cover, tyres, glass and exhaust end in degC."""
    chance, weather = stage.chance, stage.weather
    body = weather.air + chance.uniform(-2.0, 1.5) + weather.heat * chance.uniform(0.3, 1.0)
    return {
        "body": body,
        "engine": body + (chance.uniform(6, 22) if running else chance.uniform(-0.5, 2.5)),
        "tyre": weather.air + (chance.uniform(6, 20) if running else chance.uniform(-1, 2.5)),
        "glass": weather.air - chance.uniform(1, 5) + (2.0 if running else 0.0),
        "low": body + (chance.uniform(3, 10) if running else -0.5),
        "roof": body - chance.uniform(1.0, 4.0) * (1.0 - weather.sun) + weather.heat * 0.6,
    }


def _footprint(body: Body, running: bool) -> None:
    length, half = body.pose.length, body.pose.width / 2 * 1.08
    corners = [body.ground(l, s) for l, s in (
        (-0.15, -half), (length + 0.15, -half), (length + 0.15, half), (-0.15, half),
    )]  # fmt: skip
    if body.stage.weather.sun > 0.2:
        reach = 0.9 if body.pose.x > 0 else -0.9
        corners = [(x + (reach if k in (2, 3) else 0), z) for k, (x, z) in enumerate(corners)]
    body.stage.shadow(corners, 0.25, 3.0 if running else -1.0)


def draw_car(stage: Stage, x: float, z: float, heading: float, running: bool) -> None:
    """A sedan, estate or off-road car centred at (x, z)."""
    chance = stage.chance
    profile = chance.choice((SEDAN, SEDAN, ESTATE, OFFROAD))
    pose = Pose(x, z, heading, chance.uniform(3.9, 4.8), chance.uniform(1.7, 1.9))
    body = Body(stage, "car", stage.thing("car"), pose)
    _footprint(body, running)
    heat, paint = _heat(stage, running), chance.choice(PAINT)
    shade = body.shade
    roof = body.part(tint(paint, shade["top"]), heat["roof"])
    glass_bright = chance.uniform(0.8, 2.5) * (1 + 2 * stage.weather.sun)
    parts = {
        "u": body.part(tint(paint, 0.55), heat["low"], heat_grain=0.9),
        "l": body.part(tint(paint, shade["end"]), heat["body"]),
        "b": roof,
        "r": roof,
        "g": body.part(tint(GLASS, glass_bright), heat["glass"], grain=0.15),
        "e": body.part(tint(paint, shade["top"]), heat["engine"], heat_grain=1.2),
        "n": body.part(tint(paint, shade["end"]), heat["engine"] - 2.0),
    }
    side = body.part(tint(paint, shade["side"]), heat["body"] - 0.5)
    tyre = body.part(RUBBER, heat["tyre"])
    hub = body.part((0.25, 0.25, 0.26), heat["tyre"] + 3.0)
    length = pose.length
    if not body.side:
        body.wheels((), 0.34, tyre, hub)
    body.extrude(profile, parts, side)
    if body.side:
        s = body.side * pose.width / 2
        for window in CAR_WINDOWS[profile]:
            body.face([(l * length, s * (0.96 if y < 1.3 else 0.83), y) for l, y in window], parts["g"])
        sill = body.part(tint(paint, 0.4), heat["low"])
        body.side_panel(0.1 * length, 0.92 * length, 0.26, 0.38, sill)
        body.wheels((0.19 * length, 0.82 * length), 0.34, tyre, hub)
    body.lights(0.66 if profile is not OFFROAD else 0.8, 0.17, running)


def draw_truck(stage: Stage, x: float, z: float, heading: float, running: bool) -> None:
    """A lorry: a warm cab in front of a taller cargo box, tank or open bed."""
    chance = stage.chance
    length, width = chance.uniform(6.0, 8.5), chance.uniform(2.2, 2.5)
    instance = stage.thing("truck")
    cab_length = chance.uniform(1.7, 2.1)
    whole = Body(stage, "truck", instance, Pose(x, z, heading, length, width))
    _footprint(whole, running)
    heat, paint = _heat(stage, running), chance.choice(PAINT + BUS_PAINT)
    cargo_paint = chance.choice(((0.72, 0.72, 0.70), (0.55, 0.55, 0.52), paint, (0.25, 0.2, 0.12)))
    shade = whole.shade
    cargo_heat = stage.weather.air + chance.uniform(-4, 1) + stage.weather.heat * 0.6
    top = chance.uniform(2.7, 3.5)
    fx, fz = whole.forward
    rear_length = length - cab_length - 0.15
    shift_rear, shift_cab = (rear_length - length) / 2, (length - cab_length) / 2
    rear = Body(stage, "truck", instance,
                Pose(x + shift_rear * fx, z + shift_rear * fz, heading, rear_length, width))  # fmt: skip
    cab = Body(stage, "truck", instance,
               Pose(x + shift_cab * fx, z + shift_cab * fz, heading, cab_length, width * 0.95))  # fmt: skip
    tyre = whole.part(RUBBER, heat["tyre"])
    hub = whole.part((0.2, 0.2, 0.2), heat["tyre"] + 3.0)
    frame = whole.part((0.05, 0.05, 0.05), heat["low"], heat_grain=1.2)
    glass = whole.part(tint(GLASS, 1 + 2 * stage.weather.sun), heat["glass"], grain=0.15)

    def draw_rear() -> None:
        end = rear.part(tint(cargo_paint, shade["end"]), cargo_heat)
        roof = rear.part(tint(cargo_paint, shade["top"]), cargo_heat - 1.0)
        side = rear.part(tint(cargo_paint, shade["side"]), cargo_heat - 0.5, heat_grain=0.8)
        rib = rear.part(tint(cargo_paint, shade["side"] * 0.8), cargo_heat + 0.8)
        rear.side_panel(0.0, rear_length, 0.45, 0.95, frame)
        if rear.rear_visible():
            rear.end_panel(0.0, -width / 2, width / 2, 0.45, 0.95, frame)
        profile = ((0.0, 0.95, 1.0, "d"), (0.0, top, 1.0, "r"), (1.0, top, 1.0, "d"), (1.0, 0.95, 1.0, ""))
        rear.extrude(profile, {"d": end, "r": roof}, side)
        for k in range(1, 6):
            rear.side_panel(k * rear_length / 6 - 0.05, k * rear_length / 6 + 0.05, 1.0, top - 0.05, rib)
        if rear.rear_visible():
            rear.end_panel(-0.01, -0.04, 0.04, 1.0, top - 0.1, rib)
            rear.end_panel(-0.01, -width / 2, width / 2, 0.9, 1.02, rib)
            rear.lights(0.7, 0.2, running)
        rear.wheels((0.8, 1.9) if rear_length > 4.8 else (1.0,), 0.47, tyre, hub)

    def draw_cab() -> None:
        height = min(top - 0.2, chance.uniform(2.3, 2.8))
        parts = {
            "u": frame,
            "n": cab.part(tint(paint, shade["end"]), heat["engine"], heat_grain=1.2),
            "g": glass,
            "r": cab.part(tint(paint, shade["top"]), heat["roof"]),
            "b": cab.part(tint(paint, shade["end"]), heat["body"]),
        }
        side = cab.part(tint(paint, shade["side"]), heat["body"] + 1.0)
        profile = (
            (0.0, 0.45, 1.0, "b"), (0.0, height, 0.96, "r"), (0.86, height, 0.94, "g"),
            (0.98, 1.5, 1.0, "n"), (1.0, 0.75, 1.0, "u"), (1.0, 0.4, 1.0, ""),
        )  # fmt: skip
        cab.extrude(profile, parts, side)
        cab.side_panel(0.3, cab_length * 0.88, 1.5, height - 0.25, glass, 0.99)
        if cab.front_visible():
            cab.lights(0.8, 0.22, running)
        cab.wheels((cab_length * 0.6,), 0.47, tyre, hub)

    # Whichever half is farther from the camera goes first.
    order = (draw_rear, draw_cab)
    if hypot(cab.pose.x, cab.pose.z) > hypot(rear.pose.x, rear.pose.z):
        order = (draw_cab, draw_rear)
    for draw in order:
        draw()


def draw_bus(stage: Stage, x: float, z: float, heading: float, running: bool) -> None:
    """A city bus: a long box with a band of windows, lit from inside when it is dark."""
    chance, weather = stage.chance, stage.weather
    length, width, top = chance.uniform(9.0, 12.0), 2.5, chance.uniform(2.9, 3.3)
    body = Body(stage, "bus", stage.thing("bus"), Pose(x, z, heading, length, width))
    _footprint(body, running)
    heat, paint = _heat(stage, running), chance.choice(BUS_PAINT)
    shade = body.shade
    lit = weather.dark and running
    glow = (0.42, 0.38, 0.27) if lit else BLACK
    inside = heat["glass"] + (chance.uniform(2, 7) if running else 0.0)
    glass = body.part(tint(GLASS, 1.5 + 2 * weather.sun), inside, grain=0.2, glow=glow)
    front_glass = body.part(tint(GLASS, 1.5 + 2 * weather.sun), inside - 1.5, grain=0.15,
                            glow=tint(glow, 0.3))  # fmt: skip
    end = body.part(tint(paint, shade["end"]), heat["body"])
    hot = body.part(tint(paint, shade["end"] * 0.9), heat["engine"], heat_grain=1.3)
    roof = body.part(tint(paint, shade["top"]), heat["roof"])
    side = body.part(tint(paint, shade["side"]), heat["body"] - 0.4, heat_grain=0.7)
    skirt = body.part(tint(grey(chance, 0.1, 0.6), shade["side"]), heat["low"])
    tyre = body.part(RUBBER, heat["tyre"])
    hub = body.part((0.3, 0.3, 0.3), heat["tyre"] + 3.0)
    profile = (
        (0.0, 0.3, 1.0, "h"), (0.0, 1.3, 1.0, "d"), (0.0, top, 0.98, "r"), (0.99, top, 0.98, "d"),
        (1.0, 1.2, 1.0, "d"), (1.0, 0.3, 1.0, ""),
    )  # fmt: skip
    body.extrude(profile, {"d": end, "r": roof, "h": hot}, side)
    half = width / 2
    if body.rear_visible():
        body.end_panel(-0.02, -half * 0.8, half * 0.8, 1.75, top - 0.45, glass)
    elif body.front_visible():
        body.end_panel(length, -half * 0.9, half * 0.9, 1.15, top - 0.5, front_glass)
        sign = body.part((0.3, 0.2, 0.02), heat["body"] + 3, glow=(1.8, 1.0, 0.1) if weather.dark else (0.25, 0.15, 0.0))
        body.end_panel(length, -half * 0.6, half * 0.6, top - 0.4, top - 0.12, sign)
    body.side_panel(0.1, length - 0.1, 0.35, 0.62, skirt)
    count = 7
    pitch = (length - 0.8) / count
    for k in range(count):
        body.side_panel(0.4 + k * pitch + 0.08, 0.4 + (k + 1) * pitch - 0.08, 1.35, top - 0.55, glass, 0.99)
    for door in (0.42, 0.86):
        body.side_panel(door * length, door * length + 1.0, 0.45, top - 0.6, front_glass, 0.99)
    body.wheels((0.22 * length, 0.78 * length), 0.48, tyre, hub)
    body.lights(0.62, 0.24, running)
