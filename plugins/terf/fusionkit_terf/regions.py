"""Where an edit acts: a region in words becomes a mask, by any guide of the registry."""

import re
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import max_pool2d

from fusionkit.batch import Batch
from fusionkit.errors import MissingWeights
from fusionkit.guides import enlarge
from fusionkit.methods import create
from fusionkit.protocols import Guide
from fusionkit.registry import Registry
from fusionkit_terf.instruction import BACKGROUND, NOTHING, Edit, parts_of

FOREGROUND = ("person", "car", "truck", "bus", "bicycle")
"""What is no background where a command names nothing else."""
FOUND, INSIDE = 0.25, 0.5
"""A map whose peak is lower shows nothing; inside is what reaches this share of the peak."""
CRUMB = 0.15
"""Pieces below this share of the largest one are no thing of their own."""


class Regions:
    """Masks of what edits name.

    The guide is asked for each noun by itself; of its maps the pixels count that reach half the
    peak. "On the left" picks, of the pieces found, the one farthest left, and with a plural all in
    that half. The background is everything but the things that the other clauses of the command
    name, or but persons and vehicles. A map of the batch's own guides that is called like the noun
    goes before the guide.

    Args:
        registry: where the guide comes from.
        encoder: for a guide that is drawn by one.
        guide, guide_options: the guide, and its options.
        offline_guide: takes its place, with a warning, where its weights cannot be had; None makes
            that an error. It looks at the pair and not at the fused picture, because the small
            encoder knows those.
        look_at: what the guide sees, the ``fused`` picture or the ``pair``.
    """

    def __init__(
        self,
        *,
        registry: Registry,
        encoder: Any,
        guide: str,
        guide_options: Mapping[str, Any],
        offline_guide: str | None,
        look_at: str = "fused",
    ) -> None:
        self.registry, self.encoder = registry, encoder
        self.guide, self.options = guide, dict(guide_options)
        self.offline_guide, self.look_at = offline_guide, look_at
        self._built: Guide | None = None

    def __call__(
        self, batch: Batch, fused: Tensor, edits: Sequence[Edit], command: Sequence[Edit]
    ) -> list[Tensor]:
        """A mask ``(1, 1, H, W)`` of zeros and ones for each edit of one pair.

        Args:
            batch: the pair.
            fused: ``(1, 3, H, W)`` as fused.
            edits: those that do something.
            command: all that was asked for; what a clause wants left alone is no background.
        """
        changed = _things(edits) or [*FOREGROUND]
        named = [*changed, *_things([edit for edit in command if edit.effect == NOTHING])]
        return [self._mask(batch, fused, edit.region, named) for edit in edits]

    def _mask(self, batch: Batch, fused: Tensor, region: str, named: Sequence[str]) -> Tensor:
        if outside := re.fullmatch(r"everything except(?: for)? (.+)", region):
            return 1 - self._mask(batch, fused, outside[1], named)
        things, place = parts_of(region)
        if not things:
            return _half(fused, place)
        masks = []
        for thing in things:
            if thing == BACKGROUND:
                masks.append(_half(fused, place) * (1 - self._all(batch, fused, named)))
            else:
                found = self._find(batch, fused, thing)
                masks.append(placed(found, place, plural=_plural(thing)) if place else found)
        return torch.stack(masks).amax(0)

    def _all(self, batch: Batch, fused: Tensor, things: Sequence[str]) -> Tensor:
        return torch.stack([self._find(batch, fused, t) for t in dict.fromkeys(things)]).amax(0)

    def _find(self, batch: Batch, fused: Tensor, thing: str) -> Tensor:
        if thing in batch.guides:
            drawn = batch.guides[thing]
        else:
            guide = self._built = self._built or self._build()
            asked = batch.replace(prompts=(thing,), text=None, guides={})
            if self.look_at == "fused":
                asked = asked.replace(visible=fused)
            maps = guide(asked)
            drawn = maps["mask"] if "mask" in maps else next(iter(maps.values()))
        drawn = enlarge(drawn.to(fused), tuple(fused.shape[-2:]))
        peak = float(drawn.max())
        return (drawn >= INSIDE * peak).to(fused) if peak >= FOUND else torch.zeros_like(drawn)

    def _build(self) -> Guide:
        try:
            return create(self.registry, "guide", self.guide, self.options, encoder=self.encoder)
        except MissingWeights as error:
            if self.offline_guide is None:
                raise
            warnings.warn(
                f"{error} Until then regions are where guide {self.offline_guide!r} sees them, "
                "which is coarse: compare with no published picture.",
                stacklevel=2,
            )
            self.look_at = "pair"
            return create(self.registry, "guide", self.offline_guide, {}, encoder=self.encoder)


def placed(mask: Tensor, place: str, *, plural: bool = False) -> Tensor:
    """Of the pieces of a mask ``(1, 1, H, W)`` the one at a place, or with a plural all there.

    What lies in the opposite third of the picture is not at the place: then the mask is empty.
    """
    from scipy import ndimage

    pieces, count = ndimage.label(mask[0, 0].cpu().numpy() > 0.5, np.ones((3, 3)))
    if not count:
        return mask
    numbers = np.arange(1, count + 1)
    areas = ndimage.sum_labels(pieces > 0, pieces, numbers)
    centres = np.array(ndimage.center_of_mass(pieces > 0, pieces, numbers))
    y, x = ((centres + 0.5) / pieces.shape - 0.5).T  # from the middle, in shares of the picture
    score = {"left": -x, "right": x, "top": -y, "bottom": y, "middle": 1 / 6 - np.abs(x)}[place]
    real = (areas >= CRUMB * areas.max()) & (score > -1 / 6)  # not in the opposite third
    chosen = real & (score > 0)
    if real.any() and not (plural and chosen.any()):
        chosen = numbers == numbers[real][np.argmax(score[real])]
    return torch.from_numpy(np.isin(pieces, numbers[chosen]))[None, None].to(mask)


def _things(edits: Sequence[Edit]) -> list[str]:
    found = (thing for edit in edits for thing in parts_of(edit.region).things)
    return [thing for thing in found if thing != BACKGROUND]


def _plural(thing: str) -> bool:
    return (thing.endswith("s") and not thing.endswith(("ss", "us"))) or thing == "people"


def _half(like: Tensor, place: str) -> Tensor:
    """All of the picture, or its part at a place, ``(1, 1, H, W)``; the middle is a third wide."""
    mask = torch.ones_like(like[:, :1])
    height, width = mask.shape[-2:]
    if place == "left":
        mask[..., width // 2 :] = 0
    elif place == "right":
        mask[..., : width // 2] = 0
    elif place == "top":
        mask[..., height // 2 :, :] = 0
    elif place == "bottom":
        mask[..., : height // 2, :] = 0
    elif place == "middle":
        mask[..., : width // 3] = mask[..., width - width // 3 :] = 0
    return mask


def feathered(mask: Tensor, pixels: int) -> Tensor:
    """A mask ``(1, 1, H, W)`` that rises from its border inwards over some pixels.

    It is zero wherever the mask is, so that nothing acts outside; edges of the picture are none.
    """
    levels = [mask]
    for _ in range(pixels):
        levels.append(-max_pool2d(-levels[-1], 3, stride=1, padding=1))
    soft = torch.stack(levels).mean(0)
    return soft / soft.amax().clamp(min=1e-6)


def merge(image: Tensor, result: Tensor, mask: Tensor, *, whole_numbers: bool = False) -> Tensor:
    """``result`` where the mask ``(1, 1, H, W)`` is one, ``image`` where it is zero.

    Args:
        whole_numbers: as released, both pictures are cut to 8 bits before and the mixture after;
            the picture returned holds multiples of 1/255.
    """
    if whole_numbers:
        image, result = ((x.clamp(0, 1) * 255).floor() for x in (image, result))
        return (result * mask + image * (1 - mask)).floor() / 255
    return result * mask + image * (1 - mask)
