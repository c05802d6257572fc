"""How much the grey levels say: entropy of the fused picture, information shared with the sources.

Sources: J. W. Roberts, J. van Aardt, F. Ahmed, "Assessment of image fusion procedures using
entropy, image quality, and multispectral classification", J. Appl. Remote Sens. 2 (2008);
G. Qu, D. Zhang, P. Yan, "Information measure for performance of image fusion", Electronics
Letters 38 (2002).
"""

import math

import torch
from torch import Tensor

from fusionkit_standard.metrics.base import Score

LEVELS = 256


def _entropy_of(cells: Tensor, bins: int) -> Tensor:
    """Entropy in nats of cell numbers ``(B, N)``, all images counted at once."""
    batch, count = cells.shape
    offsets = torch.arange(batch, device=cells.device).unsqueeze(1) * bins
    histogram = torch.bincount((cells + offsets).flatten(), minlength=batch * bins)
    return torch.special.entr(histogram.view(batch, bins).double() / count).sum(1)


def entropy(levels: Tensor) -> Tensor:
    r"""Shannon entropy of the grey-level histogram, :math:`-\sum_k p_k \log_2 p_k`.

    Args:
        levels: ``(B, H, W)`` whole grey levels 0..255.

    Returns:
        ``(B,)`` in bits: 0 for one grey level, 8 when all 256 are equally frequent.

    Example:
        >>> entropy(torch.tensor([[[0.0, 255.0]]]))
        tensor([1.], dtype=torch.float64)
    """
    return _entropy_of(levels.detach().long().flatten(1), LEVELS) / math.log(2)


def mutual_information(first: Tensor, second: Tensor) -> Tensor:
    """What one picture tells about the other, H(X) + H(Y) - H(X, Y), on 256 levels.

    Args:
        first, second: ``(B, H, W)`` whole grey levels 0..255.

    Returns:
        ``(B,)`` in nats: 0 when one of them is constant, the entropy when they are equal.
    """
    x, y = (levels.detach().long().flatten(1) for levels in (first, second))
    joint = _entropy_of(x * LEVELS + y, LEVELS**2)
    shared = _entropy_of(x, LEVELS) + _entropy_of(y, LEVELS) - joint
    return shared.clamp_min(0)  # below 0 only by the last bit


class Entropy(Score):
    """Entropy of the fused picture (EN).

    Higher means more grey levels in use. Noise raises it too: read it next to a fidelity score.
    """

    name = "en"
    higher_is_better = True
    range = (0.0, 8.0)
    unit = "bit"
    source = "Roberts, van Aardt, Ahmed, J. Appl. Remote Sens. 2, 2008"
    variant = "8-bit grey, 256 bins, base 2"
    needs = ("fused",)

    def score(self, fused: Tensor) -> Tensor:
        return entropy(fused)


class MutualInformation(Score):
    """Information the fused picture shares with each source, added (MI).

    In nats; divided by ln 2 it is the number other tools print. 0 for a constant fused picture.
    """

    name = "mi_nats"
    higher_is_better = True
    range = (0.0, 2 * math.log(LEVELS))
    unit = "nat"
    source = "Qu, Zhang, Yan, Electronics Letters 38(7), 2002"
    variant = "8-bit grey, 256 x 256 bins, natural logarithm, sum over sources"

    def score(self, fused: Tensor, ir: Tensor, vi: Tensor) -> Tensor:
        return mutual_information(ir, fused) + mutual_information(vi, fused)
