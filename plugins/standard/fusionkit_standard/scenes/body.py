"""The body of a vehicle: a side profile extruded to its width and seen in true perspective."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from math import cos, pi, sin

from .painter import BLACK
from .stage import Stage


@dataclass(slots=True)
class Pose:
    """Where a vehicle stands: its centre on the ground, heading (0 = driving away) and size."""

    x: float
    z: float
    heading: float
    length: float
    width: float


class Body:
    """One extruded solid. Local coordinates: a forward from the rear, s to its right, y up."""

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

    def ground(self, a: float, s: float) -> tuple[float, float]:
        a -= self.pose.length / 2
        return (
            self.pose.x + a * self.forward[0] + s * self.right[0],
            self.pose.z + a * self.forward[1] + s * self.right[1],
        )

    def at(self, a: float, s: float, y: float) -> tuple[float, float]:
        x, z = self.ground(a, s)
        return self.stage.camera.point(x, y, z)

    def part(self, albedo, temperature, grain=0.03, heat_grain=0.3, glow=BLACK) -> int:
        return self.stage.painter.part(
            self.label,
            albedo,
            temperature,
            self.pose.z,
            instance=self.instance,
            grain=grain,
            thermal_grain=heat_grain,
            emission=glow,
        )

    def face(self, points, part: int) -> None:
        self.stage.painter.polygon([self.at(*point) for point in points], part)

    def end_panel(self, a: float, s0: float, s1: float, y0: float, y1: float, part: int) -> None:
        """A rectangle across the vehicle at length `a`."""
        self.face(((a, s0, y0), (a, s1, y0), (a, s1, y1), (a, s0, y1)), part)

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
        for (a, ya, wa, kind), (b, yb, wb, _) in pairwise(profile):
            la, lb = a * length, b * length
            # The outward normal of an edge walked rear to front over the top is (-dy, dl).
            if -(yb - ya) * (self.eye_l - la) + (lb - la) * (eye_y - ya - base) <= 0:
                continue
            quad = (
                (la, -half * wa, ya + base),
                (lb, -half * wb, yb + base),
                (lb, half * wb, yb + base),
                (la, half * wa, ya + base),
            )
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
