"""How well the edges of the sources survive in the fused picture.

Source: C. S. Xydeas, V. Petrovic, "Objective image fusion performance measure", Electronics
Letters 36 (2000). Constants, border and the rule for equal strengths are those of the program that
published tables were made with.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

from fusionkit_standard.metrics.base import SmoothScore, safe_sqrt

GAMMA_STRENGTH, K_STRENGTH, SIGMA_STRENGTH = 0.9994, 15.0, 0.5
GAMMA_ANGLE, K_ANGLE, SIGMA_ANGLE = 0.9879, 22.0, 0.8


class Edges(NamedTuple):
    """Sobel edges, each ``(B, H, W)``."""

    squared: Tensor
    strength: Tensor
    angle: Tensor


def sobel_edges(levels: Tensor) -> Edges:
    """Strength and angle in (-pi/2, pi/2] of the Sobel gradient, black outside the picture."""
    framed = pad(levels, (1, 1, 1, 1))
    tall = framed[:, :-2] + 2 * framed[:, 1:-1] + framed[:, 2:]
    wide = framed[..., :-2] + 2 * framed[..., 1:-1] + framed[..., 2:]
    x = tall[..., 2:] - tall[..., :-2]
    y = wide[:, :-2] - wide[:, 2:]
    squared = x.square() + y.square()
    upright = x == 0
    angle = torch.where(upright, math.pi / 2, (y / torch.where(upright, 1.0, x)).atan())
    return Edges(squared, safe_sqrt(squared), angle)


def edge_preservation(source: Edges, fused: Edges) -> Tensor:
    """Share of each source edge that is preserved, ``(B, H, W)`` in (0, 1)."""
    weak = torch.minimum(source.strength, fused.strength)
    strong = torch.maximum(source.strength, fused.strength)
    # The reference leaves the strength itself in place of the ratio where both are equal. Squared
    # gradients of whole grey levels are whole numbers, so equality does not hang on rounding.
    equal = source.squared == fused.squared
    ratio = torch.where(equal, fused.strength, weak / torch.where(equal, 1.0, strong))
    alignment = 1 - (source.angle - fused.angle).abs() / (math.pi / 2)
    return (
        GAMMA_STRENGTH
        * torch.sigmoid(K_STRENGTH * (ratio - SIGMA_STRENGTH))
        * GAMMA_ANGLE
        * torch.sigmoid(K_ANGLE * (alignment - SIGMA_ANGLE))
    )


def edge_transfer(fused: Tensor, ir: Tensor, vi: Tensor) -> Tensor:
    """Edge preservation of both sources, weighted by the strength of their edges.

    Args:
        fused, ir, vi: ``(B, H, W)`` grey levels 0..255.

    Returns:
        ``(B,)`` in [0, 1). NaN when both sources are black, hence without any edge.
    """
    edges = sobel_edges(fused)
    kept = weight = 0.0
    for source in (sobel_edges(ir), sobel_edges(vi)):
        kept = kept + (edge_preservation(source, edges) * source.strength).sum((-2, -1))
        weight = weight + source.strength.sum((-2, -1))
    return torch.where(weight > 0, kept / torch.where(weight > 0, weight, 1.0), torch.nan)


class EdgeTransfer(SmoothScore):
    """Edge information carried from the sources into the fused picture (Qabf).

    Its constants keep it below 0.99 even for a perfect copy; a copy of one of two different sources
    gets the weight of that source's edges. Undefined, hence NaN, when both sources are black.
    """

    name = "qabf"
    higher_is_better = True
    range = (0.0, 1.0)
    unit = ""
    source = "Xydeas, Petrovic, Electronics Letters 36(4), 2000"
    variant = "8-bit grey, 0..255, Sobel, zero border"

    def score(self, fused: Tensor, ir: Tensor, vi: Tensor) -> Tensor:
        return edge_transfer(fused, ir, vi)
