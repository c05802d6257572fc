"""Structural similarity of the fused picture with each source.

Source: Z. Wang, A. C. Bovik, H. R. Sheikh, E. P. Simoncelli, "Image quality assessment: from
error visibility to structural similarity", IEEE Trans. Image Processing 13 (2004).
"""

from collections.abc import Sequence

from torch import Tensor

from fusionkit_standard.metrics.base import SmoothScore
from fusionkit_standard.metrics.windows import LocalMoments, gaussian, local_moments

WINDOW, SIGMA = 11, 1.5  # section III-C of the paper
K1, K2 = 0.01, 0.03
DATA_RANGE = 255.0


def similarity_map(moments: LocalMoments, data_range: float = DATA_RANGE) -> Tensor:
    """Equation 13 of the paper at every place, from local moments ``(B, h, w)``."""
    c1, c2 = (K1 * data_range) ** 2, (K2 * data_range) ** 2
    mean, other, variance, variance_other, covariance = moments
    return ((2 * mean * other + c1) * (2 * covariance + c2)) / (
        (mean.square() + other.square() + c1) * (variance + variance_other + c2)
    )


def structural_similarity(fused: Tensor, sources: Sequence[Tensor]) -> list[Tensor]:
    """Mean SSIM with each source, over the area where the 11 x 11 window lies inside.

    Args:
        fused: ``(B, H, W)`` grey levels 0..255, at least 11 x 11.
        sources: As many pictures of that shape as wanted.

    Returns:
        One ``(B,)`` per source, in [-1, 1]; 1 where they are equal.
    """
    moments = local_moments(fused, sources, gaussian(WINDOW, SIGMA))
    return [similarity_map(m).mean((-2, -1)) for m in moments]


class StructuralSimilarity(SmoothScore):
    """SSIM with the infrared plus SSIM with the visible picture (SSIM).

    A sum, so 2 would be perfect, and reachable only when the sources are equal. Halved in the
    papers that print a mean.
    """

    name = "ssim_g11_valid_sum"
    higher_is_better = True
    range = (-2.0, 2.0)
    unit = ""
    source = "Wang, Bovik, Sheikh, Simoncelli, IEEE TIP 13(4), 2004"
    variant = "8-bit grey, Gaussian 11 x 11 sigma 1.5, valid area, range 255, sum over sources"
    min_size = WINDOW

    def score(self, fused: Tensor, ir: Tensor, vi: Tensor) -> Tensor:
        return sum(structural_similarity(fused, (ir, vi)))
