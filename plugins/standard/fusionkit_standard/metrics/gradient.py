"""How busy the fused picture is: differences between neighbouring pixels.

Sources: A. M. Eskicioglu, P. S. Fisher, "Image quality measures and their performance", IEEE
Trans. Communications 43 (1995); G. Cui et al., "Detail preserved fusion of visible and infrared
images using regional saliency extraction and multi-scale image decomposition", Optics
Communications 341 (2015); B. Rajalingam, R. Priya, "Hybrid multimodality medical image fusion
technique for feature enhancement in medical diagnosis", IJESI (2018) for the edge intensity.
"""

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from fusionkit_standard.metrics.base import SmoothScore, average, safe_sqrt, total


def _steps(levels: Tensor, axis: int, weight: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """Squared differences of neighbours, each with the mean weight of the two."""
    squared = levels.diff(dim=axis).square()
    if weight is None:
        return squared, None
    count = weight.shape[axis] - 1
    return squared, (weight.narrow(axis, 0, count) + weight.narrow(axis, 1, count)) / 2


def spatial_frequency(levels: Tensor, weight: Tensor | None = None) -> Tensor:
    """Root of the mean squared step along rows plus that along columns.

    Each mean is over its own number of steps.

    Args:
        levels: ``(B, H, W)``, at least 2 x 2.
        weight: A weight per pixel of that shape; a step has the mean of its two pixels.

    Returns:
        ``(B,)`` in grey levels.

    Example:
        >>> spatial_frequency(torch.tensor([[[0.0, 3.0], [4.0, 7.0]]]))
        tensor([5.])
    """
    return safe_sqrt(sum(average(*_steps(levels, axis, weight)) for axis in (-1, -2)))


def spatial_frequency_per_pixel(levels: Tensor, weight: Tensor | None = None) -> Tensor:
    """The same with both sums over the number of pixels instead."""
    pixels = levels[0].numel()
    if weight is not None:
        weight = weight * (pixels / weight.sum((-2, -1), keepdim=True))
    return safe_sqrt(sum(total(*_steps(levels, axis, weight)) for axis in (-1, -2)) / pixels)


def average_gradient(levels: Tensor, weight: Tensor | None = None) -> Tensor:
    """Mean over all pixels of the root of half the squared gradient.

    Central differences inside, one-sided ones on the border.

    Args:
        levels: ``(B, H, W)``, at least 2 x 2.
        weight: A weight per pixel of that shape.

    Returns:
        ``(B,)`` in grey levels.
    """
    down, right = torch.gradient(levels, dim=(-2, -1))
    return average(safe_sqrt((down.square() + right.square()) / 2), weight)


def sobel(levels: Tensor, border: str = "replicate") -> tuple[Tensor, Tensor]:
    """Unscaled Sobel differences along rows and along columns, ``(B, H, W)`` each.

    ``border``: ``replicate`` or ``reflect`` (the edge pixel not repeated), or ``constant`` (black).
    """
    framed = pad(levels[:, None], (1, 1, 1, 1), mode=border)[:, 0]
    tall = framed[:, :-2] + 2 * framed[:, 1:-1] + framed[:, 2:]
    wide = framed[..., :-2] + 2 * framed[..., 1:-1] + framed[..., 2:]
    return tall[..., 2:] - tall[..., :-2], wide[:, 2:] - wide[:, :-2]


class SpatialFrequency(SmoothScore):
    """Spatial frequency of the fused picture (SF).

    Higher means more activity; noise and ringing count as well as detail.
    """

    name = "sf"
    range = (0.0, 255 * math.sqrt(2))
    unit = "grey level"
    source = "Eskicioglu, Fisher, IEEE Trans. Communications 43(12), 1995"
    variant = "8-bit grey, each direction over its own count"
    needs = ("fused",)
    min_size = 2

    def score(self, fused: Tensor, *, weight: Tensor | None = None) -> Tensor:
        return spatial_frequency(fused, weight)


class SpatialFrequencyUnit(SpatialFrequency):
    """SF on the scale 0..1, as in old tables: a 255th of ``sf``."""

    name = "sf_unit"
    range = (0.0, math.sqrt(2))
    unit = ""
    source = "Evaluation-for-Image-Fusion, published table of nine methods on TNO"
    variant = "8-bit grey divided by 255, each direction over its own count"

    def score(self, fused: Tensor, *, weight: Tensor | None = None) -> Tensor:
        return spatial_frequency(fused, weight) / 255


class SpatialFrequencyPerPixel(SpatialFrequency):
    """SF with both sums divided by the number of pixels.

    With ``colour="channels"`` the channels stand side by side, so that the seams between them count
    as steps: VIFB asks a colour picture for two sizes and gets H and 3 W.
    """

    name = "sf_hw"
    source = "VIFB, after Eskicioglu, Fisher, 1995"
    variant = "8-bit grey, both directions over H x W"

    def score(self, fused: Tensor, *, weight: Tensor | None = None) -> Tensor:
        return spatial_frequency_per_pixel(fused, weight)

    def score_channels(self, fused: Tensor, *, weight: Tensor | None, **rest: Any) -> Tensor:
        beside = fused.transpose(1, 2).flatten(2)
        return self.score(beside, weight=None if weight is None else weight.repeat(1, 1, 3))


class AverageGradient(SmoothScore):
    """Average gradient of the fused picture (AG).

    Higher means steeper edges on average; noise and ringing count as well as detail.
    """

    name = "ag"
    range = (0.0, 255.0)
    unit = "grey level"
    source = "Cui, Feng, Xu, Li, Chen, Optics Communications 341, 2015"
    variant = "8-bit grey, central differences, mean over H x W"
    needs = ("fused",)
    min_size = 2

    def score(self, fused: Tensor, *, weight: Tensor | None = None) -> Tensor:
        return average_gradient(fused, weight)


class AverageGradientInner(AverageGradient):
    """AG with the sum over H x W places divided by (H-1) (W-1)."""

    name = "ag_hm1wm1"
    range = (0.0, 4 * 255.0)
    source = "Evaluation-for-Image-Fusion and VIFB, after Cui et al., 2015"
    variant = "8-bit grey, central differences, sum over (H-1) x (W-1)"

    def score(self, fused: Tensor, *, weight: Tensor | None = None) -> Tensor:
        height, width = fused.shape[-2:]
        stretch = height * width / ((height - 1) * (width - 1))
        return average_gradient(fused, weight) * stretch


class EdgeIntensity(SmoothScore):
    """Mean strength of the Sobel edges of the fused picture (EI).

    Higher means steeper edges on average; noise and ringing count as well as detail.
    """

    name = "ei"
    range = (0.0, 4 * 255 * math.sqrt(2))
    unit = "grey level"
    source = "VIFB; Rajalingam, Priya, IJESI, 2018"
    variant = "8-bit grey, Sobel unscaled, replicated border"
    needs = ("fused",)

    def score(self, fused: Tensor, *, weight: Tensor | None = None) -> Tensor:
        x, y = sobel(fused)
        return average(safe_sqrt(x.square() + y.square()), weight)
