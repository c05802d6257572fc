"""The task of the method that ships with weights: made to carry over to photographs.

The requests are those of :mod:`fusionkit_standard.control`; what differs:

* Plain fusion takes, around each pixel, more of the picture that has more contrast there or is
  brighter, and keeps the colours of the visible one.
* What is asked for is brought out: the root of the brighter of both pictures, in visible colours;
  the rest of the picture steps back to 0.8 of its brightness.
* The look of each pair is changed at random, once: curves, contrast, colour, noise, sharpness.
* Every phrasing that training may see is drawn from, each pair being asked by a few of each kind.
* A request may name what is not there; then nothing is brought out.
* Maps are made fainter at random: on photographs an encoder is less sure of what it sees.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, interpolate

from fusionkit.batch import Batch
from fusionkit.color import luma, recolor
from fusionkit.guides import GuideCache
from fusionkit.protocols import Pair
from fusionkit_standard.control import (
    NAMES,
    ControlTask,
    Example,
    _cut,
    _integer,
    _pick,
    _uniform,
)
from fusionkit_standard.scenes.texts import GROUPS, PLAIN

RAISE = 0.5
"""Power of the luma of what is asked for."""
REST = 0.8
"""What is left of all that was not asked for, where something was."""


class WordsTask(ControlTask):
    """Samples and questions of the shipped method.

    Args:
        phrasings: requests of each kind that one pair is asked by; over many pairs all are used.
        repair_share: share of repair samples.
        randomise: how likely a pair gets another look, change by change. Only while training, on
            crops.
        **options: of :class:`~fusionkit_standard.control.ControlTask`.
    """

    named = (*NAMES, *GROUPS)

    def __init__(
        self,
        *,
        pairs: Sequence[Pair],
        crop: int | None = 64,
        phrasings: int = 3,
        repair_share: float = 0.5,
        randomise: float = 0.8,
        **options: Any,
    ) -> None:
        self.phrasings = phrasings
        if crop is not None and randomise:
            pairs = [changed(pair, i, randomise) for i, pair in enumerate(pairs)]
        super().__init__(pairs=pairs, crop=crop, repair_share=repair_share, **options)
        self.askable = [e for e in self.examples if e.masks] if crop else self.askable

    def mixture(self, visible: Tensor, infrared: Tensor) -> Tensor:
        """Plain fusion, ``(B, 3, H, W)``, see :func:`plain`."""
        return plain(visible, infrared)

    def highlighted(self, visible: Tensor, infrared: Tensor, mask: Tensor) -> Tensor:
        bright = torch.maximum(luma(visible), infrared).clamp(1e-3, 1) ** RAISE
        return torch.lerp(self.mixture(visible, infrared), recolor(bright, visible), mask)

    def _maps(self, pairs: Sequence[Pair]) -> Callable[[int, Sequence[str]], dict[str, Tensor]]:
        if self.crop is None:
            return lambda index, prompts: {}  # whole pictures: the guide is asked itself
        groups = [*self.requests.values(), *self.repairs.values(), PLAIN]
        self.said = [
            dict.fromkeys(p for group in groups for p in self._own(group, e.index))
            | ({e.description: None} if e.description else {})
            for e in self.examples
        ]
        """Everything that each pair may be asked."""
        if not self.guides:
            return lambda i, prompts: {}
        caches = [
            GuideCache(self.guides, [e.pair], list(self.said[e.index])) for e in self.examples
        ]
        return lambda i, prompts: (
            caches[i](0, prompts) if self.said[i].keys() >= set(prompts) else {}
        )

    def _assemble(self, parts: Sequence[dict], generator: torch.Generator) -> Batch:
        batch = super()._assemble(parts, generator)
        prompts, damages = batch.prompts, batch.labels["damage"]
        named = [i for i, p in enumerate(prompts) if p not in PLAIN and not damages[i]]
        if named:  # the rest steps back
            mixture = self.mixture(batch.visible[named], batch.infrared[named])
            around = 1 - batch.targets["mask"][named]
            batch.targets["fused"][named] -= (1 - REST) * around * mixture
        if self.crop is None:
            return batch
        faint = 0.3 + 0.7 * torch.rand(len(parts), 1, 1, 1, generator=generator)
        faint = faint.repeat_interleave(2, 0)
        return batch.replace(guides={name: maps * faint for name, maps in batch.guides.items()})

    def _own(self, group: Sequence[str], index: int) -> list[str]:
        """The requests of a group that a pair is asked by."""
        count = len(group)
        return list(
            dict.fromkeys(
                group[(index * self.phrasings + k) % count] for k in range(self.phrasings)
            )
        )

    def _say(self, group: Sequence[str], example: Example, generator: torch.Generator) -> str:
        if self.crop is None:
            return _pick(group, generator)
        known = self.said[example.index]
        return _pick([p for p in group if p in known], generator)

    def _highlight(self, example: Example, generator: torch.Generator) -> dict:
        if self.crop is None:  # a question
            return super()._highlight(example, generator)
        wanted = dict(example.masks)
        for group, members in GROUPS.items():
            if found := [m for name, m in example.masks.items() if name in members]:
                wanted[group] = torch.stack(found).any(0)
        first = _pick(list(wanted), generator)
        mask = wanted[first]
        window = self._window(example, mask, generator)
        kin = {first, *GROUPS.get(first, ()), *(g for g, m in GROUPS.items() if first in m)}
        present = [name for name in wanted if name not in kin]
        absent = [name for name in self.requests if name not in wanted]
        other, kind = torch.zeros_like(mask), _uniform(generator)
        if absent and kind < 0.15:
            group = self.requests[_pick(absent, generator)]
        elif present and kind < 0.8:
            second = _pick(present, generator)
            group, other = self.requests[second], wanted[second]
        else:
            group = PLAIN
        prompts = [self._say(g, example, generator) for g in (self.requests[first], group)]
        masks = [_cut(mask, window), _cut(other, window)]
        if _uniform(generator) < 0.5:
            prompts, masks = prompts[::-1], masks[::-1]
        return {"example": example, "window": window, "prompts": prompts, "masks": masks}


def plain(visible: Tensor, infrared: Tensor) -> Tensor:
    r"""Plain fusion by a rule, ``(B, 3, H, W)``.

    .. math:: w = \sigma(3 (\bar I - \bar Y) + 2 \tanh(20 (c_I - c_Y)) - 1),
              \quad F = Y + w (I - Y)

    with visible luma Y, 3x3 means, and local contrast c, the mean absolute difference to a 7x7
    mean. Contrast is bounded, or bright lines of one picture would get a dark seam. The chroma is
    that of the visible picture. Source: ours.
    """
    bright = luma(visible)
    both = torch.cat([infrared, bright], 1)
    contrast = _mean((both - _mean(both, 7)).abs(), 7)
    brighter, busier = (x[:, :1] - x[:, 1:] for x in (_mean(both, 3), contrast))
    lead = 3 * brighter + 2 * (20 * busier).tanh() - 1
    return recolor(torch.lerp(bright, infrared, lead.sigmoid()), visible)


def changed(pair: Pair, index: int, share: float) -> Pair:
    """The pair with another look: both pictures changed at random, nothing moved.

    Args:
        pair: what is changed.
        index: start of the random draws.
        share: how likely each change is.
    """
    generator = torch.Generator().manual_seed(7_000_000 + index)

    def draw(low: float, high: float) -> float:
        return low + (high - low) * _uniform(generator)

    def chosen(factor: float = 1.0) -> bool:
        return _uniform(generator) < share * factor

    visible, infrared = pair.visible[None], pair.infrared[None]
    if chosen():
        infrared = curve(infrared, generator)
    if chosen(0.6):  # the look of cameras that flatten everything but edges
        wide = _mean(infrared, 2 * _integer(12, generator) + 9)
        infrared = torch.lerp(infrared, 0.5 + draw(0.7, 1.6) * (infrared - wide), draw(0.3, 1))
    if chosen(0.5):
        infrared = infrared * draw(0.75, 1) + draw(0, 0.15)
    if chosen(0.7):
        visible = curve(visible, generator)
    if chosen(0.4):
        visible = visible * draw(0.7, 1) + draw(0, 0.15)
    if chosen(0.6):  # down to no colour at all
        grey = luma(visible)
        visible = (
            torch.lerp(visible, grey.expand_as(visible), draw(-0.5, 1))
            if draw(0, 1) < 0.6
            else grey.expand(-1, 3, -1, -1)
        )
    pictures = []
    for picture in (visible, infrared):
        if chosen(0.25):
            size = [max(16, round(s * draw(0.55, 0.9))) for s in picture.shape[-2:]]
            small = interpolate(picture, size, mode="bilinear", antialias=True)
            picture = interpolate(small, picture.shape[-2:], mode="bicubic")
        if chosen(0.4):
            picture = picture + draw(0.2, 1) * (picture - _mean(picture, 3))
        if chosen(0.5):
            noise = torch.randn(picture[:, :1].shape, generator=generator)
            picture = picture + draw(0.002, 0.012) * noise
        pictures.append(picture.clamp(0, 1)[0].contiguous())
    return replace(pair, visible=pictures[0], infrared=pictures[1])


def curve(picture: Tensor, generator: torch.Generator) -> Tensor:
    """A rising curve through five random heights."""
    steps = 0.15 + torch.rand(4, generator=generator)
    heights = torch.cat([torch.zeros(1), steps.cumsum(0) / steps.sum()])
    place = picture.clamp(0, 1) * 4
    left = place.long().clamp(max=3)
    return torch.lerp(heights[left], heights[left + 1], place - left)


def _mean(picture: Tensor, side: int) -> Tensor:
    return avg_pool2d(picture, side, 1, side // 2, count_include_pad=False)
