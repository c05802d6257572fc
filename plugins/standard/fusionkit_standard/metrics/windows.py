"""Gaussian windows sliding over pictures, as separable sums in float64.

Adding shifted copies of the picture is an order of magnitude faster here than a float64
convolution, which has no fast path on a CPU, and gives the same sums.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor


def gaussian(size: int, sigma: float) -> list[float]:
    """``size`` samples of a Gaussian around the middle, summing to 1."""
    taps = [math.exp(-((i - (size - 1) / 2) ** 2) / (2 * sigma**2)) for i in range(size)]
    return [tap / sum(taps) for tap in taps]


def slide(maps: Tensor, taps: Sequence[float], *, stride: int = 1) -> Tensor:
    """Maps ``(..., H, W)`` weighted by the window at every place where it lies fully inside.

    ``stride`` keeps every n-th row and column, beginning with the first.
    """
    for axis in (-2, -1):
        count = (maps.shape[axis] - len(taps)) // stride + 1
        reach = (count - 1) * stride + 1
        step = (..., slice(None, None, stride)) + (slice(None),) * (-1 - axis)
        total = maps.narrow(axis, 0, reach)[step] * taps[0]
        for shift, tap in enumerate(taps[1:], start=1):
            total.add_(maps.narrow(axis, shift, reach)[step], alpha=tap)
        maps = total
    return maps


class LocalMoments(NamedTuple):
    """Population moments under the window, each ``(B, h, w)``."""

    mean: Tensor
    mean_other: Tensor
    variance: Tensor
    variance_other: Tensor
    covariance: Tensor


def local_moments(
    fused: Tensor, sources: Sequence[Tensor], taps: Sequence[float]
) -> list[LocalMoments]:
    """For each source: means, variances and covariance of the fused picture and that source."""
    pictures = (fused, *sources)
    products = [picture * picture for picture in pictures] + [fused * source for source in sources]
    count = len(pictures)
    moments = slide(torch.stack((*pictures, *products)), taps)
    means = moments[:count]
    variances = moments[count : 2 * count] - means * means
    covariances = moments[2 * count :] - means[0] * means[1:]
    return [
        LocalMoments(means[0], means[i], variances[0], variances[i], covariances[i - 1])
        for i in range(1, count)
    ]
