"""Any score restricted to a region, or weighted by a heat map.

A weight per pixel enters the formula itself: histograms are filled with weights, means and moments
are weighted, maps of local values are averaged with them. Nothing is blanked out first, which would
make edges of its own. Local windows therefore reach across the border of a region: a window counts
by the weight of its middle.
"""

import inspect
import warnings
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from fusionkit.errors import BadRequest
from fusionkit_standard.metrics.base import Score


class Regional:
    """A score with a weight per pixel, given as ``mask=`` when it is called.

    ``mask`` is ``(B or 1, 1, H, W)``, at least 0, a mask or a heat map; its scale does not matter,
    and a constant one gives the score of the whole picture. Where it is 0 everywhere (or at every
    place the formula has, which lie inside the picture by the radius of its window), the score is
    NaN, with a warning.

    Args:
        metric: The score to weight; the registry has each of them as ``<code>_region``.
    """

    def __init__(self, metric: Score) -> None:
        if not (isinstance(metric, Score) and metric.weighted):
            raise BadRequest(
                f"{getattr(metric, 'name', metric)!r} has no form with a weight per pixel."
            )
        self.metric = metric
        self.name = f"{metric.name}_region"
        self.needs = (*metric.needs, "mask")
        self.variant = f"{metric.variant}; each pixel weighted by the mask"
        for fact in ("higher_is_better", "range", "unit", "source", "differentiable", "min_size"):
            setattr(self, fact, getattr(metric, fact))

    def __call__(
        self,
        fused: Tensor,
        ir: Tensor | None = None,
        vi: Tensor | None = None,
        *,
        mask: Tensor | None = None,
        **context: Any,
    ) -> Tensor:
        """As the score itself, weighted by ``mask``."""
        if mask is None:
            raise BadRequest(f"{self.name} needs 'mask', a weight per pixel; it was not given.")
        weight = self._checked(mask, fused)
        empty = weight.sum((-3, -2, -1)) == 0
        if empty.any():
            warnings.warn(
                f"{self.name}: {int(empty.sum())} of {len(empty)} masks are 0 everywhere; "
                "there is nothing to score, hence NaN.",
                stacklevel=2,
            )
            weight = torch.where(empty[:, None, None, None], 1.0, weight)
        values = self.metric(fused, ir, vi, weight=weight, **context)
        return torch.where(empty, torch.nan, values)

    def _checked(self, mask: Tensor, fused: Tensor) -> Tensor:
        count, _, height, width = fused.shape
        if mask.ndim != 4 or len(mask) not in (1, count) or mask.shape[1:] != (1, height, width):
            raise BadRequest(
                f"mask has the shape {tuple(mask.shape)}; ({count}, 1, {height}, {width}) is "
                "expected: one weight per pixel. Nothing is resized."
            )
        mask = mask.double()
        if not (mask.isfinite() & (mask >= 0)).all():
            raise BadRequest("a mask holds negative or undefined weights.")
        return mask.expand(count, -1, -1, -1)


def regional(scores: Mapping[str, type[Score]]) -> dict[str, type[Regional]]:
    """For each score that has such a form one that is weighted, ``<code>_region``."""
    return {f"{code}_region": _of(score) for code, score in scores.items() if score.weighted}


def _of(score: type[Score]) -> type[Regional]:
    class Weighted(Regional):
        def __init__(self, **options: Any) -> None:
            super().__init__(score(**options))

    Weighted.__name__ = Weighted.__qualname__ = f"{score.__name__}Region"
    Weighted.__doc__ = f"``{score.name}`` restricted to, or weighted by, a mask or heat map."
    for fact in ("higher_is_better", "range", "unit", "source"):
        setattr(Weighted, fact, getattr(score, fact))
    Weighted.name = f"{score.name}_region"
    Weighted.__signature__ = inspect.signature(score)
    Weighted.needs = (*score.needs, "mask")
    return Weighted
