"""Extractors and reconstructor: what one picture shows, what both share, and the way back."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fusionkit_mtgfusion.attention import AttentionOptions, TokenBlock

STRIP = 1 << 20
"""Numbers of the widest map of a strip."""


def in_strips(function: Callable[[Tensor], Tensor], x: Tensor, reach: int, channels: int) -> Tensor:
    """Zero-padded convolutions of ``(B, C, H, W)`` in strips of rows, the same values.

    What is as wide as ``channels`` in between is then never as large as the picture. With gradients
    or on another device in one piece.

    Args:
        function: keeps height and width, and looks ``reach`` rows up and down.
    """
    height, width = x.shape[-2:]
    rows = max(8 * reach, STRIP // (channels * width * len(x)))
    if torch.is_grad_enabled() or x.device.type != "cpu" or rows >= height:
        return function(x)
    strips = []
    for top in range(0, height, rows):
        above = min(reach, top)
        strip = function(x[:, :, top - above : top + rows + reach])
        strips.append(strip[:, :, above : above + rows])
    return torch.cat(strips, 2)


class Coupling(nn.Module):
    r"""Affine coupling of two channels: one is kept, the other becomes :math:`(x_2 + t)\,e^s`.

    s and t come from a small network of the first channel; :math:`s \leftarrow 0.64 \tanh s`.

    Args:
        swapped: keep channel 1 and change channel 0.
        hidden: width of the small network.
    """

    def __init__(self, *, swapped: bool, hidden: int = 64) -> None:
        super().__init__()
        self.swapped, self.hidden = swapped, hidden
        self.net = nn.Sequential(
            nn.Conv2d(1, hidden, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(hidden, hidden, 1),
            nn.ReLU(),
            nn.Conv2d(hidden, 2, 3, padding=1),
        )

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """``(B, 2, H, W)`` -> the same, and s ``(B, 1, H, W)``; its sum is the log-determinant."""
        first, second = x.chunk(2, 1)[:: -1 if self.swapped else 1]
        s, t = self._scale_and_shift(first)
        second = (second + t) * s.exp()
        pair = (second, first) if self.swapped else (first, second)
        return torch.cat(pair, 1), s

    def inverse(self, y: Tensor) -> Tensor:
        """The input that gave ``y``."""
        first, second = y.chunk(2, 1)[:: -1 if self.swapped else 1]
        s, t = self._scale_and_shift(first)
        second = second * (-s).exp() - t
        return torch.cat((second, first) if self.swapped else (first, second), 1)

    def _scale_and_shift(self, kept: Tensor) -> tuple[Tensor, Tensor]:
        s, t = in_strips(self.net, kept, reach=2, channels=self.hidden).float().chunk(2, 1)
        return 0.64 * s.tanh(), t


class SpecificExtractor(nn.Module):
    """Features of one picture alone: convolution, four couplings of two channels, convolution.

    Shape:
        - picture ``(B, 1, H, W)`` -> features ``(B, C, H, W)`` and the log-determinant, a scalar:
          the sum of s over blocks and pixels, averaged over the batch.
    """

    def __init__(self, channels: int = 64, blocks: int = 4) -> None:
        super().__init__()
        self.pre_conv = nn.Sequential(nn.Conv2d(1, 2, 3, padding=1), nn.ReLU())
        self.transforms = nn.ModuleList(Coupling(swapped=i % 2 == 1) for i in range(blocks))
        self.post_conv = nn.Conv2d(2, channels, 3, padding=1)

    def forward(self, picture: Tensor) -> tuple[Tensor, Tensor]:
        x, log_det = self.pre_conv(picture), 0.0
        for block in self.transforms:
            x, s = block(x)
            log_det = log_det + s.sum((1, 2, 3)).mean()
        return self.post_conv(x), log_det


class SharedExtractor(nn.Module):
    """What the two pictures have in common: attention over pixels of both, stacked.

    Shape:
        - pictures ``(B, 2, H, W)`` -> ``(B, C, H, W)``
    """

    def __init__(self, channels: int = 64, blocks: int = 4, *, attention: AttentionOptions) -> None:
        super().__init__()
        self.proj_in = nn.Conv2d(2, channels, 3, padding=1)
        self.blocks = nn.ModuleList(
            TokenBlock(channels, attention=attention, shifted=i % 2 == 1) for i in range(blocks)
        )
        self.norm_out = nn.LayerNorm(channels)
        self.proj_out = nn.Conv2d(channels, channels, 1)

    def forward(self, pictures: Tensor) -> Tensor:
        x = self.proj_in(pictures).permute(0, 2, 3, 1)
        for block in self.blocks:
            x = block(x)
        return self.proj_out(self.norm_out(x).permute(0, 3, 1, 2))


class Reconstructor(nn.Module):
    """Common and specific features back to a picture.

    Shape:
        - common, specific ``(B, C, H, W)`` -> ``(B, 1, H, W)``, unbounded
    """

    def __init__(self, channels: int = 64, blocks: int = 4, *, attention: AttentionOptions) -> None:
        super().__init__()
        self.proj_in = nn.Conv2d(2 * channels, channels, 3, padding=1)
        self.ret_blocks = nn.ModuleList(
            TokenBlock(channels, attention=attention, shifted=i % 2 == 1) for i in range(blocks)
        )
        self.final_conv = nn.Conv2d(channels, 1, 1)

    def forward(self, common: Tensor, specific: Tensor) -> Tensor:
        # Convolved apart and added: the stack of both would be the largest map of the network.
        channels = common.shape[1]
        weight = self.proj_in.weight
        x = F.conv2d(common, weight[:, :channels], self.proj_in.bias, padding=1)
        x = x + F.conv2d(specific, weight[:, channels:], padding=1)
        x = x.permute(0, 2, 3, 1)
        for block in self.ret_blocks:
            x = block(x)
        return self.final_conv(x.permute(0, 3, 1, 2))
