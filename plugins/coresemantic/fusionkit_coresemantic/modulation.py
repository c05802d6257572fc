"""Text as weights on fused features, and the three other ways of the ablation.

Source: the published description of "Infrared and visible image fusion based on text-image
core-semantic alignment and interaction", Digital Signal Processing, 2025: CLIP's text, a
perceptron, weights on fused features. The form of each mode is ours: no text of the paper and no
code was at hand.
"""

from collections.abc import Mapping
from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn.functional import (
    adaptive_avg_pool2d,
    gelu,
    interpolate,
    scaled_dot_product_attention,
)

from fusionkit.batch import TextFeatures

Mode = Literal["weight", "affine", "add", "cross"]
GRID = 8
"""Side of the map whose places ask the words in mode ``cross``."""


class TextWeights(nn.Module):
    r"""The sentence re-weights the channels of the fused map.

    .. math:: x = v + r, \qquad h = \mathrm{GELU}(W_1 t), \qquad (a, b) = W_2 h

    * ``weight`` (the method's own): :math:`y = x + x \odot \tanh a`
    * ``affine``: :math:`y = x \odot (1 + a) + b`
    * ``add``: :math:`y = x + b`
    * ``cross``: x, pooled to 8x8 places, asks the words in one attention; the answer is enlarged
      and added

    No layer has a bias and the last one starts at zero: a text of zeros, which is no text, leaves
    the sum as it is whatever was learned, and so does any text before training.

    Args:
        channels: C, the depth of the maps.
        text_dim: D, the width of the text.
        mode: see above.
        hidden: width of h; of the attention, a quarter.

    Shape:
        - visible, infrared, result: ``(B, C, H, W)``; text.pooled ``(B or 1, D)``, for ``cross``
          text.tokens ``(B or 1, L, D)``, without tokens the pooled vector as the only one. No text
          at all is a text of zeros.
    """

    paper = "Core-semantic alignment and interaction, Digital Signal Processing, 2025"
    starts_as_sum = True

    def __init__(
        self, *, channels: int, text_dim: int, mode: Mode = "weight", hidden: int = 256
    ) -> None:
        super().__init__()
        if mode not in get_args(Mode):
            raise ValueError(f"mode is one of {', '.join(get_args(Mode))}, not {mode!r}.")
        self.mode = mode
        if mode == "cross":
            width = max(1, hidden // 4)
            self.query = nn.Linear(channels, width, bias=False)
            self.key_value = nn.Linear(text_dim, 2 * width, bias=False)
            self.head = nn.Linear(width, channels, bias=False)
        else:
            self.trunk = nn.Linear(text_dim, hidden, bias=False)
            outputs = 2 * channels if mode == "affine" else channels
            self.head = nn.Linear(hidden, outputs, bias=False)
        nn.init.zeros_(self.head.weight)

    def forward(
        self,
        visible: Tensor,
        infrared: Tensor,
        text: TextFeatures | None,
        guides: Mapping[str, Tensor],
    ) -> Tensor:
        x = visible + infrared
        if text is None:
            return x
        text = text.expand(len(x))
        if self.mode == "cross":
            return (x + self._answers(x, text)).to(x.dtype)
        told = self.head(gelu(self.trunk(text.pooled.to(self.trunk.weight.dtype))))
        told = told.to(x.dtype)[..., None, None]
        if self.mode == "weight":
            return torch.addcmul(x, x, told.tanh())
        if self.mode == "add":
            return x + told
        scale, shift = told.chunk(2, 1)
        return torch.addcmul(x, x, scale) + shift

    def _answers(self, x: Tensor, text: TextFeatures) -> Tensor:
        """What the words say to each place, ``(B, C, H, W)``."""
        tokens = text.pooled[:, None] if text.tokens is None else text.tokens
        mask = None if text.tokens is None or text.mask is None else text.mask[:, None]
        places = adaptive_avg_pool2d(x, GRID).flatten(2).mT  # B 64 C
        queries = self.query(places)
        keys, values = self.key_value(tokens.to(self.key_value.weight.dtype)).chunk(2, -1)
        found = scaled_dot_product_attention(
            queries, keys.to(queries.dtype), values.to(queries.dtype), attn_mask=mask
        )
        grid = self.head(found).mT.unflatten(2, (GRID, GRID))
        return interpolate(
            grid.to(x.dtype), tuple(x.shape[-2:]), mode="bilinear", align_corners=False
        )
