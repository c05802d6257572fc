"""Tiny synthetic inputs: pairs, text, whole batches, and an encoder that knows nothing.

Source: ours.
"""

import zlib
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, cosine_similarity, interpolate

from fusionkit.batch import Batch, ImageFeatures, TextFeatures
from fusionkit.protocols import Pair, Thing

TEXT_DIM = 16
"""Width of the synthetic text."""


def tiny_pairs(count: int = 2, size: int | tuple[int, int] = (24, 32), seed: int = 0) -> list[Pair]:
    """Synthetic pairs: a gradient with texture, and a warm disc that only the infrared shows.

    Each has texts of the usual kinds, a mask and a box of the disc (label ``person``), and a depth
    that grows upwards. The same arguments give the same pairs.
    """
    height, width = (size, size) if isinstance(size, int) else size
    generator = torch.Generator().manual_seed(seed)
    y = torch.linspace(0, 1, height)[:, None].expand(height, width)
    x = torch.linspace(0, 1, width)[None].expand(height, width)
    pairs = []
    for index in range(count):
        u, v = (0.25 + 0.5 * torch.rand(2, generator=generator)).tolist()
        disc = (((y - v) ** 2 + (x - u) ** 2) < 0.04).float()[None]
        texture = 0.15 * torch.rand(4, height, width, generator=generator)
        visible = (torch.stack([y, x, 1 - y]) * 0.7 + texture[:3] + 0.1).clamp(0, 1)
        infrared = (0.2 + 0.1 * x[None] + 0.6 * disc + texture[3:]).clamp(0, 1)
        rows, columns = disc[0].amax(1).nonzero().flatten(), disc[0].amax(0).nonzero().flatten()
        box = tuple(float(edge) for edge in (columns[0], rows[0], columns[-1] + 1, rows[-1] + 1))
        words = f"a person at {u:.2f}, {v:.2f}"
        pairs.append(
            Pair(
                name=f"pair-{index}",
                visible=visible,
                infrared=infrared,
                texts={kind: words for kind in ("caption", "ir", "vi", "common", "fused")},
                masks={"person": disc},
                depth=(5 + 50 * (1 - y))[None].contiguous(),
                things=(Thing("person", box, "a warm person"),),
            )
        )
    return pairs


def tiny_text(count: int = 2, dim: int = TEXT_DIM, tokens: int = 5, seed: int = 0) -> TextFeatures:
    """Features of ``count`` prompts; all but the first end in one padding token."""
    generator = torch.Generator().manual_seed(seed)
    mask = torch.ones(count, tokens, dtype=torch.bool)
    mask[1:, -1] = False
    return TextFeatures(
        pooled=torch.randn(count, dim, generator=generator),
        tokens=torch.randn(count, tokens, dim, generator=generator),
        mask=mask,
    )


def tiny_batch(
    count: int = 2,
    size: int | tuple[int, int] = (24, 32),
    *,
    text_dim: int = TEXT_DIM,
    seed: int = 0,
) -> Batch:
    """:func:`tiny_pairs` as a batch with everything a component may ask for.

    Text, prompts and texts by role; guides ``mask`` and ``heatmap``; targets ``fused`` (the
    brighter of the two pictures), ``mask``, ``visible`` and ``infrared``.
    """
    pairs = tiny_pairs(count, size, seed)
    visible = torch.stack([p.visible for p in pairs])
    infrared = torch.stack([p.infrared for p in pairs])
    mask = torch.stack([p.masks["person"] for p in pairs])
    roles = ("ir", "vi", "common", "ir_unique", "vi_unique")
    return Batch(
        visible=visible,
        infrared=infrared,
        text=tiny_text(count, text_dim, seed=seed),
        prompts=tuple(p.texts["caption"] for p in pairs),
        guides={"mask": mask, "heatmap": 0.1 + 0.8 * mask},
        texts={role: tiny_text(count, text_dim, seed=seed + 1 + i) for i, role in enumerate(roles)},
        targets={
            "fused": torch.maximum(visible, infrared),
            "mask": mask,
            "visible": visible,
            "infrared": infrared,
        },
        names=tuple(p.name for p in pairs),
    )


def first(batch: Batch) -> Batch:
    """The first pair of a batch, with all that belongs to it."""

    def cut(values: Mapping[str, Any]) -> dict[str, Any]:
        return {name: value[:1] for name, value in values.items()}

    return batch.replace(
        visible=batch.visible[:1],
        infrared=batch.infrared[:1],
        text=None if batch.text is None else batch.text[:1],
        prompts=batch.prompts[:1],
        guides=cut(batch.guides),
        texts=cut(batch.texts),
        targets=cut(batch.targets),
        labels=cut(batch.labels),
        names=batch.names[:1],
    )


class TinyEncoder(nn.Module):
    """A joint encoder of fixed random numbers: right in form, and it understands nothing.

    For components that are handed an encoder. A word is a random vector drawn from its letters, a
    prompt the mean of its words; a patch of 8 x 8 pixels is a random projection of its mean and
    spread.
    """

    text_dim = TEXT_DIM

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(11)
        self.register_buffer("projection", torch.randn(self.text_dim, 6, generator=generator))

    def encode_text(self, prompts: list[str]) -> TextFeatures:
        rows = [[_vector(word, self.text_dim) for word in p.split() or [""]] for p in prompts]
        longest = max(map(len, rows))
        tokens = torch.zeros(len(prompts), longest, self.text_dim)
        mask = torch.zeros(len(prompts), longest, dtype=torch.bool)
        for i, row in enumerate(rows):
            tokens[i, : len(row)] = torch.stack(row)
            mask[i, : len(row)] = True
        pooled = tokens.sum(1) / mask.sum(1, keepdim=True)
        return TextFeatures(pooled=pooled, tokens=tokens, mask=mask).to(self.projection.device)

    def encode_image(self, image: Tensor) -> ImageFeatures:
        image = image.expand(-1, 3, -1, -1)
        mean = avg_pool2d(image, 8, ceil_mode=True)
        spread = avg_pool2d(image.square(), 8, ceil_mode=True) - mean.square()
        patches = torch.einsum("dc,bchw->bdhw", self.projection, torch.cat([mean, spread], 1))
        return ImageFeatures(pooled=patches.mean((2, 3)), patches=patches)

    def heatmap(self, prompts: list[str], image: Tensor) -> Tensor:
        text = self.encode_text(prompts).expand(len(image)).pooled[..., None, None]
        similarity = cosine_similarity(text, self.encode_image(image).patches, dim=1)[:, None]
        heat = (similarity + 1) / 2
        return interpolate(heat, image.shape[-2:], mode="bilinear", align_corners=False).clamp(0, 1)


def _vector(word: str, dim: int) -> Tensor:
    return torch.randn(dim, generator=torch.Generator().manual_seed(zlib.crc32(word.encode())))
