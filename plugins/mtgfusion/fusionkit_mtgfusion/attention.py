"""Attention over pixels: the block that extractor and reconstructor are made of.

The release lets every pixel attend to every other one and writes the whole table of scores: 137 GB
per block at 256x256. ``full`` computes the same without the table; its arithmetic still grows with
the square of the number of pixels. ``windowed`` and ``pooled`` are for everyday sizes.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

PIECE = 1 << 18
"""Numbers of the tokens that go through a layer together on a CPU."""
TILE, TOGETHER = 256, 8
"""Queries and keys of a tile, and how many heads are computed together: 2 MB of scores."""
HEAD = 8
"""Channels of a head: 8 heads of the released 64 channels."""
KINDS = ("full", "windowed", "pooled", "auto")
MOST = 256 * 256
"""Pixels up to which ``auto`` is ``full``: the size that the release resizes every picture to."""


@dataclass(frozen=True)
class AttentionOptions:
    """Which pixels a pixel attends to.

    ``full``: all. ``windowed``: those of its ``size`` x ``size`` window, windows shifted by half in
    every second block, smaller where the picture ends. ``pooled``: means over ``size`` x ``size``.
    ``auto``: ``full`` up to 256 x 256 pixels, ``windowed`` beyond.
    """

    kind: str = "windowed"
    size: int = 16

    def at(self, height: int, width: int) -> str:
        """The kind for a picture of that size."""
        if self.kind != "auto":
            return self.kind
        return "full" if height * width <= MOST else "windowed"

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"attention {self.kind!r} is none of {', '.join(KINDS)}.")
        if self.size < 1:
            raise ValueError(f"attention over windows of {self.size} pixels: give 1 or more.")


class PixelAttention(nn.Module):
    """Multi-head attention between pixels, mixed along the reading order.

    The release calls it multi-scale retention; there is no decay, it is softmax attention. The
    depthwise convolution runs over the row-major sequence of pixels and so from the end of a row to
    the start of the next.

    Shape:
        - ``(B, H, W, C)`` -> ``(B, H, W, C)``
    """

    def __init__(
        self, channels: int, *, attention: AttentionOptions, shifted: bool = False
    ) -> None:
        super().__init__()
        if channels % HEAD:
            raise ValueError(f"{channels} channels are no multiple of {HEAD}, the width of a head.")
        self.heads, self.attention, self.shifted = channels // HEAD, attention, shifted
        self.query_proj = nn.Linear(channels, channels)
        self.key_proj = nn.Linear(channels, channels)
        self.value_proj = nn.Linear(channels, channels)
        self.out_proj = nn.Linear(channels, channels)
        self.multi_scale_conv = nn.Conv1d(channels, channels, 3, padding=1, groups=channels)

    def forward(self, x: Tensor) -> Tensor:
        kind, size = self.attention.at(*x.shape[1:3]), self.attention.size
        if kind == "windowed":
            found = self._windowed(x, size)
        elif kind == "pooled":
            query, rest = self._asked(x).tensor_split([x.shape[-1]], -1)
            small = F.avg_pool2d(
                rest.permute(0, 3, 1, 2), size, ceil_mode=True, count_include_pad=False
            )
            key, value = small.flatten(2).mT.chunk(2, -1)
            found = attend(query.flatten(1, 2), key, value, self.heads).view(x.shape)
        else:
            found = attend(*self._asked(x).flatten(1, 2).chunk(3, -1), self.heads).view(x.shape)
        return self.out_proj(self._mix(found))

    def _asked(self, x: Tensor) -> Tensor:
        """Queries, keys and values side by side, ``(..., 3C)``."""
        parts = (self.query_proj, self.key_proj, self.value_proj)
        weight = torch.cat([p.weight for p in parts])
        return F.linear(x, weight, torch.cat([p.bias for p in parts]))

    def _windowed(self, x: Tensor, size: int) -> Tensor:
        """Attention within windows; on a CPU without gradients one row of windows at a time.

        Queries, keys and values of a whole picture would be its largest maps, and fetching memory
        for them took as long as the arithmetic.
        """
        shift = size // 2 if self.shifted else 0
        apart = x.device.type == "cpu" and not torch.is_grad_enabled()
        found = []
        for top, tall, down in _windows(x.shape[1], size, shift):
            area = x[:, top : top + tall * down]
            for rows in area.split(tall, 1) if apart else [area]:
                found.append(self._row_of_windows(rows, tall, size, shift))
        return torch.cat(found, 1)

    def _row_of_windows(self, x: Tensor, tall: int, size: int, shift: int) -> Tensor:
        """One or several rows of windows of that height."""
        batch, height, width, channels = x.shape
        down, found = height // tall, []
        qkv = self._asked(x)
        for left, wide, across in _windows(width, size, shift):
            part = qkv[:, :, left : left + wide * across]
            part = part.reshape(batch, down, tall, across, wide, 3 * channels)
            part = part.transpose(2, 3).reshape(-1, tall * wide, 3 * channels)
            part = attend(*part.chunk(3, -1), self.heads)
            part = part.view(batch, down, across, tall, wide, channels).transpose(2, 3)
            found.append(part.reshape(batch, height, across * wide, channels))
        return torch.cat(found, 2)

    def _mix(self, x: Tensor) -> Tensor:
        """x plus its depthwise convolution along the sequence of pixels."""
        before, here, after = self.multi_scale_conv.weight[:, 0].unbind(-1)
        flat = x.flatten(1, 2)
        mixed = torch.addcmul(self.multi_scale_conv.bias, flat, 1 + here)
        mixed[:, 1:] += flat[:, :-1] * before
        mixed[:, :-1] += flat[:, 1:] * after
        return mixed.view(x.shape)


def _windows(length: int, size: int, shift: int) -> Iterator[tuple[int, int, int]]:
    """Runs of equal windows along one axis: where it starts, window length, number of windows."""
    start = min(shift, length)
    if start:
        yield 0, start, 1
    whole = (length - start) // size
    if whole:
        yield start, size, whole
    rest = length - start - whole * size
    if rest:
        yield length - rest, rest, 1


def attend(
    query: Tensor, key: Tensor, value: Tensor, heads: int, mask: Tensor | None = None
) -> Tensor:
    """Softmax attention with heads side by side in the channels, scale 1/sqrt(width of a head).

    Args:
        query: ``(B, N, C)``; key, value: ``(B, M, C)``.
        mask: True where a key counts, ``(B, M)``.

    Returns:
        ``(B, N, C)``. The table of N x M scores never exists as a whole.
    """
    query, key, value = (z.unflatten(-1, (heads, -1)).transpose(1, 2) for z in (query, key, value))
    long = min(query.shape[2], key.shape[2]) >= TILE // 2
    if mask is None and long and query.device.type == "cpu" and not torch.is_grad_enabled():
        found = _tiled(query, key, value)
        return found.transpose(1, 2).flatten(2).to(query.dtype)
    if mask is not None:
        mask = mask[:, None, None]
    found = F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
    return found.transpose(1, 2).flatten(2)


def _tiled(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Softmax attention ``(B, heads, N, d)`` on a CPU: with heads this narrow, 1.7 times as fast as
    torch's kernel, whose exponential is the slower one.

    Tiles of scores stay in the cache. Powers of two, without subtracting the largest score first:
    a sum of 2^100 is far from overflow, and where scores might be larger torch's kernel serves.
    """
    batch, heads, count, width = query.shape
    q, k, v = (z.float().flatten(0, 1) for z in (query, key, value))
    q = q * (width**-0.5 / math.log(2))
    if q.norm(dim=-1).max() * k.norm(dim=-1).max() > 100:
        return F.scaled_dot_product_attention(query, key, value)
    q, k = q.mT.contiguous(), k.contiguous()
    v = torch.cat([v.mT, v.new_ones(len(v), 1, v.shape[1])], 1)  # the last row sums the weights
    sums = q.new_zeros(len(q), width + 1, count)
    kept = q.new_empty(TOGETHER * TILE * TILE)
    for g in range(0, len(q), TOGETHER):
        group = slice(g, g + TOGETHER)
        for i in range(0, count, TILE):
            asked, total = q[group, :, i : i + TILE], sums[group, :, i : i + TILE]
            for j in range(0, k.shape[1], TILE):
                keys = k[group, j : j + TILE]
                shape = len(keys), keys.shape[1], asked.shape[2]
                scores = kept[: math.prod(shape)].view(shape)
                torch.bmm(keys, asked, out=scores)
                torch.exp2(scores, out=scores)
                total.baddbmm_(v[group, :, j : j + TILE], scores)
    found = (sums[:, :width] / sums[:, width:]).mT
    return found.view(batch, heads, count, width)


class TokenBlock(nn.Module):
    """Attention and a two-layer network on normalised tokens, both residual; ``(B, H, W, C)``."""

    def __init__(
        self,
        channels: int = 64,
        expansion: int = 4,
        *,
        attention: AttentionOptions,
        shifted: bool = False,
    ) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(channels)
        self.msr = PixelAttention(channels, attention=attention, shifted=shifted)
        self.norm2 = nn.LayerNorm(channels)
        self.ffn = nn.Sequential(
            nn.Linear(channels, expansion * channels),
            nn.ReLU(),
            nn.Linear(expansion * channels, channels),
        )

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.msr(self.norm1(x))
        return in_pieces(lambda part: part + self.ffn(self.norm2(part)), x)


def in_pieces(function: Callable[[Tensor], Tensor], tokens: Tensor) -> Tensor:
    """A function of single tokens ``(B, n, ..., C)``, applied to n in pieces that fit into a cache.

    What is wide in between is then never as large as the picture. With gradients, which keep it
    all anyway, in one piece.
    """
    step = max(1, PIECE * tokens.shape[1] // tokens.numel())
    if torch.is_grad_enabled() or step >= tokens.shape[1] or tokens.device.type != "cpu":
        return function(tokens)
    first, *rest = tokens.split(step, 1)
    first = function(first)
    result = first.new_empty(tokens.shape[:-1] + first.shape[-1:])
    result[:, :step] = first
    for number, part in enumerate(rest, 1):
        result[:, number * step : (number + 1) * step] = function(part)
    return result
