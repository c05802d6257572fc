"""Contrast of the fused picture as the spread of its grey levels.

Source: J. Ma, Y. Ma, C. Li, "Infrared and visible image fusion methods and applications: a
survey", Information Fusion 45 (2019).
"""

import torch
from torch import Tensor

from fusionkit_standard.metrics.base import Score, SmoothScore, average, safe_sqrt

SATURATED = 255.0


def standard_deviation(levels: Tensor, weight: Tensor | None = None) -> Tensor:
    """Population standard deviation of grey levels, ``(B, H, W)`` -> ``(B,)``.

    Example:
        >>> import torch
        >>> standard_deviation(torch.tensor([[[1.0, 3.0]]]))
        tensor([1.])
    """
    centred = levels - average(levels, weight)[:, None, None]
    return safe_sqrt(average(centred.square(), weight))


class StandardDeviation(SmoothScore):
    """Standard deviation of the fused picture (SD).

    Higher means more contrast, wherever it comes from. 0 for a constant picture.
    """

    name = "sd"
    range = (0.0, 127.5)
    unit = "grey level"
    source = "Ma, Ma, Li, Information Fusion 45, 2019"
    variant = "8-bit grey, population"
    needs = ("fused",)

    def score(self, fused: Tensor, *, weight: Tensor | None = None) -> Tensor:
        return standard_deviation(fused, weight)


class SaturatedDeviation(Score):
    """SD as an old tool had it, in 8-bit arithmetic: below the mean counts 0, squares end at 255.

    Says little about contrast; needed to compare with published tables whose SD lies near 9.
    """

    name = "sd_uint8sat"
    range = (0.0, 16.0)
    unit = "grey level"
    source = "Evaluation-for-Image-Fusion, published table of nine methods on TNO"
    variant = "8-bit grey, differences and squares saturate in 8 bits"
    needs = ("fused",)

    @torch.no_grad()
    def score(self, fused: Tensor, *, weight: Tensor | None = None) -> Tensor:
        above = (fused - average(fused, weight)[:, None, None] + 0.5).floor().clamp(0, SATURATED)
        return average(above.square().clamp_max(SATURATED), weight).sqrt()
