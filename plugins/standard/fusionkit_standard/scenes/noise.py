"""Correlated noise: white noise drawn small and enlarged, so that coarse grain costs little."""

from __future__ import annotations

import numpy as np
from PIL import Image

from .painter import Fields

TILE = 256  # side of the noise tile that is laid on the ground


def white(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Standard normal noise (H, W) float32."""
    return rng.standard_normal((height, width), dtype=np.float32)


def grain(
    rng: np.random.Generator, height: int, width: int, size: float, stretch: float = 1.0
) -> np.ndarray:
    """Noise (H, W) of unit variance at the nodes, linear between them.

    Nodes lie `size` pixels apart down and `size * stretch` across.
    """
    across = size * stretch
    rows, columns = int(height / size) + 2, int(width / across) + 2
    small = Image.fromarray(white(rng, rows, columns))
    large = small.resize(
        (width, height),
        Image.Resampling.BILINEAR,
        box=(0.5, 0.5, 0.5 + width / across, 0.5 + height / size),
    )
    return np.asarray(large)


def enlarge(small: np.ndarray, height: int, width: int) -> np.ndarray:
    """Bilinear enlargement of one float32 plane."""
    return np.asarray(Image.fromarray(small).resize((width, height), Image.Resampling.BILINEAR))


def reduce(plane: np.ndarray, factor: int) -> np.ndarray:
    """Block means of one float32 plane; the sides need not divide by `factor`."""
    return np.asarray(Image.fromarray(plane).reduce(factor))


def blur(plane: np.ndarray, radius: float) -> np.ndarray:
    """A wide soft blur: reduce by about the radius, smooth 1-2-1, enlarge again."""
    height, width = plane.shape
    factor = max(1, min(round(radius), height // 4, width // 4))
    small = reduce(np.ascontiguousarray(plane), factor)
    padded = np.pad(small, 1, mode="edge")
    small = 0.25 * padded[:-2] + 0.5 * padded[1:-1] + 0.25 * padded[2:]
    small = 0.25 * small[:, :-2] + 0.5 * small[:, 1:-1] + 0.25 * small[:, 2:]
    return enlarge(np.ascontiguousarray(small), height, width)


def soften(plane: np.ndarray, share: float) -> np.ndarray:
    """A mild lens blur: mixes each pixel with its four neighbours (`share` goes to them)."""
    padded = np.pad(plane, 1, mode="edge")
    cross = padded[:-2, 1:-1] + padded[2:, 1:-1] + padded[1:-1, :-2] + padded[1:-1, 2:]
    return (1.0 - share) * plane + (share * 0.25) * cross


def smear(plane: np.ndarray, length: float) -> np.ndarray:
    """Horizontal motion blur of one plane (..., H, W) over `length` pixels, edges repeated."""
    count = max(2, round(length))
    width = plane.shape[-1]
    sides = [(0, 0)] * (plane.ndim - 1)
    padded = np.pad(plane, [*sides, (count // 2, count - 1 - count // 2)], mode="edge")
    total = padded[..., :width].copy()
    for shift in range(1, count):
        total += padded[..., shift : shift + width]
    total *= np.float32(1 / count)
    return total


class Grain:
    """The grain shared by both cameras: leaves and bricks show in light and in heat alike.

    `fine` is about two pixels wide, `middle` five, `coarse` an eighth and `wide` a third of the
    picture. On the ground `middle` and `coarse` lie flat: they are looked up by world position,
    so they shrink and flatten towards the horizon.
    """

    def __init__(self, rng: np.random.Generator, fields: Fields) -> None:
        height, width = fields.depth.shape
        unit = max(1.0, height / 128)  # grain keeps its share of the picture at larger sizes
        self.fine = 0.5 * white(rng, height, width) + 0.9 * grain(rng, height, width, 2.0 * unit)
        self.middle = grain(rng, height, width, 4.5 * unit).copy()
        self.coarse = grain(rng, height, width, 13.0 * unit).copy()
        self.wide = grain(rng, height, width, 40.0 * unit)
        self._lay_flat(rng, fields)

    def _lay_flat(self, rng: np.random.Generator, fields: Fields) -> None:
        where = np.nonzero(fields.grounded)
        across, along = fields.across[where], fields.depth[where]
        tile = grain(rng, TILE, TILE, 4.0)
        # Far away one pixel spans many grains and averages them.
        fade = 1.0 / (1.0 + along / 25.0)
        for plane, pitch, stretch in ((self.middle, 0.09, 2.0), (self.coarse, 0.45, 5.0)):
            column = (across / pitch).astype(np.intp) % TILE
            row = (along / (pitch * stretch)).astype(np.intp) % TILE
            plane[where] = tile[row, column] * fade
