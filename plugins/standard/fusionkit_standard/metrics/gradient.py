"""How busy the fused picture is: differences between neighbouring pixels.

Sources: A. M. Eskicioglu, P. S. Fisher, "Image quality measures and their performance", IEEE
Trans. Communications 43 (1995); G. Cui et al., "Detail preserved fusion of visible and infrared
images using regional saliency extraction and multi-scale image decomposition", Optics
Communications 341 (2015).
"""

import math

import torch
from torch import Tensor

from fusionkit_standard.metrics.base import SmoothScore, safe_sqrt


def spatial_frequency(levels: Tensor) -> Tensor:
    """Root of the mean squared step along rows plus that along columns.

    Each mean is over its own number of steps.

    Args:
        levels: ``(B, H, W)``, at least 2 x 2.

    Returns:
        ``(B,)`` in grey levels.

    Example:
        >>> spatial_frequency(torch.tensor([[[0.0, 3.0], [4.0, 7.0]]]))
        tensor([5.])
    """
    rows = levels.diff(dim=-1).square().mean((-2, -1))
    columns = levels.diff(dim=-2).square().mean((-2, -1))
    return safe_sqrt(rows + columns)


def average_gradient(levels: Tensor) -> Tensor:
    """Mean over all pixels of the root of half the squared gradient.

    Central differences inside, one-sided ones on the border.

    Args:
        levels: ``(B, H, W)``, at least 2 x 2.

    Returns:
        ``(B,)`` in grey levels.
    """
    down, right = torch.gradient(levels, dim=(-2, -1))
    return safe_sqrt((down.square() + right.square()) / 2).mean((-2, -1))


class SpatialFrequency(SmoothScore):
    """Spatial frequency of the fused picture (SF).

    Higher means more activity; noise and ringing count as well as detail.
    """

    name = "sf"
    higher_is_better = True
    range = (0.0, 255 * math.sqrt(2))
    unit = "grey level"
    source = "Eskicioglu, Fisher, IEEE Trans. Communications 43(12), 1995"
    variant = "8-bit grey, each direction over its own count"
    needs = ("fused",)
    min_size = 2

    def score(self, fused: Tensor) -> Tensor:
        return spatial_frequency(fused)


class AverageGradient(SmoothScore):
    """Average gradient of the fused picture (AG).

    Higher means steeper edges on average; noise and ringing count as well as detail.
    """

    name = "ag"
    higher_is_better = True
    range = (0.0, 255.0)
    unit = "grey level"
    source = "Cui, Feng, Xu, Li, Chen, Optics Communications 341, 2015"
    variant = "8-bit grey, central differences, mean over H x W"
    needs = ("fused",)
    min_size = 2

    def score(self, fused: Tensor) -> Tensor:
        return average_gradient(fused)
