"""LDFusion's training samples: crops of pairs, moved at random, with noise on the network's input.

Source: the released data set class and trainer.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from fusionkit.batch import Batch
from fusionkit.color import luma
from fusionkit.errors import BadRequest
from fusionkit.protocols import Guide, Pair
from fusionkit.registry import Registry
from fusionkit_ldfusion.crops import Windows, draw_moves

DRAWS = 20
"""How often a sample that shows nothing is drawn again before it is taken as it is."""


class LanguageDrivenTask:
    """Pairs without any text or target: the losses hold the sentences, the sources are the target.

    A sample is a crop of a pair, mirrored where the pair is smaller, turned, sheared, shifted and
    enlarged a little. Both inputs of the network get noise; ``targets`` holds the clean sources
    for the losses, ``visible`` as luma rounded to 8 bits and ``infrared``, ``(B, 1, H, W)`` each.

    Args:
        pairs: photographs or scenes of any size.
        registry, encoder, guides: offered to every task; not needed here.
        crop: side of a sample in pixels; None takes the shorter side of the first pair.
        noise: deviation of the noise.
        least: a sample is drawn again where both pictures deviate by less than this.
    """

    prompts: tuple[str, ...] = ()

    def __init__(
        self,
        *,
        pairs: Sequence[Pair],
        registry: Registry | None = None,
        encoder: Any = None,
        guides: Mapping[str, Guide] | None = None,
        crop: int | None = 224,
        noise: float = 0.03,
        least: float = 0.05,
    ) -> None:
        if noise < 0 or least < 0:
            raise BadRequest(f"noise and least are deviations, not {noise} and {least}.")
        self.pairs, self.noise, self.least = pairs, noise, least
        self.crop = crop or (min(pairs[0].visible.shape[-2:]) if len(pairs) else 224)

    def sample(self, count: int, generator: torch.Generator) -> Batch:
        """``count`` samples, each of a pair drawn at random."""
        chosen = torch.randint(len(self.pairs), (count,), generator=generator).tolist()
        both = torch.stack([self._sample(self.pairs[index], generator) for index in chosen])
        visible, infrared = both[:, :3], both[:, 3:]
        y = luma(visible)
        rounded = (y * 255).round() / 255
        # The luma weights sum to one: what all three channels get is what the luma gets.
        noise = self.noise * torch.randn(2, *y.shape, generator=generator)
        return Batch(
            visible=visible + (rounded - y) + noise[0],
            infrared=infrared + noise[1],
            targets={"visible": rounded, "infrared": infrared},
            names=tuple(self.pairs[index].name for index in chosen),
        )

    def _sample(self, pair: Pair, generator: torch.Generator) -> Tensor:
        """``(4, crop, crop)``: visible and infrared, moved together."""
        both = torch.cat([pair.visible, pair.infrared])
        for axis in (1, 2):
            both = _mirrored(both, axis, self.crop)
        free = torch.tensor([extent - self.crop + 1 for extent in both.shape[-2:]])
        for _ in range(DRAWS):
            corner = (torch.rand(1, 2, generator=generator) * free).long()
            window = Windows(self.crop, corner, draw_moves(1, self.crop, generator))
            found = window.cut(both[None])[0, 0]
            if luma(found[None, :3]).std() >= self.least or found[3].std() >= self.least:
                break
        return found


def _mirrored(x: Tensor, axis: int, least: int) -> Tensor:
    """Grown evenly on both sides to a length, mirrored without repeating the edge."""
    length = x.shape[axis]
    if length >= least:
        return x
    steps = torch.arange(least) - (least - length) // 2
    period = max(1, 2 * (length - 1))
    steps = steps % period
    return x.index_select(axis, torch.where(steps < length, steps, period - steps))
