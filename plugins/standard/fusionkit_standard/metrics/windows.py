"""Windows sliding over pictures, as separable sums in float64.

Adding shifted copies of the picture is an order of magnitude faster here than a float64
convolution, which has no fast path on a CPU, and gives the same sums.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

CACHED = 1 << 18
"""Pixels of float64 that a core keeps at hand."""


def gaussian(size: int, sigma: float) -> list[float]:
    """``size`` samples of a Gaussian around the middle, summing to 1."""
    taps = [math.exp(-((i - (size - 1) / 2) ** 2) / (2 * sigma**2)) for i in range(size)]
    return [tap / sum(taps) for tap in taps]


def slide(maps: Tensor, taps: Sequence[float], *, stride: int = 1) -> Tensor:
    """Maps ``(N, ..., H, W)`` weighted by the window at every place where it lies fully inside.

    ``stride`` keeps every n-th row and column, beginning with the first.
    """
    planes = maps.flatten(0, -3)
    parts = [_slide(part, taps, stride) for part in planes.split(at_once(planes))]
    return torch.cat(parts).unflatten(0, maps.shape[:-2])


def at_once(pictures: Tensor) -> int:
    """How many of ``(N, ..., H, W)`` to work on together: all on a GPU, else what stays in cache.

    A sum of many shifted copies reads its pictures again and again; from memory it takes twice to
    three times as long.
    """
    if pictures.is_cuda:
        return max(1, len(pictures))
    return max(1, CACHED // (pictures.shape[-2] * pictures.shape[-1]))


def _slide(maps: Tensor, taps: Sequence[float], stride: int) -> Tensor:
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


def box(size: int) -> list[float]:
    """``size`` equal samples, summing to 1."""
    return [1 / size] * size


def local_moments(
    fused: Tensor, sources: Sequence[Tensor], taps: Sequence[float], *, top: float | None = None
) -> list[LocalMoments]:
    """For each source: means, variances and covariance of the fused picture and that source.

    ``top`` cuts the products of two pixels, as arithmetic in 8 bits would.
    """
    pictures = (fused, *sources)
    products = [picture * picture for picture in pictures] + [fused * source for source in sources]
    if top is not None:
        products = [product.clamp_max(top) for product in products]
    count = len(pictures)
    moments = slide(torch.stack((*pictures, *products)), taps)
    means = moments[:count]
    variances = moments[count : 2 * count] - means * means
    covariances = moments[2 * count :] - means[0] * means[1:]
    return [
        LocalMoments(means[0], means[i], variances[0], variances[i], covariances[i - 1])
        for i in range(1, count)
    ]
