"""RFC's way of using text, for any network: dense scale and shift from sentence and place.

Source: "Robust Fusion Controller" (RFC), arXiv 2504.05795, and its released code.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d, leaky_relu

from fusionkit.batch import TextFeatures
from fusionkit_rfc.bands import Convolution
from fusionkit_rfc.controller import GRID, Coupling, Functional, resized, response


class DenseModulation(nn.Module):
    r"""A scale and a shift for every channel and pixel, from what to do and where to do it.

    .. math:: y = x \odot (1 + w) + b, \qquad (w, b) = C * \gamma(\alpha(t), \beta(g)), \qquad
              x = v + r

    The sentence t gives a scale and a shift per coupling module, the guides g the spatial condition
    :math:`\beta`; the modules couple both into the prior :math:`\gamma`. As in RFC's network, with
    two differences: its four points share one prior, here every point has its own; and it reads the
    region's features off the guide's small grid, enlarged, where the network first up-samples them
    16 times by transposed convolutions, because points of other networks are seldom at full size.
    In RFC's network the scale acts on the attended features alone.

    Guides are those of ``rfc-regions``; or ``heatmap``, as the map of both pictures without
    features; or none, and then only the sentence speaks.

    Args:
        channels: C, the depth of the maps.
        text_dim: D, the width of the pooled text.
        hidden: channels of the prior; 64 in the paper.
        region: channels of the region's features per modality; 32 in the paper.
        couplings: coupling modules; 3 in the paper.

    Shape:
        - visible, infrared, result: ``(B, C, H, W)``; text.pooled ``(B, D)``
    """

    paper = "RFC: Robust Fusion Controller, AAAI 2026"

    def __init__(
        self,
        *,
        channels: int,
        text_dim: int,
        hidden: int = 32,
        region: int = 8,
        couplings: int = 3,
    ) -> None:
        super().__init__()
        spatial = 2 * region + 2
        self.features = nn.Conv2d(GRID, region, 3, padding=1)
        self.enter = Convolution(spatial, hidden, bias=False)
        self.functional = Functional(text_dim, hidden, couplings)
        self.couple = nn.ModuleList(Coupling(hidden, spatial) for _ in range(couplings))
        self.affine = Convolution(hidden, 2 * channels, bias=False)
        nn.init.zeros_(self.affine.weight)

    def forward(
        self,
        visible: Tensor,
        infrared: Tensor,
        text: TextFeatures | None,
        guides: Mapping[str, Tensor],
    ) -> Tensor:
        if text is None:
            raise ValueError("rfc acts by text, but the batch has none: encode prompts first.")
        x = visible + infrared
        scale, shift = self.affine(self.prior(text, guides, x)).chunk(2, 1)
        return (torch.addcmul(x, x, scale.to(x.dtype)) + shift).to(x.dtype)

    def prior(self, text: TextFeatures, guides: Mapping[str, Tensor], like: Tensor) -> Tensor:
        """gamma, ``(B, hidden, H, W)`` at the size of ``like``."""
        size, count = tuple(like.shape[-2:]), len(like)
        maps, grids = (g.to(self.features.weight.dtype) for g in response(guides, like))
        features = grids.unflatten(1, (2, -1)).flatten(0, 1)  # (B 2) 64 h w
        features = leaky_relu(conv2d(features, self.features.weight, self.features.bias, padding=1))
        features = resized(features, size).unflatten(0, (count, 2)).flatten(1, 2)
        beta = torch.cat([features, resized(maps, size).to(features.dtype)], 1)
        scale, shift = self.functional(text.expand(count).pooled)
        m = self.enter(beta).tanh()
        for i, module in enumerate(self.couple):
            m = module(m, beta, scale[i], shift[i])
        return m
