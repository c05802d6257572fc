"""Brighter and darker: a picture taken apart into illumination, reflectance and noise.

Source: effects 2 and 6 of the released TeRF; the model is that of M. Li et al., "Structure-
Revealing Low-Light Image Enhancement Via Robust Retinex Model", IEEE TIP 2018, here with one small
network for each of the three parts.
"""

import math
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d, pad

from fusionkit.color import luma

SMALLEST = 1e-4
NOISE_WEIGHT = 5000.0
BRIGHTEST, DARKEST = 0.2, 2.5
"""The exponent is at most the one when brightening, at least the other when darkening."""


class Parts(NamedTuple):
    """Of a picture I = L R + N."""

    illumination: Tensor
    """L, ``(B, 1, H, W)`` in (0, 1)."""
    reflectance: Tensor
    """R, ``(B, 3, H, W)`` in (0, 1)."""
    noise: Tensor
    """N, ``(B, 3, H, W)`` in (-1, 1)."""


class RetinexNet(nn.Module):
    """Three networks of five 3x3 convolutions, one per part; 128,167 parameters.

    Shape:
        - ``(B, 3, H, W)`` -> :class:`Parts`
    """

    def __init__(self, widths: tuple[int, ...] = (16, 32, 64, 32)) -> None:
        super().__init__()
        self.illumination_net = _five(widths, 1)
        self.reflectance_net = _five(widths, 3)
        self.noise_net = _five(widths, 3)

    def forward(self, image: Tensor) -> Parts:
        return Parts(
            self.illumination_net(image).sigmoid(),
            self.reflectance_net(image).sigmoid(),
            self.noise_net(image).tanh(),
        )


def _five(widths: tuple[int, ...], outputs: int) -> nn.Sequential:
    sides = (3, *widths, outputs)
    layers: list[nn.Module] = []
    for before, after in pairwise(sides):
        layers += [nn.Conv2d(before, after, 3, padding=1), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def exponent(visible: Tensor, *, brighter: bool) -> float:
    """g, by which the mean of the visible picture would become one half, limited as released."""
    mean = min(max(float(visible.mean()), SMALLEST), 1 - SMALLEST)
    wanted = math.log(0.5) / math.log(mean)
    return min(wanted, BRIGHTEST) if brighter else max(wanted, DARKEST)


def relit(image: Tensor, parts: Parts, power: float) -> Tensor:
    """:math:`L^g (I - N) / L`, not clamped."""
    return parts.illumination**power * (image - parts.noise) / parts.illumination


def robust_retinex(image: Tensor, parts: Parts) -> Tensor:
    """The whole objective: sums over the picture, as released."""
    return sum(terms(image, parts).values())


def terms(image: Tensor, parts: Parts) -> dict[str, Tensor]:
    r"""The parts of the objective, weighted, for one picture ``(1, 3, H, W)``.

    * ``reconstruction`` :math:`|I - (L R + N)|_1`
    * ``illumination`` :math:`S_L`: L is smooth where the picture is, and near its largest channel
    * ``reflectance`` :math:`S_R`: R is flat where L and the picture have no edges, and near I / L
    * ``noise`` :math:`5000\,|L N|_2`
    """
    light, surface, noise = parts
    grey = luma(image)
    down, across = _edges(grey, 2), _edges(grey, 3)
    return {
        "reconstruction": (image - (light * surface + noise)).abs().sum(),
        "illumination": _illumination(image, light, down, across),
        "reflectance": _reflectance(image, light, surface, down, across),
        "noise": NOISE_WEIGHT * (light * noise).norm(),
    }


def _illumination(image: Tensor, light: Tensor, down: Tensor, across: Tensor) -> Tensor:
    weights = (1 / (_gaussian(edges) + SMALLEST) for edges in (down, across))
    smooth = sum(w * _edges(light, dim) for w, dim in zip(weights, (2, 3), strict=True))
    return smooth.sum() + (light - image.amax(1, keepdim=True)).abs().sum()


def _reflectance(
    image: Tensor, light: Tensor, surface: Tensor, down: Tensor, across: Tensor
) -> Tensor:
    weight = 1 / (light * down * across + SMALLEST)
    low, high = weight.aminmax()
    weight = (weight - low) / (high - low).clamp(min=1e-12)
    smooth = weight * (_edges(surface, 2) + _edges(surface, 3))
    return smooth.sum() + (image / light - surface).abs().sum()


def _edges(x: Tensor, dim: int) -> Tensor:
    """Product of the differences across one and across two pixels, along rows (2) or columns (3).

    Each is taken where both neighbours exist, and that map of differences is padded by repetition.
    """
    changes = []
    for step in (1, 2):
        inner = x.shape[dim] - 2 * step
        if inner < 1:
            raise ValueError("a picture of fewer than five rows or columns has no edges to weigh.")
        change = (x.narrow(dim, 2 * step, inner) - x.narrow(dim, 0, inner)).abs()
        sides = (0, 0, step, step) if dim == 2 else (step, step, 0, 0)
        changes.append(pad(change, sides, mode="replicate"))
    return changes[0] * changes[1]


def _gaussian(x: Tensor) -> Tensor:
    """5x5, deviation 3, zeros beyond the edge."""
    steps = torch.arange(-2.0, 3.0, device=x.device, dtype=x.dtype)
    kernel = torch.exp(-steps.square() / 18)
    kernel = kernel / kernel.sum()
    x = conv2d(x, kernel.view(1, 1, -1, 1), padding=(2, 0))
    return conv2d(x, kernel.view(1, 1, 1, -1), padding=(0, 2))
