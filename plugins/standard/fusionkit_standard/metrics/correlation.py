"""Pearson correlation: of the fused picture with its sources, and of what was added with a source.

Source of SCD: V. Aslantas, E. Bendes, "A new image quality metric for image fusion: the sum of the
correlations of differences", AEU Int. J. Electronics and Communications 69 (2015).
"""

import torch
from torch import Tensor

from fusionkit_standard.metrics.base import SmoothScore, average, safe_sqrt


def correlation(first: Tensor, second: Tensor, weight: Tensor | None = None) -> Tensor:
    """Pearson correlation of two pictures, ``(B, H, W)`` each -> ``(B,)``; NaN if one is constant.

    Example:
        >>> ramp = torch.arange(4.0).view(1, 2, 2)
        >>> correlation(ramp, 5 - 2 * ramp)
        tensor([-1.])
    """
    # Compared, not computed: the variance of a constant may miss 0 by a rounding error.
    constant = _constant(first, weight) | _constant(second, weight)
    x = first - average(first, weight)[:, None, None]
    y = second - average(second, weight)[:, None, None]
    spread = safe_sqrt(average(x.square(), weight) * average(y.square(), weight))
    value = average(x * y, weight) / torch.where(constant, 1.0, spread)
    return torch.where(constant, torch.nan, value)


def _constant(picture: Tensor, weight: Tensor | None) -> Tensor:
    low = high = picture
    if weight is not None:
        low = picture.masked_fill(weight == 0, torch.inf)
        high = picture.masked_fill(weight == 0, -torch.inf)
    return low.amin((-2, -1)) >= high.amax((-2, -1))


def correlation_of_differences(
    fused: Tensor, ir: Tensor, vi: Tensor, weight: Tensor | None = None
) -> Tensor:
    """r(F - B, A) + r(F - A, B) of ``(B, H, W)`` pictures -> ``(B,)`` in [-2, 2]."""
    return correlation(fused - vi, ir, weight) + correlation(fused - ir, vi, weight)


class CorrelationCoefficient(SmoothScore):
    """Mean correlation of the fused picture with its sources (CC).

    Undefined, hence NaN, when one of the three pictures is constant.
    """

    name = "cc"
    range = (-1.0, 1.0)
    source = "Ma, Ma, Li, Information Fusion 45, 2019"
    variant = "8-bit grey, mean over sources"

    def score(
        self, fused: Tensor, ir: Tensor, vi: Tensor, *, weight: Tensor | None = None
    ) -> Tensor:
        return (correlation(ir, fused, weight) + correlation(vi, fused, weight)) / 2


class CorrelationOfDifferences(SmoothScore):
    """Sum of the correlations of differences (SCD).

    Undefined, hence NaN, when the fused picture equals one source or when a source is constant.
    """

    name = "scd"
    range = (-2.0, 2.0)
    source = "Aslantas, Bendes, AEU 69(12), 2015"
    variant = "8-bit grey"

    def score(
        self, fused: Tensor, ir: Tensor, vi: Tensor, *, weight: Tensor | None = None
    ) -> Tensor:
        return correlation_of_differences(fused, ir, vi, weight)
