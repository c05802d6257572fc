"""The painter: shapes are filled with part numbers, and one table turns numbers into fields."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

from .camera import FARTHEST, Camera

OVERSAMPLING = 2  # painted pixels per picture pixel along each side
CLASSES = (
    "sky",
    "hill",
    "building",
    "road",
    "ground",
    "tree",
    "pole",
    "car",
    "truck",
    "bus",
    "person",
    "bicycle",
)
CLASS_INDEX = {label: index for index, label in enumerate(CLASSES)}
BLACK = (0.0, 0.0, 0.0)
ON_GROUND = 0.0  # depth entry of a part whose depth comes from the ground plane

Point = tuple[float, float]
Colour = tuple[float, float, float]


@dataclass(frozen=True, slots=True)
class Fields:
    """What the painted part numbers mean, per picture pixel.

    albedo and emission are (3, H, W), temperature (degC), grain (relative) and thermal_grain
    (kelvin) are (H, W), all float32 and anti-aliased; classes, instances, depth, grounded are
    (H, W) and taken without averaging; across and upright are world x and y in metres.
    """

    albedo: np.ndarray
    emission: np.ndarray
    temperature: np.ndarray
    grain: np.ndarray
    thermal_grain: np.ndarray
    classes: np.ndarray
    instances: np.ndarray
    depth: np.ndarray
    grounded: np.ndarray
    across: np.ndarray
    upright: np.ndarray


class Painter:
    """An integer picture at twice the size and one table row per part.

    Painting numbers instead of colours makes the cost of a shape independent of how many fields
    a pixel has: nine smooth fields and three maps cost one look-up for the whole picture.
    """

    def __init__(self, camera: Camera) -> None:
        self.camera = camera
        self.image = Image.new("I", (camera.width, camera.height), 0)
        self._draw = ImageDraw.Draw(self.image)
        self._smooth: list[tuple[float, ...]] = []
        self._exact: list[tuple[int, int, float, float]] = []

    def part(
        self,
        label: str,
        albedo: Colour,
        temperature: float,
        depth: float,
        *,
        instance: int = 0,
        grain: float = 0.05,
        thermal_grain: float = 0.4,
        emission: Colour = BLACK,
        wall: float = 0.0,
    ) -> int:
        """Add a table row and return its number.

        `depth` in metres, or ON_GROUND; `wall` is the world x of a plane parallel to the view
        direction: where not 0, depth is that of the plane seen through each pixel.
        """
        self._smooth.append((*albedo, *emission, temperature, grain, thermal_grain))
        self._exact.append((CLASS_INDEX[label], instance, depth, wall))
        return len(self._smooth) - 1

    def polygon(self, points: Sequence[Point], part: int) -> None:
        """Fill a polygon given in painted pixels."""
        self._draw.polygon(points, fill=part)

    def ellipse(self, column: float, row: float, across: float, down: float, part: int) -> None:
        """Fill an axis-parallel ellipse given by centre and half axes."""
        self._draw.ellipse((column - across, row - down, column + across, row + down), fill=part)

    def ring(self, column: float, row: float, across: float, down: float, width: float, part: int):
        """Draw the outline of an ellipse, `width` painted pixels wide."""
        box = (column - across, row - down, column + across, row + down)
        self._draw.ellipse(box, outline=part, width=max(1, round(width)))

    def line(self, points: Sequence[Point], width: float, part: int) -> None:
        """Draw a poly-line, at least one painted pixel wide."""
        self._draw.line(points, fill=part, width=max(1, round(width)))

    def limb(self, start: Point, end: Point, first: float, last: float, part: int) -> None:
        """Fill a tapered bar from `start` (half width `first`) to `end` (half width `last`)."""
        (x0, y0), (x1, y1) = start, end
        dx, dy = x1 - x0, y1 - y0
        length = (dx * dx + dy * dy) ** 0.5 or 1.0
        nx, ny = -dy / length, dx / length
        self._draw.polygon(
            (
                (x0 + nx * first, y0 + ny * first),
                (x1 + nx * last, y1 + ny * last),
                (x1 - nx * last, y1 - ny * last),
                (x0 - nx * first, y0 - ny * first),
            ),
            fill=part,
        )

    def fields(self, rng: np.random.Generator | None = None) -> Fields:
        """Look every part number up once, averaging the smooth fields over 2x2 painted pixels.

        With random numbers, foliage gets ragged edges and gaps.
        """
        numbers = np.asarray(self.image)
        if rng is not None:
            numbers = self._ragged(numbers, rng)
        step = OVERSAMPLING
        table = np.array(self._smooth, dtype=np.float32).T * np.float32(1 / step**2)
        exact = np.array(self._exact, dtype=np.float32).T
        corners = [
            np.ascontiguousarray(numbers[row::step, column::step]).astype(np.intp)
            for row in range(step)
            for column in range(step)
        ]
        height, width = corners[0].shape
        smooth = np.empty((len(table), height, width), np.float32)
        for field, row in zip(smooth, table, strict=True):
            np.take(row, corners[0], out=field, mode="clip")
            for corner in corners[1:]:
                field += row.take(corner)
        chosen = corners[-1]
        depth = exact[2].take(chosen)
        slope_x, slope_y = self.camera.rays(step)
        grounded = depth == ON_GROUND
        plane = self.camera.altitude / np.maximum(-slope_y, self.camera.altitude / FARTHEST)
        depth = np.where(grounded, plane[:, None], depth)
        wall = exact[3].take(chosen)
        steep = np.where(np.abs(slope_x) < 1e-4, np.float32(1e-4), slope_x)
        seen = wall / steep[None, :]
        depth = np.where((wall != 0) & (seen > 0), seen, depth)
        np.clip(depth, 0.5, FARTHEST, out=depth)
        depth = depth.astype(np.float32, copy=False)
        return Fields(
            albedo=smooth[0:3],
            emission=smooth[3:6],
            temperature=smooth[6],
            grain=smooth[7],
            thermal_grain=smooth[8],
            classes=exact[0].take(chosen).astype(np.uint8),
            instances=exact[1].take(chosen).astype(np.int32),
            depth=depth,
            grounded=grounded,
            across=depth * slope_x[None, :],
            upright=self.camera.altitude + depth * slope_y[:, None],
        )

    def _ragged(self, numbers: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Foliage taken from a few painted pixels beside, where nothing nearer is in the way.

        Leaves then cross the outline and the background shows through: ellipses look like crowns.
        """
        leafy = np.array(
            [
                e[0] == CLASS_INDEX["tree"] and s[7] > 0.3
                for e, s in zip(self._exact, self._smooth, strict=True)
            ]
        )
        own = leafy.take(numbers)
        if not own.any():
            return numbers
        height, width = numbers.shape
        rows = np.flatnonzero(own.any(1))
        reach = max(2, round(height / 80))
        top, bottom = max(rows[0] - reach, 0), min(rows[-1] + reach + 1, height)
        own, part = own[top:bottom], numbers[top:bottom]
        coarse = (2, (bottom - top) // 2 + 1, width // 2 + 1)
        shift = rng.integers(-reach, reach + 1, coarse, dtype=np.int32)
        shift = shift.repeat(2, 1).repeat(2, 2)[:, : bottom - top, :width]
        row = np.arange(top, bottom, dtype=np.int32)[:, None] + shift[0]
        column = np.arange(width, dtype=np.int32) + shift[1]
        np.clip(row, 0, height - 1, out=row)
        np.clip(column, 0, width - 1, out=column)
        source = numbers[row, column]
        far = np.array([e[2] if e[2] != ON_GROUND else 2 * FARTHEST for e in self._exact])
        there, here = far.take(source), far.take(part)
        moved = (own & (there >= here)) | (leafy.take(source) & (here >= there))
        numbers = numbers.copy()
        numbers[top:bottom] = np.where(moved, source, part)
        return numbers
