"""Training samples: a crop of a pair, a list of phrases, and the mask of what they name."""

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

import torch
from torch import Tensor

from fusionkit.batch import Batch
from fusionkit.errors import BadRequest
from fusionkit.guides import add_guides
from fusionkit.protocols import Guide, Pair
from fusionkit.registry import Registry
from fusionkit_coresemantic.masks import phrases, softened
from fusionkit_coresemantic.network import MASK

NAMES = ("person", "car", "truck", "bus", "bicycle", "building", "tree")
"""What is named where pairs come without words of their own."""


class NamedRegions:
    """Pairs under lists of phrases.

    A list names one or two things. With true masks (rendered scenes, ``mask/<label>/`` folders) it
    names what the pair shows, and its mask is theirs, dilated and feathered. Without, a pair is
    asked by the phrases of its own ``caption`` where it has one (``text/NAME.txt``), else by any of
    ``names``, and the guide that gives ``mask`` finds them; it is asked once for each pair and
    list, and answers are kept with 8 bits.

    Args:
        pairs: aligned pairs.
        registry: offered to every task, not needed here.
        encoder: likewise.
        guides: the recipe's. The one that gives ``mask`` is asked for pairs without masks; others
            are drawn for every sample.
        crop: height and width of a sample in pixels; None takes pictures whole.
        names: labels of true masks that may be named, and phrases for pairs without words.
        empty_share: share of samples without text and mask, so that the network works without.
        flips: whether samples are mirrored at random, both ways.
        smallest: share of the picture below which a thing is not named.
    """

    def __init__(
        self,
        *,
        pairs: Sequence[Pair],
        registry: Registry,
        encoder: Any = None,
        guides: Mapping[str, Guide] | None = None,
        crop: int | None = 128,
        names: Sequence[str] = NAMES,
        empty_share: float = 0.15,
        flips: bool = True,
        smallest: float = 0.001,
    ) -> None:
        if not 0 <= empty_share <= 1:
            raise BadRequest(f"empty_share={empty_share}: a share in [0, 1].")
        self.pairs, self.crop, self.names = pairs, crop, tuple(names)
        self.empty_share, self.flips, self.smallest = empty_share, flips, smallest
        self.guides = dict(guides or {})
        self.finder = next(
            (g for g in self.guides.values() if MASK in getattr(g, "maps", ())), None
        )
        self.choices = [self._lists(pair) for pair in pairs]
        self.prompts = tuple(dict.fromkeys(["", *(p for own in self.choices for p in own)]))
        self._found: dict[tuple[int, str], Tensor] = {}

    def sample(self, count: int, generator: torch.Generator) -> Batch:
        """``count`` crops with prompts and guide ``mask``, ``(B, 1, H, W)``."""
        rows = [self._row(_below(len(self.pairs), generator), generator) for _ in range(count)]
        if len(sizes := {tuple(row[0].shape[-2:]) for row in rows}) > 1:
            raise BadRequest(
                f"whole pictures of several sizes, {sorted(sizes)}, cannot stand in one batch: set "
                "the recipe's crop, or stages.0.accumulate to the batch size."
            )
        visible, infrared, mask = (torch.stack([row[k] for row in rows]) for k in range(3))
        batch = Batch(
            visible=visible,
            infrared=infrared,
            prompts=tuple(row[3] for row in rows),
            guides={MASK: mask},
            names=tuple(row[4] for row in rows),
        )
        return add_guides(batch, self.guides)

    def prompts_for(self, index: int) -> list[str]:
        """Two lists of phrases worth showing for a pair; the second may be empty."""
        single = [p for p in self.choices[index] if len(phrases(p)) == 1]
        return [*(single or self.choices[index]), "", ""][:2]

    def mask(self, index: int, prompt: str) -> Tensor:
        """What a prompt names in a pair, ``(1, H, W)`` in [0, 1]; found once."""
        key = index, prompt
        if key not in self._found:
            self._found[key] = (self._find(self.pairs[index], prompt) * 255).round().byte()
        return self._found[key].float() / 255

    def _find(self, pair: Pair, prompt: str) -> Tensor:
        if pair.masks:
            named = [pair.masks[phrase] for phrase in phrases(prompt) if phrase in pair.masks]
            mask = torch.stack(named).amax(0) if named else torch.zeros_like(pair.infrared)
            return softened((mask > 0.5).float()[None])[0]
        if self.finder is None:
            raise BadRequest(
                f"pair {pair.name!r} has no masks, so a guide must find what is named: name "
                "'core-mask', or another one that gives 'mask', in the recipe's guides."
            )
        asked = Batch(
            pair.visible[None], pair.infrared[None], prompts=(prompt,), names=(pair.name,)
        )
        return self.finder(asked)[MASK][0].float().cpu()

    def _lists(self, pair: Pair) -> list[str]:
        """The lists of phrases that a pair may be asked by."""
        if pair.masks:
            shown = [
                name
                for name in self.names
                if name in pair.masks
                and float((pair.masks[name] > 0.5).float().mean()) >= self.smallest
            ]
            return _lists_of(shown)
        own = phrases(pair.texts.get("caption", ""))
        return [", ".join(own)] if own else _lists_of(self.names)

    def _row(
        self, index: int, generator: torch.Generator
    ) -> tuple[Tensor, Tensor, Tensor, str, str]:
        pair, own = self.pairs[index], self.choices[index]
        prompt, mask = "", torch.zeros_like(pair.infrared)
        empty = float(torch.rand((), generator=generator)) < self.empty_share
        if own and not empty:
            prompt = own[_below(len(own), generator)]
            mask = self.mask(index, prompt)
        maps = self._cut((pair.visible, pair.infrared, mask), generator)
        if self.flips:
            turned = [d for d in (-1, -2) if _below(2, generator)]
            maps = [x.flip(turned) for x in maps]
        return *maps, prompt, pair.name

    def _cut(self, maps: Sequence[Tensor], generator: torch.Generator) -> list[Tensor]:
        """A window, anywhere, or with a point of the mask in its middle half."""
        extents, side = tuple(maps[0].shape[-2:]), self.crop
        if side is None:
            return list(maps)
        if min(extents) < side:
            raise BadRequest(
                f"crop={side} is larger than a picture of {extents[1]}x{extents[0]}: crop less, or "
                "read the pairs larger."
            )
        inside = (maps[2][0] > 0.5).nonzero()
        if len(inside):
            point = inside[_below(len(inside), generator)].tolist()
            shifts = [side // 4 + _below(max(1, side // 2), generator) for _ in extents]
            top, left = (
                min(max(p - shift, 0), extent - side)
                for p, shift, extent in zip(point, shifts, extents, strict=True)
            )
        else:
            top, left = (_below(extent - side + 1, generator) for extent in extents)
        return [x[..., top : top + side, left : left + side] for x in maps]


def _lists_of(names: Sequence[str]) -> list[str]:
    """Each name by itself, and every two."""
    return [*names, *(", ".join(two) for two in combinations(names, 2))]


def _below(high: int, generator: torch.Generator) -> int:
    return int(torch.randint(high, (), generator=generator))
