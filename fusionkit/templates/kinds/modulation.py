"""The sentence decides how much infrared enters each channel.

Source: write here whose idea it is: authors, title, venue, equation; or "ours".
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from fusionkit.batch import TextFeatures


class Component(nn.Module):
    r"""A gate per channel on the infrared map.

    .. math:: y = v + 2\,\sigma(W t) \odot r

    W starts at zero, so the scheme starts as the plain sum, like the bundled ones: what it adds is
    what it learned.

    Args:
        channels: C, the depth of the maps.
        text_dim: D, the width of the sentence.

    Shape:
        - visible v, infrared r, result: ``(B, C, H, W)``; text.pooled t: ``(B, D)``
    """

    starts_as_sum = True

    def __init__(self, *, channels: int, text_dim: int) -> None:
        super().__init__()
        self.gate = nn.Linear(text_dim, channels)
        nn.init.zeros_(self.gate.weight)
        nn.init.zeros_(self.gate.bias)

    def forward(
        self,
        visible: Tensor,
        infrared: Tensor,
        text: TextFeatures | None,
        guides: Mapping[str, Tensor],
    ) -> Tensor:
        if text is None:
            raise ValueError("component-name acts by text, but the batch has none.")
        gate = 2 * torch.sigmoid(self.gate(text.pooled.to(visible.dtype)))
        return (visible + gate[..., None, None] * infrared).to(visible.dtype)
