"""Visual information fidelity: how much of what a source tells the eye is still in the picture.

Pixel-domain version on four scales, the one fusion papers print as VIF or VIFF.

Source: H. R. Sheikh, A. C. Bovik, "Image information and visual quality", IEEE Trans. Image
Processing 15 (2006), and the authors' pixel-domain implementation.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from fusionkit_standard.metrics.base import SmoothScore
from fusionkit_standard.metrics.windows import LocalMoments, gaussian, local_moments, slide

WINDOWS = (17, 9, 5, 3)  # one per scale, sigma a fifth of it
EYE_NOISE = 2.0  # variance of the visual channel's own noise, in grey levels squared
TINY = 1e-10


def _information(moments: LocalMoments) -> tuple[Tensor, Tensor]:
    """Information kept and information there was at one scale, summed over places, ``(B,)`` each.

    The fused picture is modelled locally as gain x source + noise.
    """
    fused = moments.variance.clamp_min(0)
    source = moments.variance_other.clamp_min(0)
    gain = moments.covariance / (source + TINY)
    noise = fused - gain * moments.covariance
    flat_source, flat_fused = source < TINY, fused < TINY
    lost = flat_source | flat_fused | (gain < 0)
    gain = torch.where(lost, 0.0, gain)
    noise = torch.where(flat_fused, 0.0, torch.where(lost, fused, noise)).clamp_min(TINY)
    source = torch.where(flat_source, 0.0, source)
    kept = torch.log1p(gain.square() * source / (noise + EYE_NOISE))
    there = torch.log1p(source / EYE_NOISE)
    return kept.sum((-2, -1)), there.sum((-2, -1))


def visual_information_fidelity(fused: Tensor, sources: Sequence[Tensor]) -> list[Tensor]:
    """Information of each source kept in the fused picture, as a share of what there was.

    Args:
        fused: ``(B, H, W)`` grey levels 0..255, at least 41 x 41.
        sources: As many pictures of that shape as wanted. Fused and source are not exchangeable.

    Returns:
        One ``(B,)`` per source: 0 nothing, 1 all of it, above 1 where contrast was amplified.
        NaN for a constant source, which has no information to keep.
    """
    pictures = torch.stack((fused, *sources))
    kept: list[Tensor] = [fused.new_zeros(len(fused)) for _ in sources]
    there = list(kept)
    for scale, size in enumerate(WINDOWS):
        taps = gaussian(size, size / 5)
        if scale:
            pictures = slide(pictures, taps, stride=2)
        for i, moments in enumerate(local_moments(pictures[0], tuple(pictures[1:]), taps)):
            more_kept, more_there = _information(moments)
            kept[i], there[i] = kept[i] + more_kept, there[i] + more_there
    return [
        torch.where(t > 0, k / torch.where(t > 0, t, 1.0), torch.nan)
        for k, t in zip(kept, there, strict=True)
    ]


class InformationFidelity(SmoothScore):
    """Visual information fidelity towards the infrared plus that towards the visible picture (VIF).

    Amplified contrast counts as fidelity and lifts each part above 1. Undefined, hence NaN, when a
    source is constant.
    """

    name = "vif_sum"
    higher_is_better = True
    range = (0.0, float("inf"))
    unit = ""
    source = "Sheikh, Bovik, IEEE TIP 15(2), 2006"
    variant = "8-bit grey, pixel domain, 4 scales, noise variance 2, float64, sum over sources"
    min_size = 41

    def score(self, fused: Tensor, ir: Tensor, vi: Tensor) -> Tensor:
        return sum(visual_information_fidelity(fused, (ir, vi)))
