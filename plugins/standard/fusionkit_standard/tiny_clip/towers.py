"""The two towers of tiny-clip and the space they share.

Text: a causal transformer as in CLIP (Radford et al., "Learning Transferable Visual Models From
Natural Language Supervision", ICML 2021), normalised first, pooled at end-of-text. Image: a
convolutional stem, then transformer layers on stride-8 tokens, because a plain patch transformer
of this size learns far less in the same time; a lateral path brings the stem's stride-4 detail
back into the dense features, because persons and poles are thinner than eight pixels. Heat maps
score with a learned scale and bias under a sigmoid (Zhai et al., "Sigmoid Loss for Language Image
Pre-Training", ICCV 2023), so a score means the same in every picture.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

CONFIG: dict[str, Any] = {
    "joint": 128,  # width of the shared space
    "text": {"vocabulary": 1024, "length": 24, "width": 128, "layers": 2, "heads": 4},
    "image": {
        "size": 128,  # side of the square the position table belongs to
        "stem": (24, 64, 128),  # channels at stride 2, 4, 8
        "blocks": (1, 1, 2),  # residual blocks at each
        "layers": 2,
        "heads": 2,
    },
}
"""Every number of the architecture."""


class Layer(nn.Module):
    """One transformer layer, normalisation first. ``(B, L, width)`` in and out."""

    def __init__(self, width: int, heads: int, causal: bool) -> None:
        super().__init__()
        self.heads, self.causal = heads, causal
        self.norm_attention, self.norm_mlp = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.expand, self.contract = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        qkv = self.qkv(self.norm_attention(x)).unflatten(-1, (3, self.heads, -1))
        query, key, value = qkv.permute(2, 0, 3, 1, 4)  # B L (3 heads d) -> 3 x (B heads L d)
        # Written out: at these sizes the fused kernel is half as fast on a CPU, backward above all.
        scores = (query * query.shape[-1] ** -0.5) @ key.transpose(-1, -2)
        if self.causal:
            later = torch.ones(scores.shape[-2:], dtype=torch.bool, device=x.device).triu(1)
            scores = scores.masked_fill(later, float("-inf"))
        x = x + self.out((scores.softmax(-1) @ value).transpose(1, 2).flatten(2))
        return x + self.contract(F.gelu(self.expand(self.norm_mlp(x))))


class TextTower(nn.Module):
    """Ids ``(B, L)`` -> pooled ``(B, joint)`` of unit length and tokens ``(B, L, joint)``.

    Causal, so padding after end-of-text changes nothing and ``L`` may be anything up to the
    configured length.
    """

    def __init__(
        self, joint: int, vocabulary: int, length: int, width: int, layers: int, heads: int
    ) -> None:
        super().__init__()
        self.embed = nn.Embedding(vocabulary, width)
        self.position = nn.Parameter(torch.randn(length, width) * 0.01)
        self.layers = nn.ModuleList(Layer(width, heads, causal=True) for _ in range(layers))
        self.norm = nn.LayerNorm(width)
        self.project = nn.Linear(width, joint, bias=False)
        nn.init.normal_(self.embed.weight, std=0.02)

    def forward(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        x = self.embed(ids) + self.position[: ids.shape[1]]
        for layer in self.layers:
            x = layer(x)
        tokens = self.project(self.norm(x))
        pooled = tokens[torch.arange(len(ids), device=ids.device), ids.argmax(1)]
        return F.normalize(pooled.float(), dim=-1), tokens


class Residual(nn.Module):
    """Two 3x3 convolutions beside an identity. ``(B, C, h, w)`` in and out."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first, self.second = _conv(channels, channels), _conv(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x + self.second(F.relu(self.first(x))))


class ImageTower(nn.Module):
    """Pictures ``(B, 3, H, W)`` in [0, 1], sides multiples of 8 -> pooled and dense features.

    Returns ``pooled (B, joint)`` of unit length and ``dense (B, joint, H/4, W/4)`` of free length:
    whoever compares it normalises it, whoever wants stride 8 averages it first.
    """

    stride = 8

    def __init__(
        self,
        joint: int,
        size: int,
        stem: tuple[int, int, int],
        blocks: tuple[int, int, int],
        layers: int,
        heads: int,
    ) -> None:
        super().__init__()
        side, width = size // self.stride, stem[-1]
        self.stages = nn.ModuleList(
            nn.Sequential(
                _conv(before, after, stride=2), nn.ReLU(), *map(Residual, [after] * count)
            )
            for before, after, count in zip((3, *stem), stem, blocks, strict=False)
        )
        self.position = nn.Parameter(torch.randn(1, width, side, side) * 0.01)
        self.summary = nn.Parameter(torch.randn(1, 1, width) * 0.01)
        self.layers = nn.ModuleList(Layer(width, heads, causal=False) for _ in range(layers))
        self.norm = nn.LayerNorm(width)
        self.project = nn.Linear(width, joint, bias=False)
        self.unfold = nn.Linear(width, 4 * width)
        self.lateral = nn.Conv2d(stem[1], width, 1)
        self.project_dense = nn.Conv2d(width, joint, 1, bias=False)

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        x, kept = (image - 0.5) * 4, []
        for stage in self.stages:
            x = stage(x)
            kept.append(x)
        position = self.position
        if position.shape[-2:] != x.shape[-2:]:
            position = F.interpolate(position, x.shape[-2:], mode="bicubic", align_corners=False)
        tokens = (x + position).flatten(2).transpose(1, 2)  # B C h w -> B (h w) C
        tokens = torch.cat([self.summary.expand(len(x), -1, -1).to(tokens.dtype), tokens], 1)
        for layer in self.layers:
            tokens = layer(tokens)
        tokens = self.norm(tokens)
        pooled = F.normalize(self.project(tokens[:, 0]).float(), dim=-1)
        raised = self.unfold(tokens[:, 1:]).transpose(1, 2).unflatten(-1, x.shape[-2:])
        dense = self.project_dense(F.relu(F.pixel_shuffle(raised, 2) + self.lateral(kept[1])))
        return pooled, dense


class Towers(nn.Module):
    """Both towers and the scalars that turn cosines into scores. Built from :data:`CONFIG`."""

    def __init__(self, config: dict[str, Any] = CONFIG) -> None:
        super().__init__()
        self.text = TextTower(config["joint"], **config["text"])
        self.image = ImageTower(config["joint"], **config["image"])
        self.scale = nn.Parameter(torch.tensor(2.3))  # log; about 10
        self.bias = nn.Parameter(torch.tensor(-4.0))
        self.scale_class = nn.Parameter(torch.tensor(2.3))
        self.scale_pooled = nn.Parameter(torch.tensor(2.6))  # about 14, the start of CLIP

    def cosine(self, text: Tensor, dense: Tensor) -> Tensor:
        """How well each of K texts fits each place, ``(B, K, h, w)`` in [-1, 1].

        Args:
            text: ``(B, K, joint)`` of unit length, or ``(K, joint)`` when every picture is asked
                the same.
            dense: ``(B, joint, h, w)``, of any length.
        """
        text = text.expand(len(dense), -1, -1) if text.dim() == 2 else text
        # Dividing K products is cheaper than dividing 128 channels.
        length = dense.float().square().sum(1, keepdim=True).clamp_min(1e-12).sqrt()
        return torch.einsum("bkd,bdhw->bkhw", text, dense.to(text.dtype)).float() / length

    def logits(self, text: Tensor, dense: Tensor) -> Tensor:
        """Scores before the sigmoid: :meth:`cosine`, scaled and shifted, ``(B, K, h, w)``."""
        return self.scale.exp() * self.cosine(text, dense) + self.bias


def _conv(before: int, after: int, kernel: int = 3, stride: int = 1) -> nn.Sequential:
    """Convolution and normalisation."""
    return nn.Sequential(
        nn.Conv2d(before, after, kernel, stride, kernel // 2, bias=False),
        nn.BatchNorm2d(after),
    )
