"""MEF-SSIM: the fused picture against the patch one would wish for, made from both sources.

Source: K. Ma, K. Zeng, Z. Wang, "Perceptual quality assessment for multi-exposure image fusion",
IEEE Trans. Image Processing 24 (2015). Everything in it is a box or Gaussian mean of the pictures
and of their products, so no patch is ever cut out.
"""

import math

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, pad

from fusionkit_standard.metrics.base import SmoothScore, average, safe_sqrt
from fusionkit_standard.metrics.structure import SIGMA, WINDOW
from fusionkit_standard.metrics.windows import box, gaussian, slide

ENERGY_FLOOR = 0.001
CLEAREST = 10.0  # greatest power of the weights, for patches that agree in structure
C = (0.03 * 255) ** 2
SCALE_WEIGHTS = (0.0448, 0.2856, 0.3001)


def _second_moments(pictures: list[Tensor], taps: list[float]) -> dict[tuple[int, int], Tensor]:
    """Local covariances of every pair ``i <= j`` of pictures."""
    pairs = [(i, j) for i in range(len(pictures)) for j in range(i, len(pictures))]
    products = [pictures[i] * pictures[j] for i, j in pairs]
    means = slide(torch.stack((*pictures, *products)), taps)
    first, second = means[: len(pictures)], means[len(pictures) :]
    return {(i, j): second[k] - first[i] * first[j] for k, (i, j) in enumerate(pairs)}


def wished_similarity(fused: Tensor, ir: Tensor, vi: Tensor) -> Tensor:
    """Equation 11 of the paper at every place, ``(B, H, W)`` grey levels -> ``(B, h, w)``."""
    area = WINDOW**2
    spread = _second_moments([ir, vi], box(WINDOW))
    lengths = [safe_sqrt(area * spread[i, i].clamp_min(0)) for i in (0, 1)]
    together = spread[0, 0] + spread[1, 1] + 2 * spread[0, 1]
    both = safe_sqrt(area * together.clamp_min(0))
    apart = lengths[0] + lengths[1]
    # Two flat patches agree in structure.
    agreement = torch.where(apart > 0, both / torch.where(apart > 0, apart, 1.0), 1.0)
    power = (math.pi / 2 * agreement.clamp(0, 1 - 1e-15)).tan().clamp_max(CLEAREST)
    energies = [length + ENERGY_FLOOR for length in lengths]
    pulls = [(energy / WINDOW) ** power for energy in energies]
    parts = [p / (pulls[0] + pulls[1]) / e for p, e in zip(pulls, energies, strict=True)]

    def variance_of_sum(moments: dict[tuple[int, int], Tensor]) -> Tensor:
        first, second = parts
        cross = 2 * first * second * moments[0, 1]
        return first.square() * moments[0, 0] + second.square() * moments[1, 1] + cross

    length = safe_sqrt(area * variance_of_sum(spread).clamp_min(0))
    raised = torch.maximum(*energies) / torch.where(length > 0, length, 1.0)
    raised = torch.where(length > 0, raised, 1.0)
    fine = _second_moments([ir, vi, fused], gaussian(WINDOW, SIGMA))
    wished = raised.square() * variance_of_sum(fine)
    shared = raised * (parts[0] * fine[0, 2] + parts[1] * fine[1, 2])
    return (2 * shared + C) / (wished + fine[2, 2] + C)


class WishedSimilarity(SmoothScore):
    """Structural similarity with a patch joined of both sources, one scale (MEF-SSIM).

    Made for sources of different exposure; of infrared and visible pictures that contradict each
    other it says little.
    """

    name = "mef_ssim"
    range = (-1.0, 1.0)
    source = "Ma, Zeng, Wang, IEEE TIP 24(11), 2015"
    variant = "8-bit grey, 11 x 11 patches, valid area, one scale"
    min_size = WINDOW

    def score(
        self, fused: Tensor, ir: Tensor, vi: Tensor, *, weight: Tensor | None = None
    ) -> Tensor:
        return average(wished_similarity(fused, ir, vi), weight)


class WishedSimilarityScales(WishedSimilarity):
    """MEF-SSIM on three scales, what one tool prints as MS_SSIM.

    0 when the mean of a scale is negative, where the product is no real number.
    """

    name = "mef_ms_ssim"
    range = (0.0, 1.0)
    variant = "8-bit grey, 11 x 11 patches, valid area, three scales"
    min_size = 4 * (WINDOW - 1) + 1

    def score(
        self, fused: Tensor, ir: Tensor, vi: Tensor, *, weight: Tensor | None = None
    ) -> Tensor:
        value, pictures = 1.0, torch.stack((fused, ir, vi), 1)
        for scale, power in enumerate(SCALE_WEIGHTS):
            if scale:
                pictures = _halved(pictures)
                weight = None if weight is None else _halved(weight[:, None])[:, 0]
            mean = average(wished_similarity(*pictures.unbind(1)), weight).clamp_min(0)
            value = value * mean ** (power / sum(SCALE_WEIGHTS))
        return value


def _halved(pictures: Tensor) -> Tensor:
    """Means of 2 x 2; the last row and column of odd sides are paired with themselves."""
    height, width = pictures.shape[-2:]
    framed = pad(pictures, (0, width % 2, 0, height % 2), mode="replicate")
    return avg_pool2d(framed, 2)
