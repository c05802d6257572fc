"""Structural similarity of the fused picture with each source, in its circulating conventions.

Sources: Z. Wang, A. C. Bovik, H. R. Sheikh, E. P. Simoncelli, "Image quality assessment: from
error visibility to structural similarity", IEEE Trans. Image Processing 13 (2004); Z. Wang,
E. P. Simoncelli, A. C. Bovik, "Multiscale structural similarity for image quality assessment",
Asilomar Conf. (2003).

Programs differ in the window, in what they do at the border, and in the dynamic range L of the
constants: 1 and 2 are what MATLAB and old scikit-image assume of floating-point pictures, on
whichever scale these are.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, pad

from fusionkit_standard.metrics.base import SmoothScore, average
from fusionkit_standard.metrics.windows import LocalMoments, box, gaussian, local_moments

WINDOW, SIGMA = 11, 1.5  # section III-C of the paper
K1, K2 = 0.01, 0.03
DATA_RANGE = 255.0
SCALE_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)  # finest first; the multi-scale paper


class Window(NamedTuple):
    """How local moments are taken."""

    taps: tuple[float, ...]
    variance_factor: float = 1.0
    repeated_border: bool = False


GAUSSIAN = Window(tuple(gaussian(WINDOW, SIGMA)))
GAUSSIAN_REPEATED = Window(tuple(gaussian(WINDOW, SIGMA)), repeated_border=True)
BOX = Window(tuple(box(7)), variance_factor=49 / 48)


def similarity_parts(moments: LocalMoments, data_range: float) -> tuple[Tensor, Tensor]:
    """Luminance, and contrast times structure, at every place; their product is SSIM."""
    c1, c2 = (K1 * data_range) ** 2, (K2 * data_range) ** 2
    mean, other, variance, variance_other, covariance = moments
    luminance = (2 * mean * other + c1) / (mean.square() + other.square() + c1)
    return luminance, (2 * covariance + c2) / (variance + variance_other + c2)


def similarity_maps(
    fused: Tensor,
    sources: Sequence[Tensor],
    window: Window = GAUSSIAN,
    data_range: float = DATA_RANGE,
) -> list[Tensor]:
    """SSIM with each source at every place of the window, ``(B, h, w)`` each."""
    found = _moments(fused, sources, window)
    return [torch.mul(*similarity_parts(moments, data_range)) for moments in found]


def structural_similarity(
    fused: Tensor,
    sources: Sequence[Tensor],
    window: Window = GAUSSIAN,
    data_range: float = DATA_RANGE,
    weight: Tensor | None = None,
) -> list[Tensor]:
    """Mean SSIM with each source.

    Args:
        fused: ``(B, H, W)`` grey levels 0..255, at least as large as the window.
        sources: As many pictures of that shape as wanted.
        window: Its weights, and whether it lies inside the picture or the border is repeated.
        data_range: L of the constants.
        weight: A weight per pixel; a window has that of its middle.

    Returns:
        One ``(B,)`` per source, in [-1, 1]; 1 where they are equal.
    """
    return [average(m, weight) for m in similarity_maps(fused, sources, window, data_range)]


def multi_scale_similarity(
    fused: Tensor, sources: Sequence[Tensor], weight: Tensor | None = None
) -> list[Tensor]:
    """MS-SSIM with each source: contrast and structure on five scales, luminance on the last.

    Each scale has half the pixels of the one before, averaged 2 x 2; an odd side is first
    lengthened by its first row or column. A negative mean counts as 0.

    Args:
        fused: ``(B, H, W)`` grey levels 0..255, at least 161 x 161.
        sources: As many pictures of that shape as wanted.
        weight: A weight per pixel, averaged along.

    Returns:
        One ``(B,)`` per source, in [0, 1].
    """
    pictures = torch.stack((fused, *sources), 1)
    if weight is not None:
        pictures = torch.cat((pictures, weight[:, None]), 1)
    values = [1.0] * len(sources)
    for scale, power in enumerate(SCALE_WEIGHTS):
        if scale:
            odd = max(side % 2 for side in pictures.shape[-2:])
            framed = pad(pictures, (odd, 0, odd, 0), mode="replicate") if odd else pictures
            pictures = avg_pool2d(framed, 2)
        planes = pictures.unbind(1)
        weight = None if weight is None else planes[-1]
        moments = _moments(planes[0], planes[1 : 1 + len(sources)], GAUSSIAN)
        for i, found in enumerate(moments):
            luminance, structure = similarity_parts(found, DATA_RANGE)
            last = scale == len(SCALE_WEIGHTS) - 1
            mean = average(luminance * structure if last else structure, weight).clamp_min(0)
            values[i] = values[i] * mean**power
    return values


def _moments(fused: Tensor, sources: Sequence[Tensor], window: Window) -> list[LocalMoments]:
    if window.repeated_border:
        r = len(window.taps) // 2
        frame = (r, r, r, r)
        fused, *sources = pad(torch.stack((fused, *sources)), frame, mode="replicate").unbind()
    found = local_moments(fused, sources, window.taps)
    k = window.variance_factor
    if k != 1:
        found = [LocalMoments(m, o, v * k, w * k, c * k) for m, o, v, w, c in found]
    return found


class StructuralSimilarity(SmoothScore):
    """SSIM with the infrared plus SSIM with the visible picture (SSIM).

    A sum, so 2 would be perfect, and reachable only when the sources are equal. Halved in the
    papers that print a mean.
    """

    name = "ssim_g11_valid_sum"
    range = (-2.0, 2.0)
    source = "Wang, Bovik, Sheikh, Simoncelli, IEEE TIP 13(4), 2004"
    variant = "8-bit grey, Gaussian 11 x 11 sigma 1.5, valid area, range 255, sum over sources"
    min_size = WINDOW
    window = GAUSSIAN
    data_range = DATA_RANGE
    join: Callable[..., Tensor] = staticmethod(sum)

    def score(
        self, fused: Tensor, ir: Tensor, vi: Tensor, *, weight: Tensor | None = None
    ) -> Tensor:
        options = (self.window, self.data_range, weight)
        return self.join(structural_similarity(fused, (ir, vi), *options))


def mean_of_two(parts: Sequence[Tensor]) -> Tensor:
    """Half of the sum over two sources."""
    return sum(parts) / 2


class SimilarityBox(StructuralSimilarity):
    """SSIM with a 7 x 7 box and sample variances, summed over the sources."""

    name = "ssim_u7_L255_sum"
    source = "IF-FILM and SMGFusion (scikit-image, data_range=255), after Wang et al., 2004"
    variant = "8-bit grey, box 7 x 7, sample variance, valid area, range 255, sum over sources"
    min_size = 7
    window = BOX


class SimilarityBoxRange2(SimilarityBox):
    """SSIM with a 7 x 7 box and the constants of a range of 2, on pictures 0..255.

    With constants this small, flat noise in place of flat noise counts as a difference: values are
    far below those of a range of 255.
    """

    name = "ssim_u7_L2_sum"
    source = "MMIF-CDDFuse (scikit-image before 0.20 on floats), after Wang et al., 2004"
    variant = "8-bit grey, box 7 x 7, sample variance, valid area, range 2, sum over sources"
    data_range = 2.0


class SimilarityRepeatedBorder(StructuralSimilarity):
    """SSIM as MATLAB's function computes it, mean over the sources."""

    name = "ssim_g11_repl_L255_mean"
    range = (-1.0, 1.0)
    source = "TextFusion (MATLAB), after Wang et al., 2004"
    variant = "8-bit grey, Gaussian 11 x 11 sigma 1.5, repeated border, range 255, mean"
    min_size = 1
    window = GAUSSIAN_REPEATED
    join = staticmethod(mean_of_two)


class SimilarityRepeatedBorderRange1(SimilarityRepeatedBorder):
    """SSIM as MATLAB's function computes it of doubles 0..255, taking their range for 1."""

    name = "ssim_g11_repl_L1_mean"
    source = "Evaluation-for-Image-Fusion (MATLAB on doubles), after Wang et al., 2004"
    variant = "8-bit grey, Gaussian 11 x 11 sigma 1.5, repeated border, range 1, mean"
    data_range = 1.0


class MultiScaleSimilarity(SmoothScore):
    """MS-SSIM with the infrared plus MS-SSIM with the visible picture (MS-SSIM).

    2 would be perfect, and reachable only when the sources are equal.
    """

    name = "ms_ssim"
    range = (0.0, 2.0)
    source = "Wang, Simoncelli, Bovik, Asilomar Conf., 2003"
    variant = "8-bit grey, Gaussian 11 x 11 sigma 1.5, valid area, 5 scales, range 255, sum"
    min_size = 161

    def score(
        self, fused: Tensor, ir: Tensor, vi: Tensor, *, weight: Tensor | None = None
    ) -> Tensor:
        return sum(multi_scale_similarity(fused, (ir, vi), weight))
