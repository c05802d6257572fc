r"""The terms of IF-FILM's objective, over grey pictures: a infrared, b luma of visible, f fused.

Source: Z. Zhao et al., ICML 2024, section 3.4; formulas follow the released code. Its total is the
intensity plus 20 times the gradient; the structural term has weight 0 there.
"""

from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import conv2d

from fusionkit.batch import Batch, Fused
from fusionkit.color import luma

SOBEL = ((-1.0, 0.0, 1.0), (-2.0, 0.0, 2.0), (-1.0, 0.0, 1.0))
C1, C2 = 0.01**2, 0.03**2
"""Constants of the structural similarity for pictures in [0, 1]."""


def grey_of(fused: Fused) -> Tensor:
    """The network's own grey picture where it gives one, else the luma of the result."""
    return fused.maps["grey"] if "grey" in fused.maps else luma(fused.image)


def sources(batch: Batch) -> tuple[Tensor, Tensor]:
    """Infrared and luma of visible, ``(B, 1, H, W)`` each."""
    return luma(batch.infrared), luma(batch.visible)


class Intensity:
    r"""``intensity``: distance of f to what is to be kept of both pictures.

    .. math:: \mathrm{mean}\,|t - f|^p,\qquad t = \max(a, b)\ \text{or}\ (a + b)/2

    The larger value for infrared and multi-focus pairs, the mean for multi-exposure pairs; there is
    a squared form (``power=2``) in leftovers of the release.
    """

    def __init__(self, *, target: Literal["max", "mean"] = "max", power: int = 1) -> None:
        if target not in ("max", "mean"):
            raise ValueError(f"target={target!r}: it is 'max' or 'mean'.")
        self.target, self.power = target, power

    def __call__(self, batch: Batch, fused: Fused) -> Mapping[str, Tensor]:
        a, b = sources(batch)
        kept = torch.maximum(a, b) if self.target == "max" else (a + b) / 2
        return {"intensity": (kept - grey_of(fused)).abs().pow(self.power).mean()}


class Gradient:
    r"""``gradient``: edges of f against the stronger edge of the two pictures.

    .. math:: \mathrm{mean}\,|\max(S(a), S(b)) - S(f)|,\qquad S(x) = |k_x * x| + |k_y * x|

    with unscaled Sobel kernels and zeros around the picture.
    """

    def __call__(self, batch: Batch, fused: Fused) -> Mapping[str, Tensor]:
        a, b = sources(batch)
        kept = torch.maximum(sobel(a), sobel(b))
        return {"gradient": (kept - sobel(grey_of(fused))).abs().mean()}


class LpSsim:
    r"""``lp_ssim``: distance and structure against both sources, summed.

    .. math:: \sum_{s \in \{a, b\}} \|s - f\|_2 + w\,(1 - \mathrm{SSIM}(s, f)),\qquad
              w = \lfloor\sqrt{HW}\rfloor

    The norm runs over the whole batch. SSIM has a 5x5 Gaussian window of deviation 1.5 and zeros
    around the picture. An older form in the release has a fixed ``weight`` of 1000.
    """

    def __init__(self, *, weight: float | None = None) -> None:
        self.weight = weight

    def __call__(self, batch: Batch, fused: Fused) -> Mapping[str, Tensor]:
        f = grey_of(fused)
        weight = int((f.shape[-2] * f.shape[-1]) ** 0.5) if self.weight is None else self.weight
        terms = [
            torch.linalg.vector_norm(s - f) + weight * (1 - ssim(s, f)) for s in sources(batch)
        ]
        return {"lp_ssim": sum(terms)}


class MefSsim:
    r"""``mef_ssim``: 1 minus the structural part of MEF-SSIM.

    At each place f is compared with the source of larger local variance, in an 11x11 Gaussian
    window of deviation 1.5, zeros around the picture. In the release, and not used in training.

    Source: K. Ma, K. Zeng, Z. Wang, "Perceptual Quality Assessment for Multi-Exposure Image
    Fusion", IEEE Transactions on Image Processing 24 (2015).
    """

    def __call__(self, batch: Batch, fused: Fused) -> Mapping[str, Tensor]:
        return {"mef_ssim": 1 - mef_ssim(grey_of(fused), sources(batch)).mean()}


def sobel(x: Tensor) -> Tensor:
    """|horizontal| + |vertical| Sobel response of ``(B, 1, H, W)``, zeros around the picture."""
    across = x.new_tensor(SOBEL)
    kernels = torch.stack([across, across.T.flip(0)])[:, None]
    return conv2d(x, kernels, padding=1).abs().sum(1, keepdim=True)


def ssim(x: Tensor, y: Tensor) -> Tensor:
    """Mean structural similarity, as in :class:`LpSsim`."""
    mean_x, mean_y, var_x, var_y, both = _moments(x, y, _window(x, 5))
    luminance = (2 * mean_x * mean_y + C1) / (mean_x.square() + mean_y.square() + C1)
    return (luminance * (2 * both + C2) / (var_x + var_y + C2)).mean()


def mef_ssim(fused: Tensor, sources: tuple[Tensor, ...]) -> Tensor:
    """Structural part of MEF-SSIM per picture, ``(B,)``, as in :class:`MefSsim`."""
    window = _window(fused, 11)
    best = structure = None
    for source in sources:
        _, _, var_source, var_fused, both = _moments(source, fused, window)
        value = (2 * both + C2) / (var_source + var_fused + C2)
        if best is None:
            best, structure = var_source, value
        else:
            structure = torch.where(var_source > best, value, structure)
            best = torch.maximum(best, var_source)
    return structure.mean((1, 2, 3))


def _moments(x: Tensor, y: Tensor, window: Tensor) -> tuple[Tensor, ...]:
    """Local means, variances and covariance of two pictures, zeros around them."""
    padding = len(window) // 2
    stack = torch.cat([x, y, x * x, y * y, x * y], 1)
    kernels = window.expand(5, 1, *window.shape)
    mean_x, mean_y, xx, yy, xy = conv2d(stack, kernels, padding=padding, groups=5).split(1, 1)
    return mean_x, mean_y, xx - mean_x.square(), yy - mean_y.square(), xy - mean_x * mean_y


def _window(like: Tensor, side: int, deviation: float = 1.5) -> Tensor:
    """A Gaussian window ``(side, side)`` that sums to 1."""
    place = torch.arange(side, dtype=like.dtype, device=like.device) - side // 2
    line = torch.exp(-place.square() / (2 * deviation**2))
    line = line / line.sum()
    return line[:, None] * line
