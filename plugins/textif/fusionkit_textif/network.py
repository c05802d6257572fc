"""The network of Text-IF: two encoders like Restormer's, one decoder that reads.

Source: X. Yi et al., "Text-IF: Leveraging Semantic Text Guidance for Degradation-Aware and
Interactive Image Fusion", CVPR 2024, and its released code (class ``Text_IF``), which is followed
where the two may differ. Names of modules are those of the released state dict.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d, scaled_dot_product_attention

from fusionkit.batch import Batch, Fused, TextFeatures
from fusionkit.protocols import BuildModulation
from fusionkit_textif.blocks import Convolution, Downsample, Upsample, blocks, full_precision
from fusionkit_textif.modulation import TextModulation
from fusionkit_textif.pictures import stretch


class TextIF(nn.Module):
    """Text-IF, 63.8 million parameters at its published size.

    Visible and infrared pictures go through an encoder of four levels each. At the lowest level
    they attend to one another, are fused and attend to themselves; then the decoder climbs back,
    joined at each level by the fused features of that level. The sentence scales and shifts the
    decoder's features at all four levels, before the join.

    The picture is in [0, 1] outside training; the network's own output, :meth:`fuse`, is not
    limited.

    Args:
        modulation: builds the module for a text point; None is the network's own scheme. Another
            scheme is given two maps: the decoder's and the fused features that join there; at the
            lowest level the fused map and the infrared stream.
        text_dim: width of the text; 512 in the paper.
        dim: channels of the highest level, doubled at each lower one; 48 in the paper.
        num_blocks: blocks of the four levels, in encoders and decoder.
        refinement: blocks at full size before the last convolution.
        heads: heads of the four levels.
        hidden: width of the hidden layer of the network's own scheme.
        output: how the picture gets into [0, 1]: ``clip``, or ``stretch`` from its smallest to its
            largest value, as the authors' test program does.

    Shape:
        - visible ``(B, 3, H, W)``, infrared ``(B, 1, H, W)`` -> ``(B, 3, H, W)``; H and W multiples
          of 8 (the host pads by reflection).
    """

    paper = "Yi et al., Text-IF, CVPR 2024"
    modulation_points = ("level4", "level3", "level2", "level1")
    multiple_of = 8
    min_size = 8
    layers = (
        "feature_fusion_4",
        "prompt_guidance_4",
        "prompt_guidance_3",
        "prompt_guidance_2",
        "prompt_guidance_1",
        "refinement",
    )

    def __init__(
        self,
        *,
        modulation: BuildModulation | None = None,
        text_dim: int = 512,
        dim: int = 48,
        num_blocks: Sequence[int] = (2, 2, 2, 2),
        refinement: int = 4,
        heads: Sequence[int] = (1, 2, 4, 8),
        hidden: int = 1024,
        output: str = "clip",
    ) -> None:
        super().__init__()
        if output not in ("clip", "stretch"):
            raise ValueError(f"output is 'clip' or 'stretch', not {output!r}.")
        if dim % 2 or any(dim * 2**level % h for level, h in enumerate(heads)):
            raise ValueError(
                f"dim={dim} must be even, and {[dim * 2**level for level in range(4)]} divisible "
                f"by heads={list(heads)}."
            )
        if modulation is None:

            def modulation(channels: int) -> nn.Module:
                return TextModulation(
                    channels=channels, text_dim=text_dim, hidden=hidden, identity=False
                )

        self.output_range = output
        one, two, three, four = (dim * 2**level for level in range(4))
        self.encoder_A = Encoder(dim, num_blocks, heads)
        self.encoder_B = Encoder(dim, num_blocks, heads)
        self.cross_attention = CrossAttention(four)
        self.feature_fusion_4 = FeatureFusion(four)
        self.attention_spatial = SpatialAttention(four)
        self.prompt_guidance_4 = modulation(channels=four)
        self.decoder_level4 = blocks(four, heads[3], num_blocks[3])

        self.up4_3 = Upsample(four)
        self.prompt_guidance_3 = modulation(channels=three)
        self.feature_fusion_3 = FeatureFusion(three)
        self.reduce_chan_level3 = Convolution(2 * three, three, 1)
        self.decoder_level3 = blocks(three, heads[2], num_blocks[2])

        self.up3_2 = Upsample(three)
        self.prompt_guidance_2 = modulation(channels=two)
        self.feature_fusion_2 = FeatureFusion(two)
        self.reduce_chan_level2 = Convolution(2 * two, two, 1)
        self.decoder_level2 = blocks(two, heads[1], num_blocks[1])

        self.up2_1 = Upsample(two)
        self.prompt_guidance_1 = modulation(channels=one)
        self.feature_fusion_1 = FeatureFusion(one)
        self.decoder_level1 = blocks(two, heads[0], num_blocks[0])
        self.refinement = blocks(two, heads[0], refinement)
        self.output = Convolution(two, 3, 3)

    def forward(self, batch: Batch) -> Fused:
        text = batch.text
        image = self.fuse(batch.visible, batch.infrared, text, batch.guides).float()
        if self.training:
            return Fused(image=image)
        return Fused(image=stretch(image) if self.output_range == "stretch" else image.clamp(0, 1))

    def fuse(
        self,
        visible: Tensor,
        infrared: Tensor,
        text: TextFeatures | None,
        guides: Mapping[str, Tensor] | None = None,
    ) -> Tensor:
        """The released network's forward pass; the result is not limited to [0, 1].

        Args:
            visible: ``(B, 3, H, W)``.
            infrared: ``(B, 1, H, W)``, or ``(B, 3, H, W)`` as the released network takes it.
            text: one sentence, or one per picture.
        """
        visible, infrared = (
            x.contiguous(memory_format=torch.channels_last) for x in (visible, infrared)
        )
        guides = guides or {}
        text = None if text is None else text.expand(len(visible))
        infrared_levels = self.encoder_B(infrared)
        visible_levels = self.encoder_A(visible)
        # Taken out of the lists one by one, so that no level is held longer than it is needed.
        skip1 = self.feature_fusion_1(visible_levels.pop(0), infrared_levels.pop(0))
        skip2 = self.feature_fusion_2(visible_levels.pop(0), infrared_levels.pop(0))
        skip3 = self.feature_fusion_3(visible_levels.pop(0), infrared_levels.pop(0))
        visible, infrared = self.cross_attention(visible_levels.pop(), infrared_levels.pop())

        x = self.attention_spatial(self.feature_fusion_4(visible, infrared))
        x = self.decoder_level4(self._say(self.prompt_guidance_4, x, infrared, text, guides))
        x = self._say(self.prompt_guidance_3, self.up4_3(x), skip3, text, guides)
        x = self.decoder_level3(self.reduce_chan_level3(torch.cat([x, skip3], 1)))
        x = self._say(self.prompt_guidance_2, self.up3_2(x), skip2, text, guides)
        x = self.decoder_level2(self.reduce_chan_level2(torch.cat([x, skip2], 1)))
        x = self._say(self.prompt_guidance_1, self.up2_1(x), skip1, text, guides)
        x = self.decoder_level1(torch.cat([x, skip1], 1))
        return self.output(self.refinement(x))

    @staticmethod
    def _say(
        point: nn.Module,
        x: Tensor,
        joining: Tensor,
        text: TextFeatures | None,
        guides: Mapping[str, Tensor],
    ) -> Tensor:
        """The text point: the network's own scheme acts on the decoder's map alone."""
        own = isinstance(point, TextModulation)
        return point(x, None if own else joining, text, guides)


class Encoder(nn.Module):
    """A picture -> features of four levels: ``dim`` channels at full size ... 8 ``dim`` at 1/8."""

    def __init__(self, dim: int, num_blocks: Sequence[int], heads: Sequence[int]) -> None:
        super().__init__()
        self.patch_embed = PatchEmbed(dim)
        self.encoder_level1 = blocks(dim, heads[0], num_blocks[0])
        self.down1_2 = Downsample(dim)
        self.encoder_level2 = blocks(2 * dim, heads[1], num_blocks[1])
        self.down2_3 = Downsample(2 * dim)
        self.encoder_level3 = blocks(4 * dim, heads[2], num_blocks[2])
        self.down3_4 = Downsample(4 * dim)
        self.encoder_level4 = blocks(8 * dim, heads[3], num_blocks[3])

    def forward(self, picture: Tensor) -> list[Tensor]:
        level1 = self.encoder_level1(self.patch_embed(picture))
        level2 = self.encoder_level2(self.down1_2(level1))
        level3 = self.encoder_level3(self.down2_3(level2))
        return [level1, level2, level3, self.encoder_level4(self.down3_4(level3))]


class PatchEmbed(nn.Module):
    """3x3 convolution of a picture; one channel stands for three equal ones."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.proj = Convolution(3, dim, 3)

    @full_precision
    def forward(self, picture: Tensor) -> Tensor:
        if picture.shape[1] == 3:
            return self.proj(picture)
        return conv2d(picture, self.proj.weight.sum(1, keepdim=True), padding=1)


class FeatureFusion(nn.Module):
    """Visible and infrared features side by side, then a 1x1 convolution 2C -> C."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.fusion_proj = Convolution(2 * channels, channels, 1)

    def forward(self, visible: Tensor, infrared: Tensor) -> Tensor:
        return self.fusion_proj(torch.cat([visible, infrared], 1))


class CrossAttention(nn.Module):
    r"""Each modality's places are asked by the other's: full attention between all places.

    .. math:: A' = W_A\,\mathrm{softmax}\!\left(\frac{q_B k_A^\top}{\sqrt C}\right) v_A + a,
              \qquad a = \mathrm{GN}(A)

    and likewise B'. The residual is the normalised map. The paper's figure 2, cross fusion layer.

    Shape:
        - A, B, A', B': ``(B, C, h, w)``
    """

    def __init__(self, channels: int, groups: int = 16) -> None:
        super().__init__()
        for side in "AB":
            self.add_module(f"norm_{side}", nn.GroupNorm(groups, channels, eps=1e-5))
            self.add_module(f"qkv_{side}", nn.Conv2d(channels, 3 * channels, 1, bias=False))
            self.add_module(f"out_{side}", nn.Conv2d(channels, channels, 1))

    @full_precision
    def forward(self, visible: Tensor, infrared: Tensor) -> tuple[Tensor, Tensor]:
        a, b = self.norm_A(visible), self.norm_B(infrared)
        query_a, key_a, value_a = _places(self.qkv_A(a)).chunk(3, 2)
        query_b, key_b, value_b = _places(self.qkv_B(b)).chunk(3, 2)
        found_a = _as_map(_attend(query_b, key_a, value_a), a)
        found_b = _as_map(_attend(query_a, key_b, value_b), b)
        return self.out_A(found_a) + a, self.out_B(found_b) + b


class SpatialAttention(nn.Module):
    """Full attention between all places of one map; the residual is the map as it came."""

    def __init__(self, channels: int, groups: int = 16) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(groups, channels, eps=1e-5)
        self.qkv = nn.Conv2d(channels, 3 * channels, 1, bias=False)
        self.out = nn.Conv2d(channels, channels, 1)

    @full_precision
    def forward(self, x: Tensor) -> Tensor:
        query, key, value = _places(self.qkv(self.norm(x))).chunk(3, 2)
        return self.out(_as_map(_attend(query, key, value), x)) + x


def _places(x: Tensor) -> Tensor:
    return x.flatten(2).mT  # B C h w -> B (h w) C


def _as_map(x: Tensor, like: Tensor) -> Tensor:
    return x.mT.unflatten(2, like.shape[-2:])  # B (h w) C -> B C h w


def _attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """One head over all places, never holding the places x places matrix."""
    return scaled_dot_product_attention(query[:, None], key[:, None], value[:, None])[:, 0]
