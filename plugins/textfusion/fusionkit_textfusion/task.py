"""Training samples of TextFusion: a pair at half size, a sentence, the region that it means."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from fusionkit.batch import Batch
from fusionkit.errors import BadRequest
from fusionkit.guides import add_guides
from fusionkit.methods import create
from fusionkit.protocols import Guide, Pair
from fusionkit.registry import Registry

THINGS = ("person", "car", "truck", "bus", "bicycle")
"""Labels whose masks hold instances; buildings, trees and roads are "stuff", which never votes."""
SENTENCES = tuple(
    f"There is {article} on the road."
    for article in ("a person", "a car", "a truck", "a bus", "a bicycle")
)
"""Asked of pairs that come without a sentence; what is not there has no region or a wrong one."""
SMALLEST = 12
"""Pixels below which a piece of a mask is no instance."""


class SentenceTask:
    """Every pair under every one of its sentences.

    The released loop, by an oversight in its counting, visits the first five pairs of a shuffled
    list; here pairs and sentences are drawn evenly. Pictures and region are halved (bilinear), as
    the authors train.

    Args:
        pairs: with sentences (:class:`~fusionkit_textfusion.datasets.Ivt`), descriptions, or
            neither.
        registry: where the guide comes from.
        encoder: the run's encoder, for the guide.
        guides: guides of the recipe that the network reads; added to every sample.
        crop: side of a random window at the reduced size, pixels; None takes whole pictures.
        scale: size of the samples against that of the pairs.
        sentences: for pairs that have none.
        association: options of the guide ``association``, which is asked for pairs that bring no
            map of their own. It is for the losses alone: fusing needs none.
    """

    def __init__(
        self,
        *,
        pairs: Sequence[Pair],
        registry: Registry,
        encoder: Any = None,
        guides: Mapping[str, Guide] | None = None,
        crop: int | None = None,
        scale: float = 0.5,
        sentences: Sequence[str] = SENTENCES,
        association: Mapping[str, Any] | None = None,
    ) -> None:
        if not 0 < scale <= 1:
            raise BadRequest(f"scale={scale}: a share of the pictures' size in (0, 1].")
        self.pairs, self.crop, self.scale = pairs, crop, scale
        if crop is not None and any(min(self._size(i)) < crop for i in range(len(pairs))):
            raise BadRequest(
                f"crop={crop}: some pairs are smaller at {scale:g} of their size; crop less, or "
                "take larger pictures."
            )
        self.read_guides = dict(guides or {})
        self.sentences = [_sentences(pair) or dict.fromkeys(sentences) for pair in pairs]
        self.prompts = tuple(dict.fromkeys(s for own in self.sentences for s in own))
        self.guides = self.read_guides
        if any(name is None for own in self.sentences for name in own.values()):
            guide = create(registry, "guide", "association", association or {}, encoder=encoder)
            self.guides = {**self.read_guides, "association": guide}
        self._regions: dict[tuple[int, str], Tensor] = {}

    def sample(self, count: int, generator: torch.Generator) -> Batch:
        """``count`` pairs of one size, each under one of its sentences."""
        first = _draw(len(self.pairs), generator)
        size = self._size(first)
        picked = [first]
        while len(picked) < count:
            other = _draw(len(self.pairs), generator)
            if self.crop is not None or self._size(other) == size:
                picked.append(other)
        rows = [self._row(index, generator) for index in picked]
        visible, infrared, region = (torch.stack([row[k] for row in rows]) for k in range(3))
        batch = Batch(
            visible=visible.clamp(0, 1),
            infrared=infrared.clamp(0, 1),
            prompts=tuple(row[3] for row in rows),
            guides={"association": region},
            names=tuple(self.pairs[index].name for index in picked),
        )
        return add_guides(batch, self.read_guides) if self.read_guides else batch

    def prompts_for(self, index: int) -> list[str]:
        """Two sentences worth showing for a pair."""
        return [*self.sentences[index], *SENTENCES][:2]

    def region(self, index: int, sentence: str) -> Tensor:
        """B of a pair under a sentence, ``(1, H, W)``: its own, else the guide's, drawn once."""
        pair, key = self.pairs[index], (index, sentence)
        if (mask := self.sentences[index][sentence]) is not None:
            return pair.masks[mask]
        if key not in self._regions:
            maps = instances_of(pair)
            batch = Batch(
                visible=pair.visible[None],
                infrared=pair.infrared[None],
                prompts=(sentence,),
                guides={} if maps is None else {"instances": maps[None]},
            )
            self._regions[key] = self.guides["association"](batch)["association"][0].cpu() > 0.5
        return self._regions[key].float()

    def _row(self, index: int, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor, str]:
        pair = self.pairs[index]
        own = list(self.sentences[index])
        sentence = own[_draw(len(own), generator)]
        maps = pair.visible, pair.infrared, self.region(index, sentence)
        if self.scale != 1:
            maps = tuple(
                interpolate(x[None], self._size(index), mode="bilinear", align_corners=False)[0]
                for x in maps
            )
        if self.crop is not None:
            top, left = (_draw(extent - self.crop + 1, generator) for extent in self._size(index))
            window = slice(top, top + self.crop), slice(left, left + self.crop)
            maps = tuple(x[:, *window] for x in maps)
        return *maps, sentence

    def _size(self, index: int) -> tuple[int, int]:
        return tuple(max(8, int(s * self.scale)) for s in self.pairs[index].visible.shape[-2:])


def instances_of(pair: Pair) -> Tensor | None:
    """Connected pieces of the masks of things, ``(N, H, W)`` bool; None without such masks."""
    from scipy.ndimage import label

    named = [pair.masks[name][0] > 0.5 for name in THINGS if name in pair.masks]
    if not pair.masks or all(name.startswith("association:") for name in pair.masks):
        return None
    pieces = []
    for mask in named:
        numbers, count = label(mask.numpy())
        pieces += [numbers == k for k in range(1, count + 1) if (numbers == k).sum() >= SMALLEST]
    empty = np.zeros((0, *pair.visible.shape[-2:]), bool)
    return torch.from_numpy(np.stack(pieces) if pieces else empty)


def _sentences(pair: Pair) -> dict[str, str | None]:
    """Sentences of a pair, each with the name of the mask that is its region, or None."""
    numbered = {kind: text for kind, text in pair.texts.items() if kind.isdigit()}
    if numbered:
        return {
            text: name if (name := f"association:{kind}") in pair.masks else None
            for kind, text in numbered.items()
        }
    kinds = ("caption", "caption_2", "caption_3", "fused", "common", "vi", "ir")
    return {pair.texts[kind]: None for kind in kinds if pair.texts.get(kind, "").strip()}


def _draw(below: int, generator: torch.Generator) -> int:
    return int(torch.randint(below, (1,), generator=generator))
