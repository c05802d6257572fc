"""The generator: content and style codes of both pictures, decoded into one grey picture.

Source: Y. Wang et al., "Infrared and visible image fusion with language-driven loss in CLIP
embedding space", ACM MM 2025 (arXiv 2402.16267), and its released code (``Encoder``, ``Decoder``).
The network reads no text: the sentence is in the training loss alone.
"""

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from fusionkit.batch import Batch, Fused
from fusionkit.color import luma
from fusionkit.errors import BadRequest
from fusionkit.protocols import BuildModulation
from fusionkit_ldfusion.color import recolor
from fusionkit_ldfusion.layers import FirstConv, InstanceNorm, LastConv, LayerNorm, instance_norm

CROPS = ("top-left", "center")


class LDFusion(nn.Module):
    """Visible luma and infrared in, fused luma out; colour is that of the visible picture.

    ``maps`` holds ``luma`` ``(B, 1, H, W)``, what the losses look at.

    Args:
        modulation, text_dim: offered to every network; there is no text here to use them.
        width: channels of the first layer of every encoder.
        style: width of one picture's style code.
        crop: which window of the decoder's map, 21 pixels larger than the picture, is the result.
            Each of its three transposed convolutions without padding moves the picture by 1.5
            pixels of its own grid, 10.5 together; ``center`` undoes that. The released weights
            learned with ``top-left``.

    Shape:
        - visible ``(B, 3, H, W)``, infrared ``(B, 1, H, W)`` -> ``(B, 3, H, W)``; any H, W >= 16.
    """

    uses_text = False
    modulation_points = ()
    multiple_of = 1
    min_size = 16
    layers = (
        "encoder.visible_content",
        "encoder.infrared_content",
        "decoder.residual.1",
        "decoder.up.8",
    )

    def __init__(
        self,
        *,
        modulation: BuildModulation | None = None,
        text_dim: int | None = None,
        width: int = 16,
        style: int = 8,
        crop: str = "top-left",
    ) -> None:
        super().__init__()
        if modulation is not None:
            raise BadRequest("ldfusion has no point at which text meets features.")
        if crop not in CROPS:
            raise BadRequest(f"ldfusion: crop is {' or '.join(CROPS)}, not {crop!r}.")
        self.crop = crop
        self.encoder = Encoder(width, style)
        self.decoder = Decoder(16 * width, 2 * style)
        self.apply(_initialise)

    def forward(self, batch: Batch) -> Fused:
        gray = self.fuse(luma(batch.visible), batch.infrared)
        return Fused(image=recolor(gray, batch.visible).clamp(0, 1), maps={"luma": gray})

    def fuse(self, visible: Tensor, infrared: Tensor) -> Tensor:
        """Two grey pictures ``(B, 1, H, W)`` -> the fused one in [0, 1], float32."""
        height, width = visible.shape[-2:]
        if min(height, width) < self.min_size:
            raise BadRequest(
                f"ldfusion needs pictures of at least {self.min_size} pixels on each side, "
                f"got {height}x{width}."
            )
        size = None if self.crop == "center" else (height, width)
        full = self.decoder(*self.encoder(visible, infrared), size=size)
        if self.crop == "center":
            top, left = (full.shape[-2] - height) // 2, (full.shape[-1] - width) // 2
            full = full[..., top : top + height, left : left + width]
        return full.float().clamp(0, 1)


class Encoder(nn.Module):
    """Content ``(B, 8 width, H/8, W/8)`` and style ``(B, style, 1, 1)`` of each picture."""

    def __init__(self, width: int, style: int) -> None:
        super().__init__()
        self.visible_content = content_encoder(width)
        self.infrared_content = content_encoder(width)
        self.visible_style = style_encoder(width, style)
        self.infrared_style = style_encoder(width, style)

    def forward(self, visible: Tensor, infrared: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Grey pictures -> visible content, infrared content, visible style, infrared style."""
        return (
            self.visible_content(visible),
            self.infrared_content(infrared),
            self.visible_style(visible),
            self.infrared_style(infrared),
        )


class Decoder(nn.Module):
    """Both contents, normalised by what both styles say, brought back to full size.

    The styles drive the statistics of four AdaIN layers (X. Huang, S. Belongie, ICCV 2017): a
    multi-layer perceptron turns them into a shift and a scale per channel of each.
    """

    def __init__(self, width: int, style: int) -> None:
        super().__init__()
        self.to_adain = nn.Sequential(
            nn.Linear(style, 256),
            nn.ReLU(inplace=True),
            nn.Linear(256, 256),
            nn.ReLU(inplace=True),
            nn.Linear(256, 2 * 2 * 2 * width),
        )
        self.residual = nn.ModuleList([Residual(width), Residual(width)])
        half, quarter, eighth = width // 2, width // 4, width // 8
        self.up = nn.Sequential(
            nn.ConvTranspose2d(width, half, 5, stride=2),
            LayerNorm(half),
            nn.ReLU(inplace=True),
            nn.ConvTranspose2d(half, quarter, 5, stride=2),
            LayerNorm(quarter),
            nn.ReLU(inplace=True),
            nn.ConvTranspose2d(quarter, eighth, 5, stride=2),
            LayerNorm(eighth),
            nn.ReLU(inplace=True),
            LastConv(eighth, 1, 7),
            nn.Tanh(),
        )

    def forward(
        self,
        visible_content: Tensor,
        infrared_content: Tensor,
        visible_style: Tensor,
        infrared_style: Tensor,
        *,
        size: tuple[int, int] | None = None,
    ) -> Tensor:
        """The picture in [-1, 1], ``(B, 1, H + 21, W + 21)`` for H and W that divide by 8.

        ``size`` asks for its top left window alone; the last layer then computes no more.
        """
        x = torch.cat([visible_content, infrared_content], 1)
        codes = self.codes(torch.cat([visible_style, infrared_style], 1))
        for block, affine in zip(self.residual, codes, strict=True):
            x = block(x, affine)
        x = self.up[:9](x)
        return self.up[10](self.up[9](x, size))

    def codes(self, style: Tensor) -> Tensor:
        """Styles ``(B, 2 style, 1, 1)`` -> ``(block, norm, shift and scale, B, C)``."""
        values = self.to_adain(style.flatten(1))
        return values.unflatten(1, (2, 2, 2, -1)).permute(1, 2, 3, 0, 4).float()


class Residual(nn.Module):
    """x + norm(conv(ReLU(norm(conv(x))))), mirrored edges, nothing after the sum.

    The norm is instance normalisation, or AdaIN where it is given shifts and scales.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, channels, 3)
        self.second = nn.Conv2d(channels, channels, 3)

    def forward(self, x: Tensor, affine: Tensor | None = None) -> Tensor:
        """``affine``: ``(norm, shift and scale, B, C)``."""
        first, second = ((), ()) if affine is None else affine
        y = instance_norm(self.first(_mirrored(x)), *first).relu_()
        return x + instance_norm(self.second(_mirrored(y)), *second)


def content_encoder(width: int) -> nn.Sequential:
    """A grey picture ``(B, 1, H, W)`` -> what is where, ``(B, 8 width, H/8, W/8)``."""
    layers: list[nn.Module] = [nn.ReflectionPad2d(3), FirstConv(1, width, 7)]
    for channels in (width, 2 * width, 4 * width):
        layers += [InstanceNorm(), nn.ReLU(inplace=True)]
        layers += [nn.Conv2d(channels, 2 * channels, 4, stride=2, padding=1)]
    layers += [InstanceNorm(), nn.ReLU(inplace=True), Residual(8 * width), Residual(8 * width)]
    return nn.Sequential(*layers)


def style_encoder(width: int, style: int) -> nn.Sequential:
    """A grey picture ``(B, 1, H, W)`` -> its style ``(B, style, 1, 1)``; nothing is normalised."""
    layers: list[nn.Module] = [nn.ReflectionPad2d(3), nn.Conv2d(1, width, 7), nn.ReLU(inplace=True)]
    widths = (width, 2 * width, 4 * width, 4 * width)
    for narrow, wide in pairwise(widths):
        layers += [nn.Conv2d(narrow, wide, 4, stride=2, padding=1), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Conv2d(4 * width, style, 1))


def _mirrored(x: Tensor) -> Tensor:
    return pad(x, (1, 1, 1, 1), mode="reflect")


def _initialise(module: nn.Module) -> None:
    """As the authors start: convolutions from N(0, 0.02); the rest is the modules' own."""
    if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
        nn.init.normal_(module.weight, 0.0, 0.02)
