"""``adain-style``: LDFusion's style codes as a scheme of the bench, with the sentence among them.

LDFusion's own network reads no text. What it has is a point where codes set the statistics of
features: the style of each picture becomes shift and scale of adaptive instance normalisation.
Letting a sentence join those codes is our extension, for the ablation; the paper does not do it.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from fusionkit.batch import TextFeatures
from fusionkit_ldfusion.layers import instance_norm


class AdainStyle(nn.Module):
    r"""Statistics of the merged features, set by the styles of both streams and by the sentence.

    .. math:: y = x + \gamma \odot \frac{x - \mu(x)}{\sigma(x)} + \beta, \qquad x = v + r, \qquad
              (\beta, \gamma) = \mathrm{MLP}\big(s(v), s(r), t\big)

    A style s is the global mean of a stream behind a 1x1 convolution, as the last layers of
    LDFusion's style encoder. The residual form lets it start as plain addition, like every scheme
    of the bench (the last layer starts at zero); ``residual=False`` drops the x and gives the
    layer of LDFusion, :math:`y = (1 + \gamma) \odot (\cdot) + \beta`.

    Source: the style branch of Y. Wang et al., ACM MM 2025 (arXiv 2402.16267), released code; AdaIN
    of X. Huang, S. Belongie, ICCV 2017, eq. 8. The text input is ours.

    Args:
        channels: C, the depth of the maps.
        text_dim: D, the width of the pooled text.
        style: width of one stream's style code.
        hidden: width of the two hidden layers.
        residual: start as plain addition.

    Shape:
        - visible, infrared, result: ``(B, C, H, W)``; text.pooled ``(B, D)``
    """

    starts_as_sum = True

    def __init__(
        self,
        *,
        channels: int,
        text_dim: int,
        style: int = 8,
        hidden: int = 256,
        residual: bool = True,
    ) -> None:
        super().__init__()
        self.residual = residual
        self.visible_style = nn.Linear(channels, style)
        self.infrared_style = nn.Linear(channels, style)
        self.to_affine = nn.Sequential(
            nn.Linear(2 * style + text_dim, hidden),
            nn.ReLU(),
            nn.Linear(hidden, hidden),
            nn.ReLU(),
            nn.Linear(hidden, 2 * channels),
        )
        nn.init.zeros_(self.to_affine[-1].weight)
        nn.init.zeros_(self.to_affine[-1].bias)

    def forward(
        self,
        visible: Tensor,
        infrared: Tensor,
        text: TextFeatures | None,
        guides: Mapping[str, Tensor],
    ) -> Tensor:
        if text is None:
            raise ValueError(
                "adain-style acts by text, but the batch has none: encode prompts first."
            )
        styles = (
            self.visible_style(visible.mean((2, 3))),
            self.infrared_style(infrared.mean((2, 3))),
            text.pooled.to(visible.dtype),
        )
        shift, scale = self.to_affine(torch.cat(styles, 1)).to(visible.dtype).chunk(2, 1)
        x = visible + infrared
        if self.residual:
            return x + instance_norm(x, shift, scale).to(x.dtype)
        return instance_norm(x, shift, 1 + scale).to(x.dtype)
