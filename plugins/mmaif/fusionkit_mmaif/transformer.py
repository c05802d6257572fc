"""The layers of the latent transformer, in the order of the paper's figure of one block.

Position embedding, NAF block, then attention and experts, each behind a normalisation that the
condition scales and shifts and a gate that it opens. Tokens are ``(B, N, D)`` on a grid of h rows
and w columns, N = h w, row-major.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate, layer_norm, scaled_dot_product_attention, silu

from fusionkit_mmaif.experts import MoeGlu, Routing
from fusionkit_mmaif.rope import rotate

EPS = 1e-6
PLACES = 16
"""Side of the grid that the learnt position embedding is stored at."""

Grid = tuple[int, int]


def normalise(x: Tensor) -> Tensor:
    """Layer normalisation over the last axis, without weights; computed in full precision."""
    return layer_norm(x, x.shape[-1:], eps=EPS)


def to_map(tokens: Tensor, grid: Grid) -> Tensor:
    """``(B, N, D)`` as ``(B, D, h, w)`` in channels-last memory, without a copy."""
    return tokens.unflatten(1, grid).permute(0, 3, 1, 2)


def to_tokens(x: Tensor) -> Tensor:
    """``(B, D, h, w)`` as ``(B, h w, D)``; no copy of a channels-last map."""
    return x.permute(0, 2, 3, 1).flatten(1, 2)


class LoraAdaLN(nn.Module):
    r"""Six vectors of width D from the condition, through a bottleneck of rank r.

    .. math:: (\gamma_1, \beta_1, \alpha_1, \gamma_2, \beta_2, \alpha_2)
        = U\,V\,\mathrm{SiLU}(c) + u

    U and u start at zero, so scales, shifts and gates do.

    Source: MMAIF (ICCV 2025), "LoRA-AdaLN"; W. Peebles, S. Xie, "Scalable Diffusion Models with
    Transformers", ICCV 2023, adaLN-Zero.

    Args:
        dim: width of the condition.
        rank: r.
        vectors: how many.
        out: width of each; None is ``dim``.

    Shape:
        - ``(B, dim)`` -> ``vectors`` times ``(B, 1, out)``
    """

    def __init__(self, dim: int, rank: int, vectors: int = 6, out: int | None = None) -> None:
        super().__init__()
        self.vectors = vectors
        self.down = nn.Linear(dim, rank, bias=False)
        self.up = nn.Linear(rank, vectors * (out or dim))
        nn.init.zeros_(self.up.weight)
        nn.init.zeros_(self.up.bias)

    def forward(self, condition: Tensor) -> tuple[Tensor, ...]:
        return self.up(self.down(silu(condition)))[:, None].chunk(self.vectors, -1)


class NafMixer(nn.Module):
    """The first half of a NAF block: depth-wise convolution, a product for a gate, channel weights.

    It gives attention the bias of a convolution. Starts as the identity.

    Source: L. Chen et al., "Simple Baselines for Image Restoration", ECCV 2022, fig. 3.

    Shape:
        - ``(B, D, h, w)`` -> the same
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim, eps=EPS)
        self.widen = nn.Linear(dim, 2 * dim)
        self.spread = nn.Conv2d(2 * dim, 2 * dim, 3, padding=1, groups=2 * dim)
        self.channels = nn.Linear(dim, dim)
        self.out = nn.Linear(dim, dim)
        self.strength = nn.Parameter(torch.zeros(dim))

    def forward(self, x: Tensor) -> Tensor:
        y = self.widen(self.norm(x.permute(0, 2, 3, 1)))  # B h w 2D
        y = self.spread(y.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        first, second = y.chunk(2, -1)
        y = first * second
        y = self.out(y * self.channels(y.mean((1, 2), keepdim=True)))
        return x + (self.strength * y).permute(0, 3, 1, 2)


class Attention(nn.Module):
    r"""Attention of all tokens to all, with rotary positions and a share of the values before.

    .. math:: V^l = (1 - \eta) W_V Y + \eta V^{l-1}

    with :math:`\eta` learnt, 1/2 at the start. Queries and keys are normalised by their root mean
    square, head by head, and only those of the picture are turned: text tokens have no place.

    Source: MMAIF (ICCV 2025); Z. Zhou et al., "Value Residual Learning", 2024, for the values.

    Args:
        dim, heads: D, and how many heads share it.
        first: the first layer has no values before it.
    """

    def __init__(self, dim: int, heads: int, first: bool) -> None:
        super().__init__()
        self.heads = heads
        self.query_key_value = nn.Linear(dim, 3 * dim)
        self.query_norm = nn.RMSNorm(dim // heads, eps=EPS)
        self.key_norm = nn.RMSNorm(dim // heads, eps=EPS)
        self.out = nn.Linear(dim, dim)
        self.share = None if first else nn.Parameter(torch.zeros(()))

    def forward(
        self,
        tokens: Tensor,
        turn: tuple[Tensor, Tensor],
        values_before: Tensor | None,
        mask: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """
        Args:
            tokens: ``(B, T + N, D)``, T text tokens first.
            turn: of :func:`~fusionkit_mmaif.rope.rotation`, for the N last.
            values_before: the mixed values of the layer before, ``(B, heads, T + N, d)``.
            mask: ``(B, 1, 1, T + N)``, True where a token may be attended to.

        Returns:
            ``(B, T + N, D)``, and this layer's mixed values.
        """
        whole = self.query_key_value(tokens).unflatten(2, (3, self.heads, -1))
        query, key, value = whole.permute(2, 0, 3, 1, 4)  # B heads T+N d
        if self.share is not None:
            value = torch.lerp(value, values_before, torch.sigmoid(self.share).to(value.dtype))
        words = tokens.shape[1] - len(turn[0])
        query, key = (
            _turned(norm(x.to(norm.weight.dtype)), turn, words).to(value.dtype)
            for norm, x in ((self.query_norm, query), (self.key_norm, key))
        )
        found = scaled_dot_product_attention(query, key, value, attn_mask=mask)
        return self.out(found.transpose(1, 2).flatten(2)), value


def _turned(x: Tensor, turn: tuple[Tensor, Tensor], words: int) -> Tensor:
    if not words:
        return rotate(x, turn)
    return torch.cat([x[:, :, :words], rotate(x[:, :, words:], turn)], 2)


class Layer(nn.Module):
    """One layer of the transformer.

    Args:
        dim, heads: D and the heads of the attention.
        hidden, experts, top_k, capacity: of :class:`~fusionkit_mmaif.experts.MoeGlu`.
        rank: of the condition's bottleneck.
        first: whether it is the first one.
    """

    def __init__(
        self,
        dim: int,
        heads: int,
        *,
        hidden: int,
        experts: int,
        top_k: int,
        capacity: float | None,
        rank: int,
        first: bool,
    ) -> None:
        super().__init__()
        self.positions = nn.Parameter(torch.zeros(1, dim, PLACES, PLACES))
        self.mixer = NafMixer(dim)
        self.condition = LoraAdaLN(dim, rank)
        self.attention = Attention(dim, heads, first)
        self.experts = MoeGlu(dim, hidden, experts, top_k, capacity)

    def forward(
        self,
        tokens: Tensor,
        words: Tensor | None,
        grid: Grid,
        *,
        condition: Tensor,
        turn: tuple[Tensor, Tensor],
        values_before: Tensor | None,
        mask: Tensor | None,
        scheme: Callable[[Tensor], Tensor] | None = None,
    ) -> tuple[Tensor, Tensor | None, Tensor, Routing]:
        """Image tokens, text tokens (None without), mixed values, and what the router decided.

        ``scheme`` is another way for the text to enter: a function of the normalised tokens as a
        map, before the condition scales and shifts them.
        """
        g1, b1, a1, g2, b2, a2 = self.condition(condition)
        x = to_map(tokens, grid) + self.places(grid, tokens.dtype)
        tokens = to_tokens(self.mixer(x))

        y = normalise(tokens)
        if scheme is not None:
            y = to_tokens(scheme(to_map(y, grid)))
        y = y * (1 + g1) + b1
        if words is None:
            found, values = self.attention(y, turn, values_before, mask)
        else:
            both = torch.cat([normalise(words).to(y.dtype), y], 1)
            found, values = self.attention(both, turn, values_before, mask)
            said, found = found.split([words.shape[1], y.shape[1]], 1)
            words = words + said
        tokens = tokens + a1 * found

        found, routing = self.experts(normalise(tokens) * (1 + g2) + b2)
        if words is not None:
            words = words + self.experts.shared(normalise(words))
        return tokens + a2 * found, words, values, routing

    def places(self, grid: Grid, dtype: torch.dtype) -> Tensor:
        """The position embedding at the size of the grid, ``(1, D, h, w)``."""
        if grid == (PLACES, PLACES):
            return self.positions.to(dtype)
        with torch.autocast(self.positions.device.type, enabled=False):
            return interpolate(self.positions, grid, mode="bicubic", align_corners=False).to(dtype)
