"""``compact``: a small two-stream fusion network with three points where text meets features.

Made for two CPU cores, where full-size feature maps are what costs: every normalisation and
activation reads and writes them, and thin convolutions never reach the arithmetic limit. So pixels
are folded into channels first (space to depth), nothing but the pictures exists at full size, and
most of the arithmetic is 3x3 convolutions of 128 channels at a quarter and an eighth: wide enough
that arithmetic takes the time, and not the many small steps around it. Source: ours.

One stem per modality. At a quarter the modulation merges the two streams ("merge"); residual blocks
follow, some at an eighth to see further, and a second modulation ("body"). On the way up, at half
size, the third ("scale-half") is given the decoder's map plus the visible stem's as one map and the
infrared stem's as the other. The result is a correction to the mean of the two pictures.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate, pixel_shuffle, pixel_unshuffle

from fusionkit.batch import Batch, Fused
from fusionkit.protocols import BuildModulation
from fusionkit_standard.modulations import Film
from fusionkit_standard.norm import GroupNorm


class Compact(nn.Module):
    """The default network.

    Args:
        modulation: builds the module for a text point; None is FiLM, the network's own scheme.
        text_dim: D, the width of the text.
        guides: names of ``(B, 1, h, w)`` maps of the batch that enter both stems as channels.
        widths: channels at half, quarter and eighth size.

    Shape:
        - visible ``(B, 3, H, W)``, infrared ``(B, 1, H, W)`` -> ``(B, 3, H, W)``; H and W multiples
          of 8 (the host pads).
    """

    modulation_points = ("merge", "body", "scale-half")
    multiple_of = 8
    min_size = 8
    layers = ("points.merge", "points.body", "points.scale-half")

    def __init__(
        self,
        *,
        modulation: BuildModulation | None = None,
        text_dim: int,
        guides: Sequence[str] = (),
        widths: Sequence[int] = (32, 128, 128),
    ) -> None:
        super().__init__()
        if modulation is None:

            def modulation(channels: int) -> nn.Module:
                return Film(channels=channels, text_dim=text_dim)

        self.guides = tuple(guides)
        half, quarter, eighth = widths
        self.visible_stem = Stem(3 + len(self.guides), half, quarter)
        self.infrared_stem = Stem(1 + len(self.guides), half, quarter)
        self.points = nn.ModuleDict(
            {
                name: modulation(channels)
                for name, channels in zip(
                    self.modulation_points, (quarter, quarter, half), strict=True
                )
            }
        )
        self.blocks = nn.Sequential(Block(quarter), Block(quarter))
        self.deep = nn.Sequential(
            _norm(quarter),
            nn.Conv2d(quarter, eighth, 3, stride=2, padding=1),
            Block(eighth),
            Block(eighth),
            nn.Conv2d(eighth, quarter, 1),
        )
        self.infrared_again = nn.Conv2d(quarter, quarter, 1)
        self.last_block = Block(quarter)
        self.up = nn.Conv2d(quarter, half, 1)
        self.half_block = Block(half)
        # No normalisation before the end: brightness must be able to pass through unchanged.
        self.out = nn.Conv2d(half, 3 * 4, 3, padding=1)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(self, batch: Batch) -> Fused:
        visible, infrared = batch.visible, batch.infrared
        v2, v4 = self.visible_stem(self._with_guides(visible, batch))
        r2, r4 = self.infrared_stem(self._with_guides(infrared, batch))
        text, guides, point = batch.text, batch.guides, self.points

        x = self.blocks(point["merge"](v4, r4, text, guides))
        x = x + _double(self.deep(x))
        x = point["body"](x, self.infrared_again(r4), text, guides)
        x = _double(self.up(self.last_block(x)))
        x = self.half_block(point["scale-half"](x + v2, r2, text, guides))
        image = (visible + infrared) / 2 + pixel_shuffle(self.out(x).float(), 2)
        return Fused(image=image if self.training else image.clamp(0, 1))

    def _with_guides(self, picture: Tensor, batch: Batch) -> Tensor:
        if not self.guides:
            return picture
        missing = [name for name in self.guides if name not in batch.guides]
        if missing:
            raise ValueError(
                f"this network was built to read the guides {missing}, which the batch lacks; "
                f"it has {sorted(batch.guides)}. Name them in the recipe's guides."
            )
        size = picture.shape[-2:]
        maps = [
            m
            if m.shape[-2:] == size
            else interpolate(m, size, mode="bilinear", align_corners=False)
            for m in (batch.guides[name].to(picture.dtype) for name in self.guides)
        ]
        return torch.cat([picture, *maps], 1)


class Stem(nn.Module):
    """A picture ``(B, in, H, W)`` -> maps at half and at quarter size."""

    def __init__(self, channels: int, half: int, quarter: int) -> None:
        super().__init__()
        self.at_half = nn.Conv2d(4 * channels, half, 3, padding=1)
        self.at_quarter = nn.Sequential(
            _norm(half), nn.Conv2d(half, quarter, 3, stride=2, padding=1)
        )

    def forward(self, picture: Tensor) -> tuple[Tensor, Tensor]:
        folded = pixel_unshuffle(picture, 2).contiguous(memory_format=torch.channels_last)
        half = self.at_half(folded)
        return half, self.at_quarter(half)


class Block(nn.Module):
    """Residual 3x3 convolution on normalised features; the map passes through unnormalised."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.change = nn.Sequential(_norm(channels), nn.Conv2d(channels, channels, 3, padding=1))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.change(x)


def _norm(channels: int) -> nn.Module:
    return nn.Sequential(GroupNorm(8, channels), nn.SiLU())


def _double(x: Tensor) -> Tensor:
    return interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)
