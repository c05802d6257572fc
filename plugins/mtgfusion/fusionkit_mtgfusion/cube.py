"""The text cube and its reordering: one text vector for every pixel.

The released network spreads each text over the whole picture and lets four convolutional blocks act
on the constant map. Nothing in such a map depends on the picture: it differs from its middle only
near the border, so that a cube of any size holds at most 81 different vectors. They are computed on
a map just large enough to have every kind of border, and are looked up from there: the same values
at about a thousandth of the arithmetic.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

PIECE = 1 << 24
"""Scores held at once while the nearest text vectors are searched."""


@dataclass(frozen=True)
class TextCube:
    """A cube ``(B, H, W, C)`` by its different vectors and where each of them stands."""

    vectors: Tensor
    """``(B, M, C)``."""
    index: Tensor
    """``(H, W)``, whole numbers below M: which vector a pixel has."""
    grid: tuple[int, int]
    """M as rows and columns, for looking at it."""

    def full(self) -> Tensor:
        """The cube as it is defined, ``(B, H, W, C)``."""
        return self.vectors[:, self.index]


class TextNorm(nn.BatchNorm2d):
    """Batch normalisation of a map that stands for a larger one.

    ``counts`` ``(h, w)`` says how many pixels of the full map each place stands for, so that
    training statistics are those of the full map. They are taken only where the batch holds
    different texts: over copies of one constant map the variance is that of its border, and
    normalising by it would leave nothing but border. Otherwise the running statistics serve.
    """

    def forward(self, x: Tensor, counts: Tensor, varied: bool) -> Tensor:
        if not (self.training and varied):
            return F.batch_norm(
                x, self.running_mean, self.running_var, self.weight, self.bias, False, 0.0, self.eps
            )
        x = at_least_single(x)
        total = counts.sum() * len(x)
        share = counts / total
        mean = (x * share).sum((0, 2, 3))
        centred = x - mean[:, None, None]
        variance = (centred.square() * share).sum((0, 2, 3))
        with torch.no_grad():
            self.num_batches_tracked += 1
            unbiased = variance * total / (total - 1)
            self.running_mean.lerp_(mean.to(self.running_mean.dtype), self.momentum)
            self.running_var.lerp_(unbiased.to(self.running_var.dtype), self.momentum)
        scale = self.weight * (variance + self.eps).rsqrt()
        return centred * scale[:, None, None] + self.bias[:, None, None]


class CycleBlock(nn.Module):
    """Residual block with a shift: normalise, widen, roll one pixel right, convolve, narrow."""

    def __init__(self, channels: int, expansion: int = 4) -> None:
        super().__init__()
        wide = channels * expansion
        self.norm = TextNorm(channels)
        self.mlp1 = nn.Sequential(nn.Conv2d(channels, wide, 1), nn.ReLU())
        self.dw_conv = nn.Conv2d(wide, wide, 3, padding=1, groups=wide)
        self.mlp2 = nn.Conv2d(wide, channels, 1)

    def forward(self, x: Tensor, counts: Tensor, varied: bool) -> Tensor:
        wide = self.mlp1(self.norm(x, counts, varied))
        return x + self.mlp2(self.dw_conv(wide.roll(1, 3)).relu())


class TextMap(nn.Module):
    """A pooled text -> the map of one branch, at the small size that stands for every size.

    Args:
        channels: C, width of the text and of the map.
        blocks: number of cycle blocks.
        name: what the blocks are called in the state dict.
        margin: how many pixels further a convolution behind this branch will look.

    Shape:
        - pooled ``(B, C)`` -> map ``(B, C, h, w)``, see :meth:`grid`
    """

    def __init__(
        self, channels: int, blocks: int = 4, *, name: str = "blocks", margin: int = 0
    ) -> None:
        super().__init__()
        self.fc = nn.Linear(channels, channels)
        self.add_module(name, nn.ModuleList(CycleBlock(channels) for _ in range(blocks)))
        self.name = name
        # A zero-padded 3x3 convolution changes one more pixel at each border; the roll carries the
        # right border to the left and pushes the left one inwards.
        left, right = (2 * blocks - 1, 1) if blocks else (0, 0)
        self.reach = blocks + margin, blocks + margin, left + margin, right + margin

    def grid(self, size: tuple[int, int], device: torch.device) -> tuple[Tensor, Tensor]:
        """Row and column of the small map at which each row and column of the picture stands."""
        top, bottom, left, right = self.reach
        return (
            _places(size[0], top, bottom, device),
            _places(size[1], left, right, device),
        )

    def forward(self, pooled: Tensor, size: tuple[int, int]) -> Tensor:
        top, bottom, left, right = self.reach
        tall, wide = _counts(size[0], top, bottom), _counts(size[1], left, right)
        counts = torch.outer(torch.tensor(tall), torch.tensor(wide)).to(pooled.device)
        x = self.fc(pooled).relu()[..., None, None].expand(-1, -1, len(tall), len(wide))
        varied = self.training and len(pooled) > 1 and not bool((pooled == pooled[:1]).all())
        for block in getattr(self, self.name):
            x = block(x, counts, varied)
        return x


def _counts(length: int, before: int, after: int) -> list[float]:
    """How many pixels each place of the small map stands for."""
    if length <= before + after + 1:
        return [1.0] * length
    return [1.0] * before + [float(length - before - after)] + [1.0] * after


def _places(length: int, before: int, after: int, device: torch.device) -> Tensor:
    """``0 .. before-1``, the middle as often as needed, then the last ``after``."""
    place = torch.arange(length, device=device)
    if length <= before + after + 1:
        return place
    return torch.where(
        place < length - after, place.clamp(max=before), place - (length - before - after - 1)
    )


def at_least_single(x: Tensor) -> Tensor:
    """Half precision as float32, for distances, statistics and recursions. Wider types stay."""
    return x.float() if x.dtype in (torch.bfloat16, torch.float16) else x


def spread(small: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """A small map ``(B, C, h, w)`` at the picture's size."""
    return small[..., rows[:, None], columns]


def reorder(
    visual: Tensor, vectors: Tensor, *, metric: str = "cosine", detach: bool = False
) -> tuple[Tensor, Tensor]:
    r"""For every pixel the most similar text vector of the picture.

    ``cosine`` (released program): both sides are divided by their norm + 1e-6, the nearest is
    taken, and the *normalised* vector is handed on. ``l2``: the nearest of the raw vectors, raw.

    Args:
        visual: features ``(B, N, C)``.
        vectors: candidates ``(B, M, C)``: all pixels of a cube, or its different vectors.
        metric: ``cosine`` or ``l2``.
        detach: keep the gradient out of the text, as the release does.

    Returns:
        The vectors ``(B, N, C)`` and the index of each ``(B, N)``; the lowest index among equals.
        Memory is bounded whatever N and M: scores are made in pieces.
    """
    if metric not in ("cosine", "l2"):
        raise ValueError(f"reorder: metric {metric!r} is neither 'cosine' nor 'l2'.")
    if detach:
        vectors = vectors.detach()
    if metric == "cosine":
        vectors = vectors / (vectors.norm(dim=-1, keepdim=True) + 1e-6)
    with torch.no_grad():
        if metric == "cosine":
            visual = visual / (visual.norm(dim=-1, keepdim=True) + 1e-6)
        index = _nearest(visual, vectors)
    chosen = torch.gather(vectors, 1, index[..., None].expand(-1, -1, vectors.shape[-1]))
    return chosen, index


def _nearest(points: Tensor, candidates: Tensor) -> Tensor:
    """Index of the nearest candidate in the Euclidean sense, ``(B, N)``."""
    half = candidates.square().sum(-1)[:, None] / -2  # argmin |c - p|^2 = argmax c.p - |c|^2/2
    step = max(1, PIECE // (candidates.shape[1] * len(points)))
    found = [
        torch.baddbmm(half, piece, candidates.mT).argmax(-1) for piece in points.split(step, 1)
    ]
    return torch.cat(found, 1)


def reorder_rank_one(visual: Tensor, scale: Tensor, direction: Tensor) -> tuple[Tensor, Tensor]:
    r"""Nearest vector of a cube whose vectors are all multiples :math:`s_q m` of one vector.

    :math:`\arg\min_q |s_q m - v|^2 = \arg\min_q |s_q - s^*|` with :math:`s^* = v \cdot m / |m|^2`,
    so sorted once, each pixel is one binary search: O(N log N), no table of pairs.

    Args:
        visual: ``(B, N, C)``; scale: ``(B, M)``; direction: ``(B, C)``, of the same or higher
            precision, in which the search is made.

    Returns:
        The vectors ``(B, N, C)`` and their indices ``(B, N)``.
    """
    with torch.no_grad():
        norm = direction.square().sum(-1, keepdim=True).clamp(min=1e-12)
        wanted = (visual.to(direction.dtype) @ direction[..., None])[..., 0] / norm
        ordered, order = scale.sort(dim=-1, stable=True)
        above = torch.searchsorted(ordered, wanted.contiguous()).clamp(max=scale.shape[1] - 1)
        below = (above - 1).clamp(min=0)
        low, high = ordered.gather(1, below), ordered.gather(1, above)
        nearest = torch.where((wanted - low).abs() <= (high - wanted).abs(), below, above)
        index = order.gather(1, nearest)
    chosen = scale.gather(1, index)[..., None] * direction[:, None]
    return chosen.to(visual.dtype), index
