r"""The common ways in which text acts on features, each as one small module.

All are called with two maps, visible and infrared, ``(B, C, H, W)`` each, and return one. Schemes
that act on a single map add the two first: behind a learned 1x1 convolution per map, as networks
have it, a sum is as general as a concatenation followed by a 1x1 convolution.

Every scheme starts at that plain sum (its last layer starts at zero), so an untrained network is
the same whatever the scheme, and what a scheme adds is what it learned.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from fusionkit.batch import TextFeatures


def _needs(text: TextFeatures | None, scheme: str) -> TextFeatures:
    if text is None:
        raise ValueError(f"{scheme} acts by text, but the batch has none: encode prompts first.")
    return text


class Plain(nn.Module):
    """No text: the sum of the two maps. The baseline of every ablation. Source: ours.

    Args:
        channels: C, the depth of the maps; not needed here.
        text_dim: D, the width of the text; not needed here.

    Shape:
        - visible, infrared, result: ``(B, C, H, W)``
    """

    uses_text = False
    starts_as_sum = True

    def __init__(self, *, channels: int, text_dim: int) -> None:
        super().__init__()

    def forward(
        self,
        visible: Tensor,
        infrared: Tensor,
        text: TextFeatures | None,
        guides: Mapping[str, Tensor],
    ) -> Tensor:
        return visible + infrared


class Film(nn.Module):
    r"""Feature-wise linear modulation: one scale and one shift per channel, from the sentence.

    .. math:: y = (1 + \gamma(t)) \odot (v + r) + \beta(t)

    with visible map v, infrared map r and pooled text t. The same for every pixel: where a thing
    is must come from the features (or from a guide at the network's input).

    Source: E. Perez et al., "FiLM: Visual Reasoning with a General Conditioning Layer", AAAI 2018,
    eq. 1-2, with 1 added to the scale so that it starts as the identity.

    Args:
        channels: C, the depth of the maps.
        text_dim: D, the width of the pooled text.
        hidden: width of the hidden layer.

    Shape:
        - visible, infrared, result: ``(B, C, H, W)``; text.pooled ``(B, D)``
    """

    starts_as_sum = True

    def __init__(self, *, channels: int, text_dim: int, hidden: int = 128) -> None:
        super().__init__()
        self.to_affine = nn.Sequential(
            nn.Linear(text_dim, hidden), nn.SiLU(), nn.Linear(hidden, 2 * channels)
        )
        _zero(self.to_affine[-1])

    def forward(
        self,
        visible: Tensor,
        infrared: Tensor,
        text: TextFeatures | None,
        guides: Mapping[str, Tensor],
    ) -> Tensor:
        pooled = _needs(text, "film").pooled.to(visible.dtype)
        scale, shift = self.to_affine(pooled)[..., None, None].chunk(2, 1)  # each B C 1 1
        x = visible + infrared
        return (torch.addcmul(x, x, scale) + shift).to(x.dtype)


class Gate(nn.Module):
    r"""A gate per channel and pixel that mixes the two maps, opened by sentence and features.

    .. math:: y = 2\,(g \odot r + (1 - g) \odot v),\quad
              g = \sigma(W_t t + W_v * v + W_r * r)

    with 1x1 convolutions :math:`W_v, W_r`. It starts at g = 1/2, where y = v + r.

    Source: gated multimodal unit, J. Arevalo et al., "Gated Multimodal Units for Information
    Fusion", ICLR workshop 2017, eq. 1, with the sentence as a third input of the gate.

    Shape:
        - visible, infrared, result: ``(B, C, H, W)``; text.pooled ``(B, D)``
    """

    starts_as_sum = True

    def __init__(self, *, channels: int, text_dim: int) -> None:
        super().__init__()
        self.from_text = nn.Linear(text_dim, channels)
        self.from_visible = nn.Conv2d(channels, channels, 1, bias=False)
        self.from_infrared = nn.Conv2d(channels, channels, 1, bias=False)
        for layer in (self.from_text, self.from_visible, self.from_infrared):
            _zero(layer)

    def forward(
        self,
        visible: Tensor,
        infrared: Tensor,
        text: TextFeatures | None,
        guides: Mapping[str, Tensor],
    ) -> Tensor:
        pooled = _needs(text, "gate").pooled.to(visible.dtype)
        gate = torch.sigmoid(
            self.from_text(pooled)[..., None, None]
            + self.from_visible(visible)
            + self.from_infrared(infrared)
        )
        return (2 * torch.lerp(visible, infrared, gate.to(visible.dtype))).to(visible.dtype)


class CrossAttention(nn.Module):
    r"""Every pixel asks every word: features are queries, text tokens keys and values.

    .. math:: y = x + W_o\,\mathrm{softmax}\!\left(\frac{Q(x) K(T)^\top}{\sqrt{d}}\right) V(T),
              \qquad x = v + r

    A learned extra token without words lets a pixel attend to nothing. Padding is masked.

    Source: A. Vaswani et al., "Attention Is All You Need", 2017, eq. 1, as conditioning in
    R. Rombach et al., "High-Resolution Image Synthesis with Latent Diffusion Models", CVPR 2022,
    section 3.3.

    Args:
        channels: C, the depth of the maps.
        text_dim: D, the width of the text tokens.
        heads: number of heads; must divide ``channels``.

    Shape:
        - visible, infrared, result: ``(B, C, H, W)``; text.tokens ``(B, L, D)``; an encoder
          without tokens offers its pooled vector as the only one.
    """

    starts_as_sum = True

    def __init__(self, *, channels: int, text_dim: int, heads: int = 4) -> None:
        super().__init__()
        if channels % heads:
            raise ValueError(f"cross-attention: {heads} heads do not divide {channels} channels.")
        self.heads = heads
        self.norm = nn.GroupNorm(1, channels)
        self.query = nn.Conv2d(channels, channels, 1)
        self.key_value = nn.Linear(text_dim, 2 * channels)
        self.nothing = nn.Parameter(torch.zeros(1, 1, 2 * channels))
        self.out = nn.Conv2d(channels, channels, 1)
        _zero(self.out)

    def forward(
        self,
        visible: Tensor,
        infrared: Tensor,
        text: TextFeatures | None,
        guides: Mapping[str, Tensor],
    ) -> Tensor:
        text = _needs(text, "cross-attention")
        tokens = text.pooled[:, None] if text.tokens is None else text.tokens
        x = visible + infrared
        batch, channels, height, width = x.shape

        key_value = self.key_value(tokens.to(x.dtype))
        key_value = torch.cat(
            [self.nothing.to(key_value.dtype).expand(batch, -1, -1), key_value], 1
        )
        keys, values = key_value.unflatten(2, (2, self.heads, -1)).permute(2, 0, 3, 1, 4)  # B h L d
        query = self.query(self.norm(x)).flatten(2).unflatten(1, (self.heads, -1)).mT  # B h HW d

        mask = None
        if text.tokens is not None and text.mask is not None:
            mask = nn.functional.pad(text.mask, (1, 0), value=True)[:, None, None]  # B 1 1 L
        found = nn.functional.scaled_dot_product_attention(
            query.to(keys.dtype), keys, values, attn_mask=mask
        )
        found = found.mT.reshape(batch, channels, height, width)
        return (x + self.out(found)).to(x.dtype)


def _zero(layer: nn.Module) -> None:
    """Start a layer at zero, so that its branch adds nothing before it has learned."""
    nn.init.zeros_(layer.weight)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
