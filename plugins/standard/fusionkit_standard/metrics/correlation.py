"""What was added to one source should look like the other.

Source: V. Aslantas, E. Bendes, "A new image quality metric for image fusion: the sum of the
correlations of differences", AEU Int. J. Electronics and Communications 69 (2015).
"""

import torch
from torch import Tensor

from fusionkit_standard.metrics.base import SmoothScore, safe_sqrt


def correlation(first: Tensor, second: Tensor) -> Tensor:
    """Pearson correlation of two pictures, ``(B, H, W)`` each -> ``(B,)``; NaN if one is constant.

    Example:
        >>> ramp = torch.arange(4.0).view(1, 2, 2)
        >>> correlation(ramp, 5 - 2 * ramp)
        tensor([-1.])
    """
    x, y = first.flatten(1), second.flatten(1)
    # Compared, not computed: the variance of a constant may miss 0 by a rounding error.
    constant = (x.amin(1) == x.amax(1)) | (y.amin(1) == y.amax(1))
    x, y = x - x.mean(1, keepdim=True), y - y.mean(1, keepdim=True)
    spread = safe_sqrt(x.square().sum(1) * y.square().sum(1))
    value = (x * y).sum(1) / torch.where(constant, 1.0, spread)
    return torch.where(constant, torch.nan, value)


def correlation_of_differences(fused: Tensor, ir: Tensor, vi: Tensor) -> Tensor:
    """r(F - B, A) + r(F - A, B) of ``(B, H, W)`` pictures -> ``(B,)`` in [-2, 2]."""
    return correlation(fused - vi, ir) + correlation(fused - ir, vi)


class CorrelationOfDifferences(SmoothScore):
    """Sum of the correlations of differences (SCD).

    Undefined, hence NaN, when the fused picture equals one source or when a source is constant.
    """

    name = "scd"
    higher_is_better = True
    range = (-2.0, 2.0)
    unit = ""
    source = "Aslantas, Bendes, AEU 69(12), 2015"
    variant = "8-bit grey"

    def score(self, fused: Tensor, ir: Tensor, vi: Tensor) -> Tensor:
        return correlation_of_differences(fused, ir, vi)
