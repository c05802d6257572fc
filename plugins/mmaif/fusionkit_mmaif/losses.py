"""The auxiliary loss in the picture."""

import torch
from torch import Tensor, nn

from fusionkit.batch import Batch, Fused


class Sources(nn.Module):
    r"""Distance of the fused picture to both clean sources, in values and in differences.

    .. math:: \sum_i |X - X_i|_1 + |\nabla X - \nabla X_i|_1

    with forward differences in both directions and means over pixels. Source: the auxiliary loss of
    MMAIF (ICCV 2025), as far as it is known.

    The clean sources are the batch's targets ``visible`` and ``infrared``, else its pictures.
    """

    paper = "MMAIF, ICCV 2025, arXiv 2503.14944"

    def forward(self, batch: Batch, fused: Fused) -> dict[str, Tensor]:
        total = 0.0
        for side in ("visible", "infrared"):
            apart = fused.image - batch.targets.get(side, getattr(batch, side))
            # The gradient is linear: the gradient of the difference is that of the gradients.
            slopes = sum(torch.diff(apart, dim=dim).abs().mean() for dim in (-1, -2))
            total = total + apart.abs().mean() + slopes
        return {"aux": total}
