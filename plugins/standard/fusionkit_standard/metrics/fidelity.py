"""Visual information fidelity: how much of what a source tells the eye is still in the picture.

Pixel-domain version on four scales, the one fusion papers print as VIF or VIFF.

Source: H. R. Sheikh, A. C. Bovik, "Image information and visual quality", IEEE Trans. Image
Processing 15 (2006), and the authors' pixel-domain implementation.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from fusionkit_standard.metrics.base import SmoothScore, ratio, total
from fusionkit_standard.metrics.windows import LocalMoments, gaussian, local_moments, slide

WINDOWS = (17, 9, 5, 3)  # one per scale, sigma a fifth of it
EYE_NOISE = 2.0  # variance of the visual channel's own noise, in grey levels squared
TINY = 1e-10


def _information(moments: LocalMoments, weight: Tensor | None) -> tuple[Tensor, Tensor]:
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
    return total(kept, weight), total(there, weight)


def visual_information_fidelity(
    fused: Tensor,
    sources: Sequence[Tensor],
    weight: Tensor | None = None,
    *,
    top: float | None = None,
) -> list[Tensor]:
    """Information of each source kept in the fused picture, as a share of what there was.

    Args:
        fused: ``(B, H, W)`` grey levels 0..255, at least 41 x 41.
        sources: As many pictures of that shape as wanted. Fused and source are not exchangeable.
        weight: A weight per pixel, sampled along to every scale.
        top: Where products of two pixels end on the first scale.

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
            if weight is not None:
                r = size // 2
                weight = weight[:, r : weight.shape[1] - r : 2, r : weight.shape[2] - r : 2]
        limit = None if scale else top
        found = local_moments(pictures[0], tuple(pictures[1:]), taps, top=limit)
        for i, moments in enumerate(found):
            more_kept, more_there = _information(moments, weight)
            kept[i], there[i] = kept[i] + more_kept, there[i] + more_there
    return [ratio(k, t) for k, t in zip(kept, there, strict=True)]


class InformationFidelity(SmoothScore):
    """Visual information fidelity towards the infrared plus that towards the visible picture (VIF).

    Amplified contrast counts as fidelity and lifts each part above 1. Undefined, hence NaN, when a
    source is constant.
    """

    name = "vif_sum"
    range = (0.0, float("inf"))
    source = "Sheikh, Bovik, IEEE TIP 15(2), 2006"
    variant = "8-bit grey, pixel domain, 4 scales, noise variance 2, float64, sum over sources"
    min_size = 41

    def score(
        self, fused: Tensor, ir: Tensor, vi: Tensor, *, weight: Tensor | None = None
    ) -> Tensor:
        return sum(visual_information_fidelity(fused, (ir, vi), weight))


class SaturatedFidelity(InformationFidelity):
    """VIF of 8-bit matrices, whose products end at 255 on the first scale.

    A slip of an old tool; needed to compare with the tables it made. The first scale then says next
    to nothing.
    """

    name = "vif_uint8_sum"
    source = "Evaluation-for-Image-Fusion, published table of nine methods on TNO"
    variant = "8-bit grey, pixel domain, products of scale 1 saturate at 255, sum over sources"
    differentiable = False

    def __init__(self, *, colour: str = "grey") -> None:
        super().__init__(colour=colour)

    @torch.no_grad()
    def score(
        self, fused: Tensor, ir: Tensor, vi: Tensor, *, weight: Tensor | None = None
    ) -> Tensor:
        return sum(visual_information_fidelity(fused, (ir, vi), weight, top=255.0))
