"""``compact``: a small two-stream fusion network with four points where text meets features.

Ours, made for two CPU cores: most of its arithmetic is 3x3 convolutions of 64 channels at a quarter
of the size, which a CPU does best; what stands at full size is thin.

One stem per modality takes the picture to a quarter of its size, keeping each scale. At a quarter,
the modulation merges the two streams; three residual blocks follow, with a second modulation after
the second. On the way up, each scale is joined with what the stems kept: the modulation at that
scale is given the decoder's map plus the visible stem's as one map and the infrared stem's as the
other. The result is a correction to the mean of the two pictures.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from fusionkit.batch import Batch, Fused
from fusionkit.protocols import BuildModulation
from fusionkit_standard.modulations import Film


class Compact(nn.Module):
    """The default network.

    Args:
        modulation: builds the module for a text point; None is FiLM, the network's own scheme.
        text_dim: D, the width of the text.
        guides: names of ``(B, 1, h, w)`` maps of the batch that enter both stems as channels.
        widths: channels at full, half and quarter size.
        body: channels of the blocks at quarter size.

    Shape:
        - visible ``(B, 3, H, W)``, infrared ``(B, 1, H, W)`` -> ``(B, 3, H, W)``; H and W multiples
          of 4 (the host pads).
    """

    modulation_points = ("merge", "body", "scale-half", "scale-full")
    multiple_of = 4
    min_size = 8
    layers = ("points.merge", "points.body", "points.scale-half", "points.scale-full")

    def __init__(
        self,
        *,
        modulation: BuildModulation | None = None,
        text_dim: int,
        guides: Sequence[str] = (),
        widths: Sequence[int] = (16, 32, 48),
        body: int = 64,
    ) -> None:
        super().__init__()
        if modulation is None:
            def modulation(channels: int) -> nn.Module:
                return Film(channels=channels, text_dim=text_dim)
        self.guides = tuple(guides)
        full, half, quarter = widths
        self.visible_stem = Stem(3 + len(self.guides), widths)
        self.infrared_stem = Stem(1 + len(self.guides), widths)

        self.points = nn.ModuleDict(
            {
                name: modulation(channels)
                for name, channels in zip(self.modulation_points, (body, body, half, full), strict=True)
            }
        )
        self.visible_in = nn.Conv2d(quarter, body, 1)
        self.infrared_in = nn.Conv2d(quarter, body, 1)
        self.blocks = nn.ModuleList([Block(body) for _ in range(3)])
        self.infrared_again = nn.Conv2d(quarter, body, 1)

        self.up_half = nn.Conv2d(body, half, 1)
        self.half_block = Block(half)
        self.up_full = nn.Conv2d(half, full, 1)
        self.full_block = Block(full)
        self.out = nn.Conv2d(full, 3, 3, padding=1)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(self, batch: Batch) -> Fused:
        visible, infrared = batch.visible, batch.infrared
        v1, v2, v4 = self.visible_stem(self._with_guides(visible, batch))
        r1, r2, r4 = self.infrared_stem(self._with_guides(infrared, batch))
        text, guides, point = batch.text, batch.guides, self.points

        x = point["merge"](self.visible_in(v4), self.infrared_in(r4), text, guides)
        x = self.blocks[1](self.blocks[0](x))
        x = point["body"](x, self.infrared_again(r4), text, guides)
        x = self.blocks[2](x)
        x = _double(self.up_half(x))
        x = self.half_block(point["scale-half"](x + v2, r2, text, guides))
        x = _double(self.up_full(x))
        x = self.full_block(point["scale-full"](x + v1, r1, text, guides))
        image = (visible + infrared) / 2 + self.out(x).float()
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
            m if m.shape[-2:] == size else interpolate(m, size, mode="bilinear", align_corners=False)
            for m in (batch.guides[name].to(picture.dtype) for name in self.guides)
        ]
        return torch.cat([picture, *maps], 1)


class Stem(nn.Module):
    """A picture at three scales: ``(B, in, H, W)`` -> maps at full, half and quarter size."""

    def __init__(self, channels: int, widths: Sequence[int]) -> None:
        super().__init__()
        full, half, quarter = widths
        self.at_full = nn.Conv2d(channels, full, 3, padding=1)
        self.at_half = nn.Sequential(_norm(full), nn.Conv2d(full, half, 3, stride=2, padding=1))
        self.at_quarter = nn.Sequential(_norm(half), nn.Conv2d(half, quarter, 3, stride=2, padding=1))

    def forward(self, picture: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        full = self.at_full(picture)
        half = self.at_half(full)
        return full, half, self.at_quarter(half)


class Block(nn.Module):
    """Residual 3x3 convolution on normalised features; the map passes through unnormalised."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.change = nn.Sequential(_norm(channels), nn.Conv2d(channels, channels, 3, padding=1))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.change(x)


def _norm(channels: int) -> nn.Module:
    return nn.Sequential(nn.GroupNorm(8, channels), nn.SiLU())


def _double(x: Tensor) -> Tensor:
    return interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)
