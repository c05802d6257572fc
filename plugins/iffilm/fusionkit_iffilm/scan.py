r"""The meeting of text and features in IF-FILM: text tokens ask, strips of the feature map answer.

Z. Zhao et al., "Image Fusion via Vision-Language Model", ICML 2024, figure 2 (cross attention).
The paper draws it as attention between text and image; what the released network computes is more
peculiar, and this module keeps it:

* The map is brought to a fixed grid (288 x 384), laid out in memory order, channel by channel, row
  by row, and cut into rows of 256 values. So a *strip*, what the text attends to, is a run of 256
  successive pixels of one channel: two thirds of a grid row.
* What the tokens find is averaged over the tokens and divided by its L1 norm to a *gate* of 256
  numbers. Number j multiplies every pixel whose place in its strip is j, in all channels: the gate
  is a pattern over the picture, not a weight per channel.
* The gate's absolute values sum to 1, so each is near 1/256 and the text branch starts very weak.

Only the mean over the tokens is needed, and it can be taken first: with
:math:`a = \mathrm{mean}_l\,\mathrm{softmax}(q_l K^\top)` the answer is
:math:`(aX)W_v + b_v`: the same function up to rounding, without a value for each of the 13,824
strips and without the product of tokens and strips. (The bias of the keys adds the same number to
all logits of a token, and softmax does not see it.)
"""

from collections.abc import Mapping
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate, linear
from torch.utils.checkpoint import checkpoint

from fusionkit.errors import BadRequest

GRID = (288, 384)
"""Rows and columns that every map is brought to."""
WIDTH = 256
"""Values in a strip; also the width of the text inside the network."""
CHUNK = 524_288
"""Attention weights computed at once on a processor: 2 MB, a second-level cache."""
LARGE_CHUNK = 67_108_864
"""The same elsewhere, and with gradients: 256 MB."""


class Scan(NamedTuple):
    """What the text found in one stream."""

    change: Tensor
    """The gated map behind its convolution, ``(B, C, h, w)``; the stream gains its enlargement."""
    attention: Tensor
    """Attention per head and strip, mean over the tokens, ``(B, heads, N)``; sums to 1 per head."""
    gate: Tensor
    """``(B, 256)``; absolute values sum to 1, or to the ``total`` asked for."""


class ScanGate(nn.Module):
    r"""Steps 3 to 8 of a text-guided block, for one stream.

    .. math:: X = \mathrm{scan}(\mathrm{conv}(F)),\quad g = \frac{m}{\|m\|_1},\quad
              m = \frac1L \sum_l \mathrm{attention}(T, X, X)_l,\quad
              \Delta = \mathrm{PReLU}(\mathrm{conv}(X \odot g))

    Args:
        channels: C, the depth of the map.
        grid: rows and columns of the fixed grid; together a multiple of 256 pixels, so that no
            strip lies in two channels.
        heads: of the attention.
        total: what the absolute values of the gate sum to; 1 in the paper.

    Shape:
        - feature ``(B, C, H, W)``, text ``(B, L, 256)``, weight ``(B, L)`` -> :class:`Scan`
    """

    def __init__(
        self, channels: int, grid: tuple[int, int] = GRID, heads: int = 8, total: float = 1.0
    ) -> None:
        super().__init__()
        if grid[0] * grid[1] % WIDTH:
            raise BadRequest(
                f"iffilm: a grid of {grid[0]}x{grid[1]} pixels cannot be cut into strips of "
                f"{WIDTH}; take one whose sides multiply to a multiple of {WIDTH}."
            )
        self.grid, self.heads, self.total = tuple(grid), heads, total
        self.into = nn.Conv2d(channels, channels, 1)
        self.attention = nn.MultiheadAttention(WIDTH, heads, batch_first=True)
        self.back = nn.Conv2d(channels, channels, 1)
        self.activation = nn.PReLU()

    def forward(self, feature: Tensor, text: Tensor, weight: Tensor) -> Scan:
        size = tuple(feature.shape[-2:])
        on_grid = pointwise_and_resize(self.into, feature, self.grid)
        strips = on_grid.reshape(len(feature), -1, WIDTH)  # B N 256, a scan channel by channel
        attention = self.ask(strips, text, weight)
        gate = self.answer(strips, attention)
        pattern = lay_out(gate, self.grid).to(on_grid.dtype)
        gated = on_grid * pattern
        if size[0] * size[1] < self.grid[0] * self.grid[1]:
            gated = resize(gated, size)
        return Scan(self.activation(self.back(gated)), attention, gate)

    def ask(self, strips: Tensor, text: Tensor, weight: Tensor) -> Tensor:
        """Attention to each strip per head, mean over the tokens by weight: ``(B, heads, N)``."""
        query, key = self._query_key(strips, text)
        shape, places = query.shape, key.shape[3]
        if torch.is_grad_enabled():
            attend = partial(checkpoint, _attend, use_reentrant=False)
        else:
            attend = _attend
        small = query.device.type == "cpu" and not torch.is_grad_enabled()
        most = (CHUNK if small else LARGE_CHUNK) // places
        tokens = min(shape[2], max(1, most))
        together = max(1, most // tokens)
        query, key = query.flatten(0, 1), key.flatten(0, 1)
        weight = weight.repeat_interleave(self.heads, 0)[:, None]  # B*heads 1 L
        rows = [
            sum(
                attend(q, w, keys)
                for q, w in zip(asked.split(tokens, 1), weights.split(tokens, 2), strict=True)
            )
            for asked, weights, keys in zip(
                query.split(together), weight.split(together), key.split(together), strict=True
            )
        ]
        return torch.cat(rows).view(shape[0], shape[1], places)

    def per_token(self, feature: Tensor, text: Tensor) -> Tensor:
        """Attention of every token, mean over the heads: ``(B, L, N)``. For maps, not for speed."""
        on_grid = pointwise_and_resize(self.into, feature, self.grid)
        query, key = self._query_key(on_grid.reshape(len(feature), -1, WIDTH), text)
        rows = [(q @ key).softmax(-1).mean(1) for q in query.split(16, 2)]
        return torch.cat(rows, 1)

    def answer(self, strips: Tensor, attention: Tensor) -> Tensor:
        """The gate ``(B, 256)``."""
        _, _, to_value = self.attention.in_proj_weight.chunk(3)
        bias = self.attention.in_proj_bias.chunk(3)[2]
        found = attention.to(strips.dtype) @ strips  # B heads 256
        values = torch.einsum("bhc,hdc->bhd", found, _by_head(to_value, self.heads).to(found.dtype))
        mean = self.attention.out_proj(values.flatten(1) + bias)
        return self.total * mean / mean.abs().sum(-1, keepdim=True).clamp_min(1e-12)

    def _query_key(self, strips: Tensor, text: Tensor) -> tuple[Tensor, Tensor]:
        to_query, to_key, _ = self.attention.in_proj_weight.chunk(3)
        query = linear(text, to_query, self.attention.in_proj_bias.chunk(3)[0])
        query = query * (WIDTH // self.heads) ** -0.5
        query = query.unflatten(2, (self.heads, -1)).transpose(1, 2)
        # The strips last, as the product with the queries reads them: in bfloat16 twice as fast.
        key = torch.bmm(to_key.expand(len(strips), -1, -1), strips.mT)
        key = key.unflatten(1, (self.heads, -1))
        return query, key.to(query.dtype)  # B heads L d, B heads d N


def _attend(query: Tensor, weight: Tensor, key: Tensor) -> Tensor:
    """``(G, l, d)``, ``(G, 1, l)``, ``(G, d, N)`` -> weighted sum over tokens, ``(G, 1, N)``."""
    shares = (query @ key).softmax(-1)
    return weight.to(shares.dtype) @ shares


def _by_head(weight: Tensor, heads: int) -> Tensor:
    return weight.unflatten(0, (heads, -1))


def token_weight(tokens: Tensor, mask: Tensor | None) -> Tensor:
    """Share of each token in the mean, ``(B, L)``: equal for real tokens, 0 for padding."""
    if mask is None:
        return tokens.new_full(tokens.shape[:2], 1 / tokens.shape[1])
    real = mask.to(tokens.dtype)
    return real / real.sum(1, keepdim=True).clamp_min(1)


def resize(image: Tensor, size: tuple[int, int]) -> Tensor:
    """Nearest neighbour; the same picture where the size is the same."""
    return image if tuple(image.shape[-2:]) == tuple(size) else interpolate(image, tuple(size))


def pointwise_and_resize(layer: nn.Module, image: Tensor, size: tuple[int, int]) -> Tensor:
    """``resize(layer(image))`` for a layer that treats each pixel alone, on the smaller picture."""
    if image.shape[-2] * image.shape[-1] > size[0] * size[1]:
        return layer(resize(image, size))
    return resize(layer(image), size)


def lay_out(gate: Tensor, grid: tuple[int, int]) -> Tensor:
    """The gate's pattern over the grid, ``(B, 256)`` -> ``(B, 1, h, w)``."""
    return gate.repeat(1, grid[0] * grid[1] // WIDTH).view(len(gate), 1, *grid)


def paint(scores: Tensor, grid: tuple[int, int]) -> Tensor:
    """Scores of the strips of one channel over the grid: ``(B, C, n)`` -> ``(B, C, h, w)``."""
    return scores.repeat_interleave(WIDTH, -1).unflatten(-1, tuple(grid))


def maps_of(scan: Scan, grid: tuple[int, int]) -> Mapping[str, Tensor]:
    """What the text did in one stream, each ``(B, 1, h, w)``.

    ``attention``: how much the strip at a place was attended to, mean over tokens, heads and
    channels, in units of even attention (1 is no preference). ``gate``: the pattern that multiplied
    the map. ``energy``: how much the map changed, mean over channels.
    """
    shares = scan.attention.float().mean(1)  # B N
    even = shares.shape[1]
    places = grid[0] * grid[1] // WIDTH
    by_place = shares.view(len(shares), -1, places).mean(1, keepdim=True) * even
    return {
        "attention": paint(by_place, grid),
        "gate": lay_out(scan.gate.float(), grid),
        "energy": scan.change.float().abs().mean(1, keepdim=True),
    }
