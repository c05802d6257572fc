"""TeRF's training samples: random crops of pairs, nothing else."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from fusionkit.batch import Batch
from fusionkit.data import crop as cut
from fusionkit.data import resize_shorter
from fusionkit.errors import BadRequest
from fusionkit.protocols import Guide, Pair
from fusionkit.registry import Registry


class CropTask:
    """Crops at random places of pairs drawn at random; the losses compare with both sources.

    Args:
        pairs: aligned pairs; one that is smaller than a crop is enlarged.
        registry, encoder, guides: offered to every task; the fusion network reads no text.
        crop: side of a sample in pixels; None takes pictures as they are, all of one size.
    """

    prompts: tuple[str, ...] = ()

    def __init__(
        self,
        *,
        pairs: Sequence[Pair],
        registry: Registry | None = None,
        encoder: Any = None,
        guides: Mapping[str, Guide] | None = None,
        crop: int | None = 150,
    ) -> None:
        self.pairs, self.crop = pairs, crop

    def sample(self, count: int, generator: torch.Generator) -> Batch:
        """``count`` crops."""
        chosen = torch.randint(len(self.pairs), (count,), generator=generator).tolist()
        pairs = [self._cropped(self.pairs[index], generator) for index in chosen]
        if len({pair.visible.shape for pair in pairs}) > 1:
            raise BadRequest("pictures of several sizes do not stand in one batch: set a crop.")
        return Batch(
            visible=torch.stack([pair.visible for pair in pairs]),
            infrared=torch.stack([pair.infrared for pair in pairs]),
            names=tuple(pair.name for pair in pairs),
        )

    def _cropped(self, pair: Pair, generator: torch.Generator) -> Pair:
        if self.crop is None:
            return pair
        pair = Pair(name=pair.name, visible=pair.visible, infrared=pair.infrared)
        if min(pair.visible.shape[1:]) < self.crop:
            pair = resize_shorter(pair, self.crop)
        top, left = (
            int(torch.randint(extent - self.crop + 1, (), generator=generator))
            for extent in pair.visible.shape[1:]
        )
        return cut(pair, top, left, self.crop, self.crop)
