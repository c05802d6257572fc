"""The values that travel down the pipeline. Frozen: a stage makes a new one, never edits.

pairs -> :class:`Batch` -> encoder -> Batch with text -> network -> :class:`Fused` -> losses and
metrics. Every picture is a float tensor in [0, 1]; the leading dimension is the batch.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad


@dataclass(frozen=True, slots=True)
class TextFeatures:
    """What an encoder says about B prompts."""

    pooled: Tensor
    """One vector per prompt, ``(B, D)``."""
    tokens: Tensor | None = None
    """One vector per token, ``(B, L, D)``."""
    mask: Tensor | None = None
    """True where a token is real, ``(B, L)`` bool; absent when every token counts."""

    def __len__(self) -> int:
        return len(self.pooled)

    def to(self, *args: Any, **kwargs: Any) -> "TextFeatures":
        """The same features on another device or in another floating-point type."""
        return _map(
            self,
            lambda t: (
                t.to(*args, **kwargs)
                if t.is_floating_point()
                else t.to(
                    *[a for a in args if not isinstance(a, torch.dtype)],
                    **{k: v for k, v in kwargs.items() if k != "dtype"},
                )
            ),
        )

    def __getitem__(self, rows: Any) -> "TextFeatures":
        """Features of the prompts picked by a slice, a list of indices or an index tensor."""
        if isinstance(rows, int):
            rows = slice(rows, rows + 1)
        return _map(self, lambda t: t[rows])

    def expand(self, count: int) -> "TextFeatures":
        """One prompt repeated for ``count`` pictures; features of ``count`` prompts unchanged."""
        if len(self) == count:
            return self
        if len(self) != 1:
            raise ValueError(
                f"{len(self)} prompts for {count} pictures: give one prompt, or one per picture."
            )
        return _map(self, lambda t: t.expand(count, *t.shape[1:]))

    @staticmethod
    def cat(parts: Sequence["TextFeatures"]) -> "TextFeatures":
        """Features of several prompt lists, one after the other; shorter ones are padded."""
        pooled = torch.cat([part.pooled for part in parts])
        if any(part.tokens is None for part in parts):
            return TextFeatures(pooled=pooled)
        lengths = {part.tokens.shape[1] for part in parts}
        if len(lengths) == 1 and all(part.mask is None for part in parts):
            return TextFeatures(pooled=pooled, tokens=torch.cat([part.tokens for part in parts]))
        tokens, masks = [], []
        for part in parts:
            mask = part.mask
            if mask is None:
                mask = torch.ones(part.tokens.shape[:2], dtype=torch.bool, device=pooled.device)
            missing = max(lengths) - part.tokens.shape[1]
            tokens.append(pad(part.tokens, (0, 0, 0, missing)))
            masks.append(pad(mask, (0, missing), value=False))
        return TextFeatures(pooled=pooled, tokens=torch.cat(tokens), mask=torch.cat(masks))


@dataclass(frozen=True, slots=True)
class ImageFeatures:
    """What a joint encoder says about B pictures."""

    pooled: Tensor
    """One vector per picture, ``(B, D)``, in the space of the text."""
    patches: Tensor
    """One vector per patch, ``(B, D, h, w)``, in the same space."""


@dataclass(frozen=True, slots=True)
class Batch:
    """B pairs of photographs, aligned to the pixel. Values are floats in [0, 1]."""

    visible: Tensor
    """``(B, 3, H, W)``, sRGB."""
    infrared: Tensor
    """``(B, 1, H, W)``."""
    text: TextFeatures | None = None
    """The prompt of each pair, encoded."""
    prompts: tuple[str, ...] = ()
    """The same prompts in words."""
    guides: Mapping[str, Tensor] = field(default_factory=dict)
    """Masks, heat maps and spatial features by name, ``(B, C, h, w)``; a map that marks a place is
    ``(B, 1, H, W)`` in [0, 1]. Computed once, used everywhere: network, losses, store."""
    texts: Mapping[str, TextFeatures] = field(default_factory=dict)
    """Further texts by role (``ir``, ``vi``, ``common`` ...) for methods that read several."""
    targets: Mapping[str, Tensor] = field(default_factory=dict)
    """What training compares with, by name: ``fused`` ``(B, 3, H, W)``, ``mask`` ``(B, 1, H, W)``,
    clean sources ``visible``, ``infrared``. Absent where there is no such truth."""
    labels: Mapping[str, tuple] = field(default_factory=dict)
    """Per-pair facts that are not tensors, by name: task, degradation, asked name."""
    names: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.visible)

    def to(self, *args: Any, **kwargs: Any) -> "Batch":
        """The same batch on another device: every tensor in it is moved."""
        return _map(self, lambda t: t.to(*args, **kwargs))

    def rows(self, rows: slice) -> "Batch":
        """Some of the pairs, with everything that belongs to them."""

        def cut(item: Any) -> Any:
            if isinstance(item, Mapping):
                return {key: cut(entry) for key, entry in item.items()}
            return item if item is None or len(item) != len(self) else item[rows]

        return replace(self, **{f.name: cut(getattr(self, f.name)) for f in fields(self)})

    def replace(self, **changes: Any) -> "Batch":
        """A copy with some fields changed."""
        return replace(self, **changes)


@dataclass(frozen=True, slots=True)
class Fused:
    """What a network returns."""

    image: Tensor
    """``(B, 3, H, W)``; in [0, 1] outside training, where a network may overshoot."""
    maps: Mapping[str, Tensor] = field(default_factory=dict)
    """Intermediate results that belong to the method (a text cube, gates, a raw one-channel
    image), by name, ``(B, C, h, w)``. Plain feature maps are taken by :mod:`fusionkit.capture`."""
    terms: Mapping[str, Tensor] = field(default_factory=dict)
    """Scalars the forward pass itself produced for the objective (router balance, say)."""


def _map(value: Any, change: Any) -> Any:
    """A copy of a dataclass with every tensor in it changed."""

    def visit(item: Any) -> Any:
        if isinstance(item, Tensor):
            return change(item)
        if isinstance(item, TextFeatures):
            return _map(item, change)
        if isinstance(item, Mapping):
            return {key: visit(entry) for key, entry in item.items()}
        return item

    return replace(value, **{f.name: visit(getattr(value, f.name)) for f in fields(value)})
