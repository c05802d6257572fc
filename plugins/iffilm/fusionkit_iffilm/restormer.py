r"""The transformer block of every stage of IF-FILM: channel attention, gated convolution.

S. W. Zamir et al., "Restormer: Efficient Transformer for High-Resolution Image Restoration", CVPR
2022, figure 2, with layer normalisation over the channels of each pixel and no bias elsewhere.

Without gradients a picture is worked through in horizontal strips, and the hidden channels of a
strip in groups, so that what is written is read again from the processor's cache. The hidden maps,
eight times as large as the input, never exist as a whole; the only thing that needs the whole
picture, the C x C matrix of channel attention, is added up strip by strip. The result differs by
the rounding of sums alone.
"""

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d, gelu, linear, pad

STRIP = 20_480
GROUP = 32
"""Pixels of a strip and hidden channels worked on at once: 2.6 MB, the second-level caches of two
cores."""

EPS = 1e-12
"""Smallest norm that a row of query or key is divided by."""


class RestormerBlock(nn.Module):
    """Channel attention, then the gated feed-forward network, each with its residual.

    Args:
        channels: C.
        heads: groups of channels that attend among themselves; divides C.
        expansion: hidden channels of the feed-forward network per channel.

    Shape:
        - x, result: ``(B, C, H, W)``, any H and W

    In mixed precision the picture that both parts add to stays in single precision: it passes nine
    blocks, and rounding it at each sum is most of what bfloat16 loses.
    """

    def __init__(self, channels: int, heads: int = 8, expansion: int = 4) -> None:
        super().__init__()
        self.attention = ChannelAttention(channels, heads)
        self.feed_forward = GatedFeedForward(channels, expansion)

    def forward(self, x: Tensor) -> Tensor:
        if torch.is_autocast_enabled(x.device.type):
            x = x.float()
        return self.feed_forward(self.attention(x))


class ChannelAttention(nn.Module):
    r"""Multi-Dconv head transposed attention (MDTA): channels attend to channels over all pixels.

    .. math:: y = x + W_o\,\mathrm{softmax}(\tau\,\hat q \hat k^\top)\,v

    with q, k, v from a 1x1 and a depthwise 3x3 convolution of the normalised map, and
    :math:`\hat q, \hat k` of unit length along the pixels.
    """

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm = nn.LayerNorm(channels)
        self.temperature = nn.Parameter(torch.ones(heads, 1, 1))
        self.qkv = nn.Linear(channels, 3 * channels, bias=False)
        self.depthwise = _depthwise(3 * channels)
        self.out = nn.Linear(channels, channels, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        pixels = x.permute(0, 2, 3, 1)  # B H W C, how channels-last memory lies
        batch, channels = len(pixels), pixels.shape[-1]
        weights = tuple(zip(self.qkv.weight.chunk(3), self.depthwise.weight.chunk(3), strict=True))
        products, squares, values = [], [], []
        for strip, edges in _strips(pixels):
            normed = _factor(self.norm(strip))
            query, key, value = (_local(normed, *w, edges).flatten(1, 2) for w in weights)  # B P C
            values.append(value)
            wide = torch.promote_types(value.dtype, torch.float32)
            products.append((query.mT @ key).to(wide))
            squares.append(torch.stack([(x * x).sum(1, dtype=wide) for x in (query, key)]))
        query, key = sum(squares).clamp_min(EPS**2).sqrt()  # lengths along the pixels, B C
        cosine = sum(products) / (query[:, :, None] * key[:, None])  # B C C
        size = channels // self.heads
        blocks = cosine.reshape(batch, self.heads, size, self.heads, size)
        blocks = blocks.diagonal(dim1=1, dim2=3).permute(0, 3, 1, 2)  # B h d d
        attention = (blocks * self.temperature).softmax(-1)
        # W_o (A v) = (W_o A) v: one small matrix per picture, one product with the pixels.
        out = self.out.weight.view(channels, self.heads, size)
        mixed = torch.einsum("ohi,bhij->bhjo", out.to(wide), attention).flatten(1, 2)  # B C C
        mixed = mixed.to(values[0].dtype)
        return _plus(pixels, (value @ mixed for value in values))


class GatedFeedForward(nn.Module):
    r"""Gated-Dconv feed-forward network (GDFN): :math:`x + W_o(\mathrm{gelu}(a) \odot b)`.

    a and b are the halves of a 1x1 and a depthwise 3x3 convolution of the normalised map.
    """

    def __init__(self, channels: int, expansion: int) -> None:
        super().__init__()
        hidden = expansion * channels
        self.norm = nn.LayerNorm(channels)
        self.into = nn.Linear(channels, 2 * hidden, bias=False)
        self.depthwise = _depthwise(2 * hidden)
        self.out = nn.Linear(hidden, channels, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        pixels = x.permute(0, 2, 3, 1)
        return _plus(pixels, (self._strip(*strip) for strip in _strips(pixels)))

    def _strip(self, strip: Tensor, edges: tuple[bool, bool]) -> Tensor:
        """What is added to one strip, ``(P, C)``."""
        hidden = self.out.in_features
        group = hidden if torch.is_grad_enabled() else min(hidden, GROUP)
        into, near = self.into.weight, self.depthwise.weight
        out, normed = _factor(self.out.weight), _factor(self.norm(strip))
        result = None
        for first in range(0, hidden, group):
            opening = slice(first, first + group)
            carrying = slice(hidden + first, hidden + first + group)
            opened = gelu(_local(normed, into[opening], near[opening], edges))
            carried = _local(normed, into[carrying], near[carrying], edges)
            gated = (opened * carried).flatten(0, 2)
            leaving = out[:, opening].T
            result = gated @ leaving if result is None else result.addmm_(gated, leaving)
        return result


def _factor(x: Tensor) -> Tensor:
    """A map as products read it: rounded once, where several of them follow in mixed precision."""
    kind = x.device.type
    return x.to(torch.get_autocast_dtype(kind)) if torch.is_autocast_enabled(kind) else x


def _depthwise(channels: int) -> nn.Conv2d:
    return nn.Conv2d(channels, channels, 3, padding=1, groups=channels, bias=False)


def _strips(pixels: Tensor) -> Iterator[tuple[Tensor, tuple[bool, bool]]]:
    """Strips of ``(B, H, W, C)``, each with the row above and the row below it.

    Also whether the strip touches the upper and the lower edge of the picture. One strip with
    gradients, where the hidden maps are kept anyway.
    """
    batch, height, width, _ = pixels.shape
    rows = height if torch.is_grad_enabled() else max(4, STRIP // (batch * width))
    for start in range(0, height, rows):
        stop = min(start + rows, height)
        above, below = max(start - 1, 0), min(stop + 1, height)
        yield pixels[:, above:below], (start == 0, stop == height)


def _local(normed: Tensor, into: Tensor, near: Tensor, edges: tuple[bool, bool]) -> Tensor:
    """A 1x1 and a depthwise 3x3 convolution of ``(B, H, W, C)``.

    Zero-padded at the edges of the picture only: elsewhere the outermost rows are neighbours.
    """
    image = linear(normed, into).permute(0, 3, 1, 2)
    if edges[0] != edges[1]:
        image = pad(image, (0, 0, *map(int, edges)))
    rows = int(all(edges))
    return conv2d(image, near, padding=(rows, 1), groups=len(near)).permute(0, 2, 3, 1)


def _plus(pixels: Tensor, changes: Iterable[Tensor]) -> Tensor:
    """``(B, H, W, C)`` and what is added to each of its strips, as a ``(B, C, H, W)``.

    The sum has the precision of the picture. Each strip is added while it is fresh.
    """
    whole, start = None, 0
    for change in changes:
        change = change.view(len(pixels), -1, *pixels.shape[2:])
        if change.shape == pixels.shape:
            return (pixels + change).permute(0, 3, 1, 2)
        if whole is None:
            whole = torch.empty_like(pixels)
        rows = slice(start, start + change.shape[1])
        torch.add(pixels[:, rows], change, out=whole[:, rows])
        start = rows.stop
    return whole.permute(0, 3, 1, 2)
