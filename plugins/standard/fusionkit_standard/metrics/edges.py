"""How well the edges of the sources survive in the fused picture, and which edges are new in it.

Sources: C. S. Xydeas, V. Petrovic, "Objective image fusion performance measure", Electronics
Letters 36 (2000); B. K. S. Kumar, "Multifocus and multispectral image fusion based on pixel
significance using discrete cosine harmonic wavelet transform", Signal, Image and Video Processing 7
(2013). Constants, borders and the rule for equal strengths are those of the programs that published
tables were made with.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

from fusionkit_standard.metrics.base import SmoothScore, ratio, safe_sqrt, total
from fusionkit_standard.metrics.gradient import sobel

GAMMA_STRENGTH, K_STRENGTH, SIGMA_STRENGTH = 0.9994, 15.0, 0.5
GAMMA_ANGLE, K_ANGLE, SIGMA_ANGLE = 0.9879, 22.0, 0.8
STRONG, WEAK_WEIGHT = 2.0, 0.001  # Nabf: edges below this strength weigh this little


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


def edge_transfer(fused: Tensor, sources: Sequence[Tensor], weight: Tensor | None = None) -> Tensor:
    """Edge preservation of the sources, weighted by the strength of their edges.

    Args:
        fused: ``(B, H, W)`` grey levels 0..255.
        sources: One or more of that shape.
        weight: A weight per pixel.

    Returns:
        ``(B,)`` in [0, 1). NaN when all sources are black, hence without any edge.
    """
    edges = sobel_edges(fused)
    kept = whole = 0.0
    for source in map(sobel_edges, sources):
        kept = kept + total(edge_preservation(source, edges) * source.strength, weight)
        whole = whole + total(source.strength, weight)
    return ratio(kept, whole)


class EdgeTransfer(SmoothScore):
    """Edge information carried from the sources into the fused picture (Qabf).

    Its constants keep it below 0.99 even for a perfect copy; a copy of one of two different sources
    gets the weight of that source's edges. Undefined, hence NaN, when both sources are black.
    """

    name = "qabf"
    range = (0.0, 1.0)
    source = "Xydeas, Petrovic, Electronics Letters 36(4), 2000"
    variant = "8-bit grey, 0..255, Sobel, zero border"

    def score(
        self, fused: Tensor, ir: Tensor, vi: Tensor, *, weight: Tensor | None = None
    ) -> Tensor:
        return edge_transfer(fused, (ir, vi), weight)


def artefacts(fused: Tensor, sources: Sequence[Tensor], weight: Tensor | None = None) -> Tensor:
    """Edge strength of the fused picture that neither source has, weighted by theirs (Nabf).

    Args:
        fused: ``(B, H, W)`` grey levels 0..255, at least 2 x 2.
        sources: Two of that shape.
        weight: A weight per pixel.

    Returns:
        ``(B,)`` in [0, 1]; 0 without such edges.
    """
    edges = _mirrored_edges(fused)
    known = [_mirrored_edges(source) for source in sources]
    # Squares of whole numbers are whole, so these comparisons do not hang on rounding.
    new = torch.stack([edges.squared > source.squared for source in known]).all(0)
    lost = whole = 0.0
    for source in known:
        strong = source.squared >= STRONG**2
        pull = torch.where(strong, source.strength**1.5, WEAK_WEIGHT)
        unlike = 1 - _preserved_without_gap(source, edges)
        lost = lost + total(new * unlike * pull, weight)
        whole = whole + total(pull, weight)
    return lost / whole


def _mirrored_edges(levels: Tensor) -> Edges:
    """Sobel edges over 8, the picture mirrored at its border; angle from the vertical."""
    x, y = (g / 8 for g in sobel(levels, "reflect"))
    squared = x.square() + y.square()
    flat = y == 0
    upright = torch.where(x == 0, 0.0, x.detach().sign() * math.pi / 2)
    angle = torch.where(flat, upright, (x / torch.where(flat, 1.0, y)).atan())
    return Edges(squared, safe_sqrt(squared), angle)


def _preserved_without_gap(source: Edges, fused: Edges) -> Tensor:
    weak = torch.minimum(source.strength, fused.strength)
    strong = torch.maximum(source.strength, fused.strength)
    strength = weak / torch.where(strong > 0, strong, 1.0)
    alignment = ((source.angle - fused.angle).abs() - math.pi / 2).abs() / (math.pi / 2)
    q_strength = 0.9999 * torch.sigmoid(19 * (strength - 0.5))
    q_angle = 0.9995 * torch.sigmoid(22 * (alignment - 0.5))
    return (q_strength * q_angle).sqrt()


class Artefacts(SmoothScore):
    """Edges in the fused picture that come from neither source (Nabf). Lower is better."""

    name = "nabf"
    higher_is_better = False
    range = (0.0, 1.0)
    source = "Kumar, Signal, Image and Video Processing 7, 2013"
    variant = "8-bit grey, Sobel / 8, mirrored border, weight 0.001 below strength 2"
    min_size = 2

    def score(
        self, fused: Tensor, ir: Tensor, vi: Tensor, *, weight: Tensor | None = None
    ) -> Tensor:
        return artefacts(fused, (ir, vi), weight)


class ArtefactsSwapped(Artefacts):
    """Nabf with its arguments in a wrong order: the infrared picture as if fused of the other two.

    Says nothing about the fused picture's artefacts, and can rank methods the other way round;
    needed to compare with tables made so. Lower was taken for better.
    """

    name = "nabf_swapped"
    source = "Evaluation-for-Image-Fusion, after Kumar, 2013"
    variant = "8-bit grey, Nabf of the infrared picture against visible and fused"

    def score(
        self, fused: Tensor, ir: Tensor, vi: Tensor, *, weight: Tensor | None = None
    ) -> Tensor:
        return artefacts(ir, (vi, fused), weight)
