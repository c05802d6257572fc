"""A method as data: which parts, which numbers, and how its training batches are made.

Source: write here whose method it is: authors, title, venue; or "ours".
"""

from collections.abc import Sequence
from typing import Any

import torch

from fusionkit.batch import Batch
from fusionkit.data import collate, crop
from fusionkit.errors import BadRequest
from fusionkit.protocols import Pair
from fusionkit.recipe import Recipe, Stage

PROMPTS = ("fuse the two images", "keep the visible image")


class Task:
    """Two wishes: the brighter of the two pictures everywhere, or the visible one.

    The words alone tell which is wanted, so a network that does not listen cannot do both.
    """

    prompts = PROMPTS

    def __init__(
        self,
        *,
        pairs: Sequence[Pair],
        registry: Any,
        encoder: Any,
        guides: Any,
        crop: int | None = 64,
    ) -> None:
        self.pairs, self.crop = pairs, crop

    def sample(self, count: int, generator: torch.Generator) -> Batch:
        rows = torch.randint(len(self.pairs), (count,), generator=generator).tolist()
        wishes = torch.randint(2, (count,), generator=generator)
        batch = collate([self._window(self.pairs[row], generator) for row in rows])
        brighter = batch.visible.maximum(batch.infrared)
        target = torch.where(wishes[:, None, None, None] == 0, brighter, batch.visible)
        return batch.replace(
            prompts=tuple(PROMPTS[wish] for wish in wishes), targets={"fused": target}
        )

    def _window(self, pair: Pair, generator: torch.Generator) -> Pair:
        if self.crop is None:
            return pair
        room = [side - self.crop for side in pair.visible.shape[1:]]
        if min(room) < 0:
            raise BadRequest(f"pair {pair.name!r} is smaller than the crop of {self.crop}.")
        top, left = (int(torch.randint(r + 1, (), generator=generator)) for r in room)
        return crop(pair, top, left, self.crop, self.crop)


def component() -> Recipe:
    """The recipe; parts are named as `fusionkit plugins` prints them."""
    return Recipe(
        name="component-name",
        paper="",
        network="compact",
        modulation="film",
        encoder="tiny-clip",
        losses=("pixel-l1", "gradient-l1"),
        weights={"pixel": 1.0, "gradient": 0.5},
        metrics=("EN", "SD", "MI"),
        stages=(Stage(steps=200, batch_size=16, crop=64, learning_rate=2e-3, clip_norm=1.0),),
        default_text=PROMPTS[0],
        task=Task,
    )
