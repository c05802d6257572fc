"""What the guides of this plugin share: which pictures are looked at, which phrases are asked for.

Every guide returns ``mask``, and ``mask_visible`` or ``mask_infrared`` for each picture it looked
at, all ``(B, 1, H, W)`` in [0, 1]; ``mask`` is the larger of the two.
"""

import re
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from functools import reduce

import torch
from torch import Tensor

from fusionkit.batch import Batch
from fusionkit.errors import BadRequest, did_you_mean

SOURCES = ("visible", "infrared")
MAPS = ("mask", "mask_visible", "mask_infrared")


def check_sources(guide: str, sources: Sequence[str]) -> tuple[str, ...]:
    """``visible``, ``infrared`` or both; BadRequest otherwise."""
    sources = (sources,) if isinstance(sources, str) else tuple(sources)
    if unknown := [source for source in sources if source not in SOURCES]:
        raise BadRequest(
            f"guide {guide!r} looks at {' and '.join(SOURCES)}, not at {unknown[0]!r}."
            f"{did_you_mean(unknown[0], SOURCES)}"
        )
    if not sources:
        raise BadRequest(f"guide {guide!r} was given no picture to look at: name {SOURCES}.")
    return sources


def named(masks: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Masks by source as the maps of a guide, with their union."""
    union = reduce(torch.maximum, masks.values())
    return {"mask": union} | {f"mask_{source}": mask for source, mask in masks.items()}


def phrases(prompt: str) -> list[str]:
    """What a prompt names, in small letters: ``person . a red car.`` -> ``person``, ``a red car``.

    Phrases are parted by full stops, commas, semicolons and new lines.
    """
    parts = (part.strip().lower() for part in re.split(r"[.,;\n]+", prompt))
    return list(dict.fromkeys(part for part in parts if part))


class PromptGuide(ABC):
    """A guide that looks for the phrases of a prompt in each picture of a pair.

    Args:
        prompt: what to look for in every pair; None reads the prompt of each pair.
        sources: the pictures to look at: ``visible``, ``infrared`` or both.
    """

    maps = MAPS
    name = ""

    def __init__(self, *, prompt: str | None = None, sources: Sequence[str] = SOURCES) -> None:
        self.prompt, self.sources = prompt, check_sources(self.name, sources)
        self.maps = ("mask", *(f"mask_{source}" for source in self.sources))

    @abstractmethod
    def find(self, picture: Tensor, wanted: list[str]) -> Tensor:
        """Where a picture ``(3, H, W)`` in [0, 1] shows any of the phrases: ``(H, W)``."""

    @torch.no_grad()
    def __call__(self, batch: Batch) -> dict[str, Tensor]:
        """Masks of what each pair's prompt names; all zero where it names nothing."""
        prompts = self._prompts(batch)
        masks = {}
        for source in self.sources:
            pictures = getattr(batch, source).float().clamp(0, 1).expand(-1, 3, -1, -1)
            found = [
                self.find(picture, wanted) if wanted else picture.new_zeros(picture.shape[1:])
                for picture, wanted in zip(pictures, map(phrases, prompts), strict=True)
            ]
            masks[source] = torch.stack(found)[:, None].to(pictures)
        return named(masks)

    def _prompts(self, batch: Batch) -> Sequence[str]:
        if self.prompt is not None:
            return [self.prompt] * len(batch)
        if len(batch.prompts) != len(batch):
            raise BadRequest(
                f"guide {self.name!r} was built without a prompt of its own, and the batch has "
                f"{len(batch.prompts)} prompts for {len(batch)} pairs: pass prompt=..., or put one "
                "prompt per pair into the batch."
            )
        return batch.prompts
