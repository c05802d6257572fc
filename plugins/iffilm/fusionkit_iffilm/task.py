"""Training samples: whole pairs with the paragraphs of both pictures, or with stored features."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from fusionkit.batch import Batch
from fusionkit.data import crop as cut
from fusionkit.data import resize
from fusionkit.errors import BadRequest
from fusionkit.protocols import Pair
from fusionkit.registry import Registry

KINDS = ("features", "ir", "vi")
"""Kinds of text that the network reads: a place of stored features, or two paragraphs."""


class ParagraphPairs:
    """Pairs of one size, each with the text that belongs to it.

    The text of a pair is, in this order: features that were stored for it (kind ``features``), its
    own descriptions of both pictures (``ir``, ``vi``), paragraphs that the captioner writes.

    Args:
        pairs: aligned pairs of any sizes.
        registry: where the captioner comes from.
        encoder, guides: offered to every task, not needed here.
        crop: side of a square cut out of each pair; None takes pairs at ``size``, as published.
        size: height and width of whole pictures; one that stands upright is laid on its side first,
            as in the release. None leaves pictures as they are.
        captioner: writes the paragraph of a picture.
        captioner_options: of that captioner.
    """

    def __init__(
        self,
        *,
        pairs: Sequence[Pair],
        registry: Registry | None = None,
        encoder: Any = None,
        guides: Any = None,
        crop: int | None = None,
        size: Sequence[int] | None = (288, 384),
        captioner: str = "paragraph",
        captioner_options: Mapping[str, Any] | None = None,
    ) -> None:
        self.registry, self.crop = registry, crop
        self.captioner, self.captioner_options = captioner, dict(captioner_options or {})
        self._writer: Any = None
        self.texts = [self.describe(pair) for pair in pairs]
        self.pairs = [_laid(pair, size) if crop is None and size else pair for pair in pairs]
        self.prompts = tuple(dict.fromkeys(text for texts in self.texts for text in texts.values()))

    def describe(self, pair: Pair) -> dict[str, str]:
        """The texts of a pair by kind."""
        if pair.texts.get("features"):
            return {"features": pair.texts["features"]}
        if pair.texts.get("ir") and pair.texts.get("vi"):
            return {kind: pair.texts[kind] for kind in ("ir", "vi")}
        if self._writer is None:
            registry = self.registry or Registry.from_environment()
            self._writer = registry.create("captioner", self.captioner, **self.captioner_options)
        facts = {"caption": pair.texts.get("caption"), "things": pair.things, "masks": pair.masks}
        written = {
            kind: self._writer(picture[None], modality=modality, facts=[facts])[0]
            for kind, modality, picture in (
                ("ir", "infrared", pair.infrared),
                ("vi", "visible", pair.visible),
            )
        }
        return written | {kind: pair.texts[kind] for kind in ("ir", "vi") if pair.texts.get(kind)}

    def sample(self, count: int, generator: torch.Generator) -> Batch:
        """``count`` pairs drawn with replacement."""
        rows = torch.randint(len(self.pairs), (count,), generator=generator).tolist()
        pictures = [self._pictures(self.pairs[row], generator) for row in rows]
        sizes = {tuple(visible.shape[-2:]) for visible, _ in pictures}
        if len(sizes) > 1:
            raise BadRequest(
                f"pictures of {len(sizes)} sizes cannot stand in one batch; set crop, or "
                "task_options.size to (height, width), or batch_size to 1."
            )
        return Batch(
            visible=torch.stack([visible for visible, _ in pictures]),
            infrared=torch.stack([infrared for _, infrared in pictures]),
            labels={"texts": tuple(self.texts[row] for row in rows)},
            names=tuple(self.pairs[row].name for row in rows),
        )

    def _pictures(self, pair: Pair, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        if self.crop is None:
            return pair.visible, pair.infrared
        height, width = pair.visible.shape[-2:]
        if min(height, width) < self.crop:
            pair = resize(pair, max(height, self.crop), max(width, self.crop))
            height, width = pair.visible.shape[-2:]
        corner = [
            int(torch.randint(extent - self.crop + 1, (1,), generator=generator))
            for extent in (height, width)
        ]
        part = cut(pair, *corner, self.crop, self.crop)
        return part.visible, part.infrared


def _laid(pair: Pair, size: Sequence[int]) -> Pair:
    """A pair at ``size``; an upright one is transposed first, so that nothing is squeezed."""
    height, width = pair.visible.shape[-2:]
    if (height > width) != (size[0] > size[1]):
        pair = replace(
            pair,
            visible=pair.visible.mT.contiguous(),
            infrared=pair.infrared.mT.contiguous(),
            masks={label: mask.mT.contiguous() for label, mask in pair.masks.items()},
            depth=None,
            things=(),
        )
    return resize(pair, *size)
