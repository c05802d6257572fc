"""The network: two encoders that see the mask, gated fusion, text on fused features, one decoder.

Source: the published description of "Infrared and visible image fusion based on text-image
core-semantic alignment and interaction", Digital Signal Processing, 2025, which says that masks of
the named objects enter the encoder and that text, through CLIP and a perceptron, weights fused
features. Everything else is ours; no text of the paper and no code was at hand.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import leaky_relu

from fusionkit.batch import Batch, Fused, TextFeatures
from fusionkit.color import luma, rgb_to_ycbcr, ycbcr_to_rgb
from fusionkit.guides import enlarge
from fusionkit.protocols import BuildModulation
from fusionkit_coresemantic.layers import SLOPE, Conv3, MaskInjection, ModalGate, ResidualBlock
from fusionkit_coresemantic.modulation import Mode, TextWeights

LEVELS = 3
MASK = "mask"
"""Name of the guide."""


class CoreSemanticFusion(nn.Module):
    """Core-semantic fusion, 0.52 million parameters, all at full resolution.

    Two encoders (infrared; luma of the visible picture) of three levels each, a residual block and
    a mask injection per level; per level a softmax gate between the modalities and a text point; a
    decoder over the three fused maps that gives the fused luma. Colour is that of the visible
    picture.

    A pair without a mask (no guide ``mask``, or one of zeros) and without words (an empty prompt)
    is fused all the same, and then no text tower has a say.

    ``Fused.maps`` has ``luma``, the fused luma ``(B, 1, H, W)``.

    Args:
        modulation: builds the module for a text point; None is text as weights, the network's own.
        text_dim: D, the width of the text; 512 for CLIP ViT-B/16.
        channels: C, a multiple of 4; group norms have C / 4 groups.
        mode: how text acts in the network's own scheme, see
            :class:`~fusionkit_coresemantic.modulation.TextWeights`.
        mask_injection: whether the mask enters the encoders; False is for the ablation.

    Shape:
        - visible ``(B, 3, H, W)``, infrared ``(B, 1, H, W)``, guide ``mask`` ``(B, 1, h, w)`` in
          [0, 1] -> ``(B, 3, H, W)``; any size from 2x2
    """

    paper = "Core-semantic alignment and interaction, Digital Signal Processing, 2025"
    modulation_points = tuple(f"level{k + 1}" for k in range(LEVELS))
    layers = (
        *(f"infrared.blocks.{k}" for k in range(LEVELS)),
        *(f"visible.blocks.{k}" for k in range(LEVELS)),
        *(f"points.level{k + 1}" for k in range(LEVELS)),
    )
    min_size = 2

    def __init__(
        self,
        *,
        modulation: BuildModulation | None = None,
        text_dim: int = 512,
        channels: int = 32,
        mode: Mode = "weight",
        mask_injection: bool = True,
    ) -> None:
        super().__init__()
        if channels < 4 or channels % 4:
            raise ValueError(f"channels={channels}: a multiple of 4.")
        own = modulation is None
        if own:

            def modulation(channels: int) -> nn.Module:
                return TextWeights(channels=channels, text_dim=text_dim, mode=mode)

        self.infrared, self.visible = (Encoder(channels, mask_injection) for _ in range(2))
        self.gates = nn.ModuleList(ModalGate(channels) for _ in range(LEVELS))
        self.points = nn.ModuleDict(
            {name: modulation(channels=channels) for name in self.modulation_points}
        )
        if own and mode != "cross":  # one perceptron, a head for each level
            for point in self.points.values():
                point.trunk = self.points["level1"].trunk
        self.decoder = Decoder(channels)

    def forward(self, batch: Batch) -> Fused:
        y = luma(batch.visible)
        mask = batch.guides.get(MASK)
        mask = torch.zeros_like(y) if mask is None else enlarge(mask, tuple(y.shape[-2:])).to(y)
        where = support(mask)
        infrared = self.infrared(batch.infrared, mask, where)
        visible = self.visible(y, mask, where)
        text = spoken(batch.text, batch.prompts)
        fused = []
        for k, (gate, point) in enumerate(zip(self.gates, self.points.values(), strict=True)):
            warm, seen = gate(infrared[k], visible[k])
            fused.append(point(seen, warm, text, batch.guides))
        light = self.decoder(fused)
        chroma = rgb_to_ycbcr(batch.visible.float())[:, 1:]
        image = ycbcr_to_rgb(torch.cat([light, chroma], 1))
        return Fused(image=image if self.training else image.clamp(0, 1), maps={"luma": light})


class Encoder(nn.Module):
    """A picture of one channel -> the maps of three levels, ``(B, C, H, W)`` each."""

    def __init__(self, channels: int, mask_injection: bool) -> None:
        super().__init__()
        self.stem = Conv3(1, channels, exact=True)
        self.blocks = nn.ModuleList(ResidualBlock(channels, channels // 4) for _ in range(LEVELS))
        self.injections = nn.ModuleList(
            MaskInjection(channels) for _ in range(LEVELS if mask_injection else 0)
        )

    def forward(self, picture: Tensor, mask: Tensor, where: "Support | None") -> list[Tensor]:
        x = leaky_relu(self.stem(picture), SLOPE)
        maps = []
        for k, block in enumerate(self.blocks):
            x = block(x)
            if self.injections:
                x = inject(self.injections[k], x, mask, where)
            maps.append(x)
        return maps


class Decoder(nn.Module):
    """The fused maps of all levels -> fused luma ``(B, 1, H, W)`` in [0, 1], float32."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.enter = Conv3(LEVELS * channels, channels)
        self.block = ResidualBlock(channels, channels // 4)
        # In bfloat16 the last two would be off by more than a grey level.
        self.narrow = Conv3(channels, channels // 2, exact=True)
        self.out = Conv3(channels // 2, 1, exact=True)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        x = self.block(leaky_relu(self.enter(torch.cat(list(maps), 1)), SLOPE))
        return self.out(leaky_relu(self.narrow(x), SLOPE)).float().sigmoid()


def spoken(text: TextFeatures | None, prompts: Sequence[str]) -> TextFeatures | None:
    """The features with zeros for empty prompts: no words are no features, of any text tower."""
    if text is None or all(prompt.strip() for prompt in prompts):
        return text
    said = torch.tensor([bool(prompt.strip()) for prompt in prompts], device=text.pooled.device)
    text = text.expand(len(said))
    return TextFeatures(
        pooled=text.pooled * said[:, None],
        tokens=None if text.tokens is None else text.tokens * said[:, None, None],
        mask=text.mask,
    )


@dataclass(frozen=True, slots=True)
class Support:
    """Rows and columns outside which every mask of a batch is zero, end exclusive."""

    top: int
    bottom: int
    left: int
    right: int

    def window(self, margin: int, size: Sequence[int]) -> tuple[slice, slice]:
        """The same with a margin, inside a picture of a size."""
        return (
            slice(max(0, self.top - margin), min(size[0], self.bottom + margin)),
            slice(max(0, self.left - margin), min(size[1], self.right + margin)),
        )


def support(mask: Tensor) -> Support | None:
    """Where masks ``(B, 1, H, W)`` are; None where that is not asked: in training and on a GPU."""
    if torch.is_grad_enabled() or mask.device.type != "cpu":
        return None
    rows, columns = (mask.amax(dims).nonzero() for dims in ((0, 1, 3), (0, 1, 2)))
    if not len(rows):
        return Support(0, 0, 0, 0)
    return Support(int(rows[0]), int(rows[-1]) + 1, int(columns[0]), int(columns[-1]) + 1)


def inject(layer: MaskInjection, x: Tensor, mask: Tensor, where: Support | None) -> Tensor:
    """The mask injection, computed where it changes anything: within a pixel of the mask.

    The gate sees one pixel farther, so a window with two more pixels on each side is computed, of
    which the outermost is left out; at an edge of the picture the window is mirrored as the whole
    map would be.
    """
    if where is None:
        return layer(x, mask)
    if where.bottom == 0:
        return x
    size = tuple(x.shape[-2:])
    rows, columns = where.window(1, size)
    seen_rows, seen_columns = where.window(2, size)
    changed = layer(x[..., seen_rows, seen_columns], mask[..., seen_rows, seen_columns])
    top, left = rows.start - seen_rows.start, columns.start - seen_columns.start
    height, width = rows.stop - rows.start, columns.stop - columns.start
    x = x.clone()
    x[..., rows, columns] = changed[..., top : top + height, left : left + width]
    return x
