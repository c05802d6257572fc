"""Contrast of the fused picture as the spread of its grey levels.

Source: J. Ma, Y. Ma, C. Li, "Infrared and visible image fusion methods and applications: a
survey", Information Fusion 45 (2019).
"""

from torch import Tensor

from fusionkit_standard.metrics.base import SmoothScore


def standard_deviation(levels: Tensor) -> Tensor:
    """Population standard deviation of grey levels, ``(B, H, W)`` -> ``(B,)``.

    Example:
        >>> import torch
        >>> standard_deviation(torch.tensor([[[1.0, 3.0]]]))
        tensor([1.])
    """
    return levels.flatten(1).std(1, correction=0)


class StandardDeviation(SmoothScore):
    """Standard deviation of the fused picture (SD).

    Higher means more contrast, wherever it comes from. 0 for a constant picture.
    """

    name = "sd"
    higher_is_better = True
    range = (0.0, 127.5)
    unit = "grey level"
    source = "Ma, Ma, Li, Information Fusion 45, 2019"
    variant = "8-bit grey, population"
    needs = ("fused",)

    def score(self, fused: Tensor) -> Tensor:
        return standard_deviation(fused)
