"""Scores that weigh contrasts as the eye does: Chen-Blum, Chen-Varshney, Yang.

Sources: Y. Chen, R. S. Blum, "A new automated quality assessment algorithm for image fusion", Image
and Vision Computing 27 (2009); H. Chen, P. K. Varshney, "A human perception inspired quality metric
for image fusion based on regional information", Information Fusion 8 (2007); C. Yang, J. Zhang,
X. Wang, X. Liu, "A novel similarity based quality metric for image fusion", Information Fusion 9
(2008). Constants and borders of the first two are those of VIFB's programs.
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import pad

from fusionkit_standard.metrics.base import SmoothScore, average, ratio, rounded, safe_sqrt
from fusionkit_standard.metrics.gradient import sobel
from fusionkit_standard.metrics.structure import BOX, DATA_RANGE, similarity_parts
from fusionkit_standard.metrics.windows import gaussian, local_moments, slide

BLOCK = 16


def stretched(levels: Tensor, *, quantise: bool = True) -> Tensor:
    """Each picture stretched to 0..255 by its own extremes and rounded half up; NaN if constant."""
    low, high = levels.amin((-2, -1), keepdim=True), levels.amax((-2, -1), keepdim=True)
    wide = 255 * ratio(levels - low, (high - low).expand_as(levels))
    return rounded((wide.detach() + 0.5).floor(), wide) if quantise else wide


def radial_filter(
    picture: Tensor, response: Callable[[Tensor], Tensor], per_row: float, per_column: float
) -> Tensor:
    """The picture through a filter of radial frequency, ``(B, H, W)``, wrapped at the border.

    A frequency of 1 is one alternation per two pixels times ``per_row`` (down) or ``per_column``.
    """
    height, width = picture.shape[-2:]
    options = {"device": picture.device, "dtype": picture.dtype}
    down = torch.fft.fftfreq(height, **options)[:, None] * 2 * per_row
    along = torch.fft.rfftfreq(width, **options)[None] * 2 * per_column
    spectrum = torch.fft.rfft2(picture) * response((down.square() + along.square()).sqrt())
    return torch.fft.irfft2(spectrum, s=(height, width))


def chen_blum_response(r: Tensor) -> Tensor:
    """Contrast sensitivity as a difference of Gaussians; section 3.1 of the paper."""
    return (-((r / 15.387) ** 2)).exp() - 0.7622 * (-((r / 1.3456) ** 2)).exp()


def mannos_response(r: Tensor) -> Tensor:
    """Contrast sensitivity of Mannos and Sakrison."""
    return 2.6 * (0.0192 + 0.144 * r) * (-((0.144 * r) ** 1.1)).exp()


def _masked_contrast(levels: Tensor) -> Tensor:
    """Contrast between two blurs, pressed down where it is weak."""
    height, width = levels.shape[-2:]
    seen = radial_filter(levels, chen_blum_response, height / 30, width / 30)
    framed = pad(seen, (15, 15, 15, 15))
    fine, coarse = (slide(framed, _bell(sigma)) for sigma in (2.0, 4.0))
    contrast = (fine / coarse - 1).abs()
    return contrast**3 / (contrast.square() + 1e-4)


def _bell(sigma: float) -> list[float]:
    """31 samples of a Gaussian density: their sum falls short of 1 by its tails."""
    return [s / (sigma * (2 * torch.pi) ** 0.5) for s in _unscaled(sigma)]


def _unscaled(sigma: float) -> list[float]:
    taps = gaussian(31, sigma)
    return [tap / taps[15] for tap in taps]


def chen_blum(
    fused: Tensor, ir: Tensor, vi: Tensor, weight: Tensor | None = None, *, quantise: bool = True
) -> Tensor:
    """Contrast kept, weighted by which source has it, ``(B, H, W)`` grey levels -> ``(B,)``."""
    kept = _masked_contrast(stretched(fused, quantise=quantise))
    masked = [_masked_contrast(stretched(source, quantise=quantise)) for source in (ir, vi)]
    shares = [torch.minimum(m, kept) / torch.maximum(m, kept) for m in masked]
    pulls = [m.square() for m in masked]
    joined = (pulls[0] * shares[0] + pulls[1] * shares[1]) / (pulls[0] + pulls[1])
    return average(joined, weight)


def chen_varshney(
    fused: Tensor, ir: Tensor, vi: Tensor, weight: Tensor | None = None, *, quantise: bool = True
) -> Tensor:
    """Visible difference from each source by blocks, weighted by its edges, ``(B,)``."""
    fused = stretched(fused, quantise=quantise)
    height, width = fused.shape[-2:]
    # The last blocks reach over the edge: their mean weight is that of their pixels.
    importance = None if weight is None else _blocks(weight) / _blocks(torch.ones_like(weight))
    found = whole = 0.0
    for source in (ir, vi):
        source = stretched(source, quantise=quantise)
        x, y = sobel(source, "constant")
        salience = _blocks(safe_sqrt(x.square() + y.square()) ** 5)
        if importance is not None:
            salience = salience * importance
        seen = radial_filter(source - fused, mannos_response, height / 8, width / 8)
        found = found + (salience * _blocks(seen.square())).sum((-2, -1))
        whole = whole + salience.sum((-2, -1))
    return ratio(found, whole)


def _blocks(values: Tensor) -> Tensor:
    """Means of 16 x 16 blocks, the last ones filled up with zeros."""
    height, width = values.shape[-2:]
    framed = pad(values, (0, -width % BLOCK, 0, -height % BLOCK))
    return torch.nn.functional.avg_pool2d(framed[:, None], BLOCK)[:, 0]


def yang(fused: Tensor, ir: Tensor, vi: Tensor, weight: Tensor | None = None) -> Tensor:
    """Similarity with both sources where these agree, with the more similar one elsewhere."""
    parts = local_moments(fused, (ir, vi), BOX.taps)
    (between,) = local_moments(ir, (vi,), BOX.taps)
    similar = [torch.mul(*similarity_parts(m, DATA_RANGE)) for m in parts]
    agree = torch.mul(*similarity_parts(between, DATA_RANGE)) >= 0.75
    spread = [m.variance_other.clamp_min(0) for m in parts]
    both = spread[0] + spread[1]
    share = torch.where(both > 0, spread[0] / torch.where(both > 0, both, 1.0), 0.5)
    mixed = share * similar[0] + (1 - share) * similar[1]
    return average(torch.where(agree, mixed, torch.maximum(*similar)), weight)


class ChenBlum(SmoothScore):
    """Local contrast kept in the fused picture (Q_CB).

    Undefined, hence NaN, when one of the three pictures is constant.
    """

    name = "qcb"
    range = (0.0, 1.0)
    source = "Chen, Blum, Image and Vision Computing 27(10), 2009"
    variant = "8-bit grey, each picture stretched, frequency domain, as in VIFB"

    def score(
        self, fused: Tensor, ir: Tensor, vi: Tensor, *, weight: Tensor | None = None
    ) -> Tensor:
        return chen_blum(fused, ir, vi, weight, quantise=self.quantise)


class ChenVarshney(SmoothScore):
    """Visible difference from the sources where these have edges (Q_CV). Lower is better.

    Undefined, hence NaN, when one of the three pictures is constant.
    """

    name = "qcv"
    higher_is_better = False
    range = (0.0, float("inf"))
    unit = "grey level squared"
    source = "Chen, Varshney, Information Fusion 8(2), 2007"
    variant = "8-bit grey, each picture stretched, blocks of 16, frequency domain, as in VIFB"

    def score(
        self, fused: Tensor, ir: Tensor, vi: Tensor, *, weight: Tensor | None = None
    ) -> Tensor:
        return chen_varshney(fused, ir, vi, weight, quantise=self.quantise)


class Yang(SmoothScore):
    """Structural similarity with the sources where they agree, with the nearer one elsewhere (Q_Y).

    After the paper; programs in circulation differ, and none served as a reference.
    """

    name = "qy"
    range = (-1.0, 1.0)
    source = "Yang, Zhang, Wang, Liu, Information Fusion 9(2), 2008"
    variant = "8-bit grey, box 7 x 7, valid area, range 255; not checked against a program"
    min_size = 7

    def score(
        self, fused: Tensor, ir: Tensor, vi: Tensor, *, weight: Tensor | None = None
    ) -> Tensor:
        return yang(fused, ir, vi, weight)
