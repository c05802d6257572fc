"""The text cube as a scheme for any network's text point."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from fusionkit.batch import TextFeatures
from fusionkit_mtgfusion.guidance import CommonGuidance, SpecificGuidance, Words


class TextCubeModulation(nn.Module):
    r"""Filter the sum of the maps by a text cube, weight each map by its text, add what is learned.

    .. math:: y = (v + r) + W\,[\,C(v + r, T);\; v' M_v + r' M_r\,]

    C is MTG-Fusion's guidance of common features (cube, reordering, domain transform, gate), the
    second part its guidance of specific features: v', r' after two-way attention with the text, M
    weights per modality. A network's point has one text where the paper has five, so that text
    speaks for each. W is a 1x1 convolution that starts at zero: plain addition at the start,
    like every scheme of the bench.

    Source: MTG-Fusion (IJCV 2025), modules TGCE and TGSF of the released program.

    Args:
        channels: C, the depth of the maps; a multiple of ``heads``.
        text_dim: D, the width of the text.
        variant: ``released`` or ``described``.
        cross_blocks: two-way attentions per modality; the paper's network has 4.
        blocks: cycle blocks of each text branch.

    Shape:
        - visible, infrared, result: ``(B, C, H, W)``; text.tokens ``(B, L, D)``, or
          text.pooled ``(B, D)`` of an encoder without tokens
    """

    starts_as_sum = True

    def __init__(
        self,
        *,
        channels: int,
        text_dim: int,
        variant: str = "released",
        cross_blocks: int = 1,
        blocks: int = 4,
        heads: int = 4,
    ) -> None:
        super().__init__()
        self.text_proj = nn.Linear(text_dim, channels)
        self.common = CommonGuidance(channels, variant=variant, blocks=blocks)
        self.specific = SpecificGuidance(
            channels, heads=heads, variant=variant, cross_blocks=cross_blocks, blocks=blocks
        )
        self.out = nn.Conv2d(2 * channels, channels, 1)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(
        self,
        visible: Tensor,
        infrared: Tensor,
        text: TextFeatures | None,
        guides: Mapping[str, Tensor],
    ) -> Tensor:
        if text is None:
            raise ValueError("mtg acts by text, but the batch has none: encode prompts first.")
        tokens, mask = text.tokens, text.mask
        if tokens is None:
            tokens, mask = text.pooled[:, None], None
        words = Words(self.text_proj(tokens.to(self.text_proj.weight.dtype)), mask)
        x = visible + infrared
        common = self.common(x, words, words, words).features
        specific, _, _ = self.specific(infrared, visible, words, words)
        return (x + self.out(torch.cat([common.to(x.dtype), specific.to(x.dtype)], 1))).to(x.dtype)
