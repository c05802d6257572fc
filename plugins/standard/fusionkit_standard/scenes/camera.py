"""The pin-hole camera over flat ground: metres in, picture coordinates out."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

NEAREST = 0.9  # metres; nothing is projected from closer than this
FARTHEST = 1000.0  # metres; the sky and whatever lies beyond


@dataclass(frozen=True, slots=True)
class Camera:
    """Looks along +z from `altitude` metres above the ground plane y = 0; x points right, y up.

    All lengths in pixels belong to the grid the painter draws on. Row of a point:
    horizon + focal * (altitude - y) / z; column: centre + focal * x / z.
    """

    height: int
    width: int
    horizon: float
    centre: float
    focal: float
    altitude: float

    def scale(self, z: float) -> float:
        """Pixels per metre at depth `z`."""
        return self.focal / max(z, NEAREST)

    def point(self, x: float, y: float, z: float) -> tuple[float, float]:
        """Column and row of the world point (x, y, z)."""
        scale = self.focal / (z if z > NEAREST else NEAREST)
        return self.centre + x * scale, self.horizon + (self.altitude - y) * scale

    def side_at(self, column: float, z: float) -> float:
        """World x that appears at `column` (0 to 1 of the width) at depth `z`."""
        return (column * self.width - self.centre) * z / self.focal

    def nearest_ground(self) -> float:
        """Depth of the ground at the bottom edge of the picture."""
        return self.focal * self.altitude / max(self.height - self.horizon, 1.0)

    def rays(self, step: int) -> tuple[np.ndarray, np.ndarray]:
        """Slopes (x/z per column, y/z per row) at the centres of blocks of `step` grid pixels."""
        columns = (np.arange(self.width // step, dtype=np.float32) + 0.5) * step
        rows = (np.arange(self.height // step, dtype=np.float32) + 0.5) * step
        return (columns - self.centre) / self.focal, (self.horizon - rows) / self.focal
