"""How much the grey levels say: entropy of the fused picture, information shared with the sources.

Sources: J. W. Roberts, J. van Aardt, F. Ahmed, "Assessment of image fusion procedures using
entropy, image quality, and multispectral classification", J. Appl. Remote Sens. 2 (2008);
G. Qu, D. Zhang, P. Yan, "Information measure for performance of image fusion", Electronics
Letters 38 (2002); M. Hossny, S. Nahavandi, D. Creighton, "Comments on 'Information measure for
performance of image fusion'", Electronics Letters 44 (2008); D. M. Bulanon, T. F. Burks,
V. Alchanatis, "Image fusion of visible and thermal images for fruit detection", Biosystems
Engineering 103 (2009) for the cross entropy.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from fusionkit_standard.metrics.base import Score, ratio

LEVELS = 256
LN2 = math.log(2)
SMALLEST = 1e-300  # where a logarithm of 0 would be multiplied by 0


def _frequencies(cells: Tensor, bins: int, weight: Tensor | None) -> Tensor:
    """Relative frequency of cell numbers ``(B, N)`` -> ``(B, bins)``, all images counted at once.

    Example:
        >>> _frequencies(torch.tensor([[0, 1, 1, 1]]), 3, None)
        tensor([[0.2500, 0.7500, 0.0000]], dtype=torch.float64)
    """
    batch, count = cells.shape
    if batch > 1:
        cells = cells + torch.arange(batch, device=cells.device).unsqueeze(1) * bins
    if weight is not None:
        weight = weight.flatten(1) / weight.sum((-2, -1))[:, None]
        return torch.bincount(cells.flatten(), weight.flatten(), batch * bins).view(batch, bins)
    histogram = torch.bincount(cells.flatten(), minlength=batch * bins).view(batch, bins)
    return histogram.double() / count


def _entropy_of(frequencies: Tensor) -> Tensor:
    """Entropy in nats of ``(B, bins)``."""
    # Several times as fast as entr, which takes logarithms one by one.
    return 0.0 - (frequencies * frequencies.clamp_min(SMALLEST).log()).sum(1)  # and never -0


def _cells(levels: Tensor) -> Tensor:
    return levels.detach().to(torch.int64).flatten(1)


def entropy(levels: Tensor, weight: Tensor | None = None) -> Tensor:
    r"""Shannon entropy of the grey-level histogram, :math:`-\sum_k p_k \log_2 p_k`.

    Args:
        levels: ``(B, H, W)`` whole grey levels 0..255.
        weight: What each pixel adds to the histogram; 1 if None.

    Returns:
        ``(B,)`` in bits: 0 for one grey level, 8 when all 256 are equally frequent.

    Example:
        >>> entropy(torch.tensor([[[0.0, 255.0]]]))
        tensor([1.], dtype=torch.float64)
    """
    return _entropy_of(_frequencies(_cells(levels), LEVELS, weight)) / LN2


class Shared(NamedTuple):
    """Two pictures as sources of information, each ``(B,)`` in nats."""

    mutual: Tensor
    entropy: Tensor
    entropy_other: Tensor


def shared_information(
    first: Tensor, second: Tensor, weight: Tensor | None = None, *, top: int = LEVELS - 1
) -> Shared:
    """What one picture tells about the other, H(X) + H(Y) - H(X, Y), with H(X) and H(Y).

    Args:
        first, second: ``(B, H, W)`` whole grey levels 0..255.
        weight: What each pixel adds to the histograms; 1 if None.
        top: The highest level the joint histogram tells apart; those above count as it.

    Returns:
        Mutual information: 0 when one of them is constant, the entropy when they are equal.
    """
    x, y = _cells(first), _cells(second)
    joint = _frequencies(x * LEVELS + y, LEVELS**2, weight).view(-1, LEVELS, LEVELS)
    h_x, h_y = _entropy_of(joint.sum(2)), _entropy_of(joint.sum(1))
    if top < LEVELS - 1:
        for axis in (1, 2):
            kept, rest = joint.split((top, LEVELS - top), axis)
            joint = torch.cat((kept, rest.sum(axis, keepdim=True)), axis)
    mutual = h_x + h_y - _entropy_of(joint.flatten(1))
    return Shared(mutual.clamp_min(0), h_x, h_y)  # below 0 only by the last bit


def mutual_information(first: Tensor, second: Tensor, weight: Tensor | None = None) -> Tensor:
    """The first part of :func:`shared_information`."""
    return shared_information(first, second, weight).mutual


def cross_entropy(source: Tensor, fused: Tensor, weight: Tensor | None = None) -> Tensor:
    """Sum over grey levels of p_source log2(p_source / p_fused), ``(B, H, W)`` each -> ``(B,)``.

    Levels that one of the two lacks are left out, so the value can be negative.
    """
    p = _frequencies(_cells(source), LEVELS, weight)
    q = _frequencies(_cells(fused), LEVELS, weight)
    both = (p > 0) & (q > 0)
    terms = p * (torch.where(both, p, 1.0) / torch.where(both, q, 1.0)).log2()
    return terms.sum(1)


class Entropy(Score):
    """Entropy of the fused picture (EN).

    Higher means more grey levels in use. Noise raises it too: read it next to a fidelity score.
    """

    name = "en"
    range = (0.0, 8.0)
    unit = "bit"
    source = "Roberts, van Aardt, Ahmed, J. Appl. Remote Sens. 2, 2008"
    variant = "8-bit grey, 256 bins, base 2"
    needs = ("fused",)

    def score(self, fused: Tensor, *, weight: Tensor | None = None) -> Tensor:
        return entropy(fused, weight)


class MutualInformation(Score):
    """Information the fused picture shares with each source, added (MI).

    In nats; divided by ln 2 it is the number other tools print. 0 for a constant fused picture.
    """

    name = "mi_nats"
    range = (0.0, 2 * math.log(LEVELS))
    unit = "nat"
    source = "Qu, Zhang, Yan, Electronics Letters 38(7), 2002"
    variant = "8-bit grey, 256 x 256 bins, natural logarithm, sum over sources"
    top = LEVELS - 1
    scale = 1.0

    def score(
        self, fused: Tensor, ir: Tensor, vi: Tensor, *, weight: Tensor | None = None
    ) -> Tensor:
        parts = [shared_information(s, fused, weight, top=self.top).mutual for s in (ir, vi)]
        return sum(parts) / self.scale


class MutualInformationBits(MutualInformation):
    """MI in bits."""

    name = "mi_bits"
    range = (0.0, 16.0)
    unit = "bit"
    variant = "8-bit grey, 256 x 256 bins, base 2, sum over sources"
    scale = LN2


class MutualInformationMerged(MutualInformationBits):
    """MI in bits where the joint histogram takes level 255 for 254.

    An index one too high that ends at 255; up to a hundredth off on bright pictures.
    """

    name = "mi_bits_sat254"
    range = (0.0, 18.0)
    source = "Evaluation-for-Image-Fusion, after Qu, Zhang, Yan, 2002"
    variant = "8-bit grey, base 2, levels 254 and 255 share a bin of the joint histogram, sum"
    top = LEVELS - 2


class NormalisedMutualInformation(Score):
    """MI with each part over the mean entropy of its two pictures (Q_MI of Hossny).

    Undefined, hence NaN, when the fused picture and a source are constant.
    """

    name = "q_mi"
    range = (0.0, 2.0)
    source = "Hossny, Nahavandi, Creighton, Electronics Letters 44(18), 2008"
    variant = "8-bit grey, 256 x 256 bins, 2 [MI_A/(H_A+H_F) + MI_B/(H_B+H_F)]"

    def score(
        self, fused: Tensor, ir: Tensor, vi: Tensor, *, weight: Tensor | None = None
    ) -> Tensor:
        parts = [shared_information(source, fused, weight) for source in (ir, vi)]
        return sum(ratio(2 * mutual, h + h_fused) for mutual, h, h_fused in parts)


class MutualInformationPerSourceEntropy(Score):
    """MI over the mean entropy of the sources (NMI of IVIF_ZOO).

    Undefined, hence NaN, when both sources are constant.
    """

    name = "nmi_zoo"
    range = (0.0, 4.0)
    source = "IVIF_ZOO"
    variant = "8-bit grey, 256 x 256 bins, 2 (MI_A+MI_B)/(H_A+H_B)"

    def score(
        self, fused: Tensor, ir: Tensor, vi: Tensor, *, weight: Tensor | None = None
    ) -> Tensor:
        parts = [shared_information(source, fused, weight) for source in (ir, vi)]
        return ratio(2 * sum(p.mutual for p in parts), sum(p.entropy for p in parts))


class CrossEntropy(Score):
    """How differently grey levels are distributed in the fused picture and its sources (CE).

    Lower is better. Levels that one picture lacks are left out, so it can fall below 0, and a
    picture that shares no level with its sources scores a perfect 0.
    """

    name = "ce"
    higher_is_better = False
    range = (-1 / (math.e * LN2), math.inf)
    unit = "bit"
    source = "VIFB; Bulanon, Burks, Alchanatis, Biosystems Engineering 103(1), 2009"
    variant = "8-bit grey, 256 bins, base 2, levels in both pictures, mean over sources"

    def score(
        self, fused: Tensor, ir: Tensor, vi: Tensor, *, weight: Tensor | None = None
    ) -> Tensor:
        return (cross_entropy(ir, fused, weight) + cross_entropy(vi, fused, weight)) / 2
