"""A fusion network of three convolutions with one point where text meets features.

Source: write here whose network it is: authors, title, venue, figure; or "ours".
"""

import torch
from torch import nn

from fusionkit.batch import Batch, Fused
from fusionkit.protocols import BuildModulation


class Component(nn.Module):
    """A stem per picture, a modulation that merges them, a convolution back to colour.

    Args:
        modulation: builds the module for the text point; None is this network's own scheme, which
            is the plain sum.
        text_dim: D, the width of the text.
        width: channels of the features.

    Shape:
        - visible ``(B, 3, H, W)``, infrared ``(B, 1, H, W)`` -> ``(B, 3, H, W)``, any size
    """

    modulation_points = ("merge",)
    layers = ("merge",)
    uses_text = False

    def __init__(
        self,
        *,
        modulation: BuildModulation | None = None,
        text_dim: int | None = None,
        width: int = 16,
    ) -> None:
        super().__init__()
        self.visible_stem = nn.Conv2d(3, width, 3, padding=1, padding_mode="reflect")
        self.infrared_stem = nn.Conv2d(1, width, 3, padding=1, padding_mode="reflect")
        self.merge = Sum() if modulation is None else modulation(width)
        self.out = nn.Conv2d(width, 3, 3, padding=1, padding_mode="reflect")

    def forward(self, batch: Batch) -> Fused:
        visible, infrared = self.visible_stem(batch.visible), self.infrared_stem(batch.infrared)
        merged = torch.relu(self.merge(visible, infrared, batch.text, batch.guides))
        image = (batch.visible + batch.infrared) / 2 + self.out(merged).float()
        return Fused(image=image if self.training else image.clamp(0, 1))


class Sum(nn.Module):
    """The two maps added."""

    def forward(self, visible, infrared, text, guides):
        return visible + infrared
