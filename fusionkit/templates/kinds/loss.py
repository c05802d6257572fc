"""Nothing that one picture shows brightly may get lost.

Source: write here whose idea it is: authors, title, venue, equation; or "ours".
"""

from torch import Tensor, nn

from fusionkit.batch import Batch, Fused
from fusionkit.color import luma


class Component(nn.Module):
    r"""How much darker the fused picture is than the brighter of its sources.

    .. math:: \overline{\max(0,\; \max(Y_v, Y_r) - Y_f)}

    with the luma Y of the visible, the infrared and the fused picture.
    """

    def forward(self, batch: Batch, fused: Fused) -> dict[str, Tensor]:
        brighter = luma(batch.visible).maximum(batch.infrared)
        return {"component_name": (brighter - luma(fused.image)).relu().mean()}
