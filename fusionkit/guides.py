"""Guides computed once: the same map serves the network, the losses, the store and the widgets."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from fusionkit.batch import Batch
from fusionkit.protocols import Guide, Pair

Guides = Mapping[str, Guide]


def add_guides(batch: Batch, guides: Guides) -> Batch:
    """The batch with the maps of every guide added; a map the batch already has is kept."""
    found: dict[str, Tensor] = {}
    for guide in guides.values():
        if not set(getattr(guide, "maps", [""])) <= set(batch.guides):
            found |= guide(batch)
    return batch.replace(guides={**found, **batch.guides})


class GuideCache:
    """The maps of a fixed list of pairs for a fixed list of prompts, at the guide's own grid.

    A guide that can draw many prompts over one picture at once has a method
    ``grid(batch, prompts) -> {name: (B, P, h, w)}``; its maps are computed here once per picture,
    kept in half precision, and cost a look-up in training. Others are asked prompt by prompt, and
    may have any number of channels. Maps are kept in main memory, like the pairs they belong to,
    wherever the guide computes.

    Args:
        guides: what draws the maps.
        pairs: the pictures.
        prompts: everything that will be asked for.
        chunk: pictures per call.
    """

    def __init__(
        self, guides: Guides, pairs: Sequence[Pair], prompts: Sequence[str], *, chunk: int = 32
    ) -> None:
        self.column = {prompt: i for i, prompt in enumerate(dict.fromkeys(prompts))}
        self.maps: list[dict[str, Tensor]] = []
        if not guides:
            return
        start = 0
        while start < len(pairs):
            stop = start + 1
            shape = pairs[start].visible.shape
            while stop < min(start + chunk, len(pairs)) and pairs[stop].visible.shape == shape:
                stop += 1
            self.maps += _draw(guides, pairs[start:stop], list(self.column))
            start = stop

    def __bool__(self) -> bool:
        return bool(self.maps)

    def __call__(self, index: int, prompts: Sequence[str]) -> dict[str, Tensor]:
        """Maps of one pair for each prompt, ``(len(prompts), C, h, w)`` float, on the CPU."""
        rows = [self.column[p] for p in prompts]
        return {name: maps[rows].float() for name, maps in self.maps[index].items()}


@torch.no_grad()
def _draw(guides: Guides, pairs: Sequence[Pair], prompts: Sequence[str]) -> list[dict[str, Tensor]]:
    batch = Batch(
        visible=torch.stack([p.visible for p in pairs]),
        infrared=torch.stack([p.infrared for p in pairs]),
        names=tuple(p.name for p in pairs),
    )
    drawn: dict[str, Tensor] = {}  # each B P C h w
    for guide in guides.values():
        if hasattr(guide, "grid"):
            drawn |= {n: _kept(maps)[:, :, None] for n, maps in guide.grid(batch, prompts).items()}
            continue
        asked = [
            {n: _kept(maps) for n, maps in guide(batch.replace(prompts=(p,) * len(batch))).items()}
            for p in prompts
        ]
        drawn |= {name: torch.stack([maps[name] for maps in asked], 1) for name in asked[0]}
    return [{name: maps[i] for name, maps in drawn.items()} for i in range(len(pairs))]


def _kept(maps: Tensor) -> Tensor:
    return maps.to("cpu", torch.float16)


def enlarge(guide_map: Tensor, size: tuple[int, int]) -> Tensor:
    """Maps ``(B, C, h, w)`` at the size of the picture."""
    if guide_map.shape[-2:] == size:
        return guide_map
    return interpolate(guide_map, size, mode="bilinear", align_corners=False)
