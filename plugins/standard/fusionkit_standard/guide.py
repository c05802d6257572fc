"""``heatmap``: where the encoder sees what the prompt names.

Source: ours; the maps are the encoder's.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from fusionkit.batch import Batch
from fusionkit.errors import BadRequest
from fusionkit.guides import enlarge
from fusionkit.protocols import JointEncoder

SOURCES = ("visible", "infrared")
COMBINED = {
    "mean": lambda maps: maps.mean(0),
    "either": lambda maps: 1 - (1 - maps).prod(0),
}
"""How the maps of several pictures, ``(S, ...)`` in [0, 1], become one."""


class HeatMap:
    """The joint encoder's heat map of each prompt, as a guide.

    A person at night is seen in the infrared, a building by day in the visible picture; the map is
    the mean of the encoder's maps over both pictures, or the chance that either shows the thing.

    Args:
        encoder: a joint encoder.
        sources: the pictures to look at: ``visible``, ``infrared`` or both.
        combine: ``mean``, or ``either``: one minus the product of what each map leaves open. Of
            scenes the latter points better at persons and buildings with tiny-clip; its scores are
            up to twice as high, so a network keeps to the one it was trained with.
    """

    maps = ("heatmap",)

    def __init__(
        self, *, encoder: JointEncoder, sources: Sequence[str] = SOURCES, combine: str = "mean"
    ) -> None:
        if not hasattr(encoder, "heatmap"):
            raise BadRequest(
                "guide 'heatmap' needs an encoder that reads pictures too (tiny-clip, openclip)."
            )
        unknown = set(sources) - set(SOURCES)
        if unknown or not sources:
            raise BadRequest(f"guide 'heatmap' looks at {SOURCES}, not {sorted(unknown)}.")
        if combine not in COMBINED:
            raise BadRequest(
                f"guide 'heatmap' has no combine={combine!r}: {' or '.join(COMBINED)}.",
                asked=combine,
                known=COMBINED,
            )
        self.encoder, self.sources, self.combine = encoder, tuple(sources), COMBINED[combine]

    def __call__(self, batch: Batch) -> dict[str, Tensor]:
        """``{"heatmap": (B, 1, H, W)}`` for the prompt of each pair."""
        if not batch.prompts:
            raise BadRequest("guide 'heatmap' needs the batch's prompts in words.")
        if not hasattr(self.encoder, "heatmap_grid"):
            maps = [self.encoder.heatmap(list(batch.prompts), p) for p in self._pictures(batch)]
            return {"heatmap": self.combine(torch.stack(maps))}
        # Through the grid, as in training: enlarging scores and scoring enlarged logits differ.
        prompts = list(dict.fromkeys(batch.prompts))
        grid = self.grid(batch, prompts)["heatmap"]
        columns = torch.tensor([prompts.index(p) for p in batch.prompts], device=grid.device)
        own = grid[torch.arange(len(batch), device=grid.device), columns][:, None]
        return {"heatmap": enlarge(own, tuple(batch.visible.shape[-2:]))}

    def grid(self, batch: Batch, prompts: Sequence[str]) -> dict[str, Tensor]:
        """Maps of every prompt over every pair, at the encoder's own grid: ``(B, P, h, w)``."""
        if hasattr(self.encoder, "heatmap_grid"):
            maps = [self.encoder.heatmap_grid(list(prompts), p) for p in self._pictures(batch)]
            return {"heatmap": self.combine(torch.stack(maps))}
        size = [max(1, s // 8) for s in batch.visible.shape[-2:]]
        columns = []
        for prompt in prompts:
            (full,) = self(batch.replace(prompts=(prompt,) * len(batch))).values()
            columns.append(interpolate(full, size, mode="area"))
        return {"heatmap": torch.cat(columns, 1)}

    def _pictures(self, batch: Batch) -> list[Tensor]:
        return [getattr(batch, source) for source in self.sources]
