"""Affine fusion unit: infrared features weighted by the sentence, then added to the visible ones.

Source: C. Cheng et al., "TextFusion: Unveiling the power of textual semantics for controllable
image fusion", Information Fusion 117 (2025) 102790, and its released code.
"""

from collections.abc import Mapping

from torch import Tensor, nn

from fusionkit.batch import TextFeatures


class AffineFusion(nn.Module):
    r"""Add the infrared map to the visible one, each channel as much as the sentence says.

    .. math:: y = A_v\,\mathrm{ReLU}(C_v v) + (W t) \odot A_r\,\mathrm{ReLU}(C_r r)

    with 1x1 convolutions C (C to 2C channels) and A (back). The paper's unit has as many channels
    as the text has dimensions (512) and multiplies by the text itself; in a network of another
    width a linear map W brings the text to C numbers (``project=True``). There is no gate and
    no softmax, as in the released code. For the ablation each branch has a residual,
    :math:`v + A_v(\cdot)` and :math:`(W t) \odot (r + A_r(\cdot))`; W starts at zero weight and
    unit bias, the A's at zero, so it starts as plain addition like every scheme of the bench.
    ``residual=False`` gives the paper's unit.

    Args:
        channels: C, the depth of the maps.
        text_dim: D, the width of the pooled text.
        project: bring the text to C numbers; False needs C = D, the paper's case.
        residual: start as plain addition.

    Shape:
        - visible, infrared, result: ``(B, C, H, W)``; text.pooled ``(B, D)``
    """

    def __init__(
        self, *, channels: int, text_dim: int, project: bool = True, residual: bool = True
    ) -> None:
        super().__init__()
        if not project and channels != text_dim:
            raise ValueError(
                f"textfusion without projection needs as many channels as the text is wide: "
                f"{channels} channels, text of width {text_dim}."
            )
        self.residual = residual
        self.visible = _branch(channels)
        self.infrared = _branch(channels)
        self.weight = nn.Linear(text_dim, channels) if project else nn.Identity()
        if project:
            nn.init.zeros_(self.weight.weight)
            nn.init.ones_(self.weight.bias)
        if residual:
            nn.init.zeros_(self.visible[-1].weight)
            nn.init.zeros_(self.infrared[-1].weight)

    def forward(
        self,
        visible: Tensor,
        infrared: Tensor,
        text: TextFeatures | None,
        guides: Mapping[str, Tensor],
    ) -> Tensor:
        if text is None:
            raise ValueError(
                "textfusion acts by text, but the batch has none: encode prompts first."
            )
        weight = self.weight(text.pooled.to(visible.dtype))[..., None, None]
        if self.residual:
            added = weight * (infrared + self.infrared(infrared))
            return (visible + self.visible(visible) + added).to(visible.dtype)
        return (self.visible(visible) + weight * self.infrared(infrared)).to(visible.dtype)


def _branch(channels: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(channels, 2 * channels, 1, bias=False),
        nn.ReLU(),
        nn.Conv2d(2 * channels, channels, 1, bias=False),
    )
