"""How far the fused picture is from its sources, pixel by pixel: MSE, RMSE, PSNR and misnomers.

A fused picture is not meant to equal either source, so these say little about fusion. Tables print
them, in numbers that differ by constants: a PSNR above 50 is none of the usual kind.
"""

import math

import torch
from torch import Tensor

from fusionkit_standard.metrics.base import SmoothScore, average, safe_sqrt

PEAK = 255.0


def mean_squared_error(
    fused: Tensor, ir: Tensor, vi: Tensor, weight: Tensor | None = None
) -> Tensor:
    """Mean over both sources of the mean squared difference, ``(B, H, W)`` each -> ``(B,)``."""
    return sum(average((source - fused).square(), weight) for source in (ir, vi)) / 2


def decibels(peak: Tensor | float, error: Tensor) -> Tensor:
    """10 log10(peak^2 / error): +inf without error, -inf for a peak of 0."""
    return 10 * (torch.as_tensor(peak, dtype=error.dtype).square() / error).log10()


class SquaredError(SmoothScore):
    """Mean squared error against both sources (MSE). 0 only when all three are equal."""

    name = "mse"
    higher_is_better = False
    range = (0.0, PEAK**2)
    unit = "grey level squared"
    source = "Ma, Ma, Li, Information Fusion 45, 2019"
    variant = "8-bit grey, 0..255, mean over sources"

    def error(self, fused: Tensor, ir: Tensor, vi: Tensor, weight: Tensor | None) -> Tensor:
        return mean_squared_error(fused, ir, vi, weight)

    def score(
        self, fused: Tensor, ir: Tensor, vi: Tensor, *, weight: Tensor | None = None
    ) -> Tensor:
        return self.error(fused, ir, vi, weight)


class SquaredErrorUnit(SquaredError):
    """MSE on the scale 0..1: a 65025th of ``mse``."""

    name = "mse_unit"
    range = (0.0, 1.0)
    unit = ""
    source = "Evaluation-for-Image-Fusion, IVIF_ZOO"
    variant = "8-bit grey divided by 255, mean over sources"

    def score(
        self, fused: Tensor, ir: Tensor, vi: Tensor, *, weight: Tensor | None = None
    ) -> Tensor:
        return self.error(fused, ir, vi, weight) / PEAK**2


class RootSquaredError(SquaredError):
    """Root of ``mse`` (RMSE)."""

    name = "rmse"
    range = (0.0, PEAK)
    unit = "grey level"
    variant = "8-bit grey, root of the mean over sources"

    def score(
        self, fused: Tensor, ir: Tensor, vi: Tensor, *, weight: Tensor | None = None
    ) -> Tensor:
        return safe_sqrt(self.error(fused, ir, vi, weight))


class NormPerPixel(SquaredError):
    """What VIFB prints as RMSE: the norm of the difference over the number of pixels.

    Not an RMSE: it shrinks with the root of the size, so pictures of two sizes do not compare.
    """

    name = "rmse_vifb"
    range = (0.0, PEAK)
    unit = ""
    source = "VIFB"
    variant = "8-bit grey, Frobenius norm / (H W), mean over sources"

    def error(self, fused: Tensor, ir: Tensor, vi: Tensor, weight: Tensor | None) -> Tensor:
        shrink = math.sqrt(fused[0].numel())
        roots = (safe_sqrt(average((s - fused).square(), weight)) for s in (ir, vi))
        return sum(roots) / 2 / shrink


class PeakSignalToNoise(SquaredError):
    """Peak signal-to-noise ratio of the mean error against both sources (PSNR).

    +inf when all three pictures are equal. The mean of two PSNRs is another number.
    """

    name = "psnr"
    higher_is_better = True
    range = (0.0, math.inf)
    unit = "dB"
    variant = "8-bit grey, peak 255, of the MSE averaged over sources"

    def score(
        self, fused: Tensor, ir: Tensor, vi: Tensor, *, weight: Tensor | None = None
    ) -> Tensor:
        return decibels(PEAK, self.error(fused, ir, vi, weight))


class PeakOfFused(PeakSignalToNoise):
    """PSNR whose peak is the brightest level of the fused picture; equal where that is 255.

    -inf for a black fused picture.
    """

    name = "psnr_maxf"
    range = (-math.inf, math.inf)
    source = "MMIF-CDDFuse"
    variant = "8-bit grey, peak = maximum of the fused picture, of the MSE averaged over sources"

    def score(
        self, fused: Tensor, ir: Tensor, vi: Tensor, *, weight: Tensor | None = None
    ) -> Tensor:
        seen = fused if weight is None else fused * (weight > 0)
        return decibels(seen.amax((-2, -1)), self.error(fused, ir, vi, weight))


class PeakTooHigh(PeakSignalToNoise):
    """PSNR with an error on the scale 0..1 and a peak on 0..255: 48.13 dB above ``psnr``."""

    name = "psnr_plus48"
    range = (20 * math.log10(PEAK), math.inf)
    source = "Evaluation-for-Image-Fusion, IVIF_ZOO, TeRF"
    variant = "8-bit grey divided by 255 but peak 255, of the MSE averaged over sources"

    def score(
        self, fused: Tensor, ir: Tensor, vi: Tensor, *, weight: Tensor | None = None
    ) -> Tensor:
        return decibels(PEAK, self.error(fused, ir, vi, weight) / PEAK**2)


class PeakOfNorm(NormPerPixel):
    """What VIFB prints as PSNR: its RMSE in the place of the mean squared error."""

    name = "psnr_vifb"
    higher_is_better = True
    range = (10 * math.log10(PEAK), math.inf)
    unit = "dB"
    variant = "8-bit grey, peak 255, rmse_vifb in place of the MSE"

    def score(
        self, fused: Tensor, ir: Tensor, vi: Tensor, *, weight: Tensor | None = None
    ) -> Tensor:
        return decibels(PEAK, self.error(fused, ir, vi, weight))
