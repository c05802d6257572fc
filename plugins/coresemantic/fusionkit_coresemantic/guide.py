"""``core-mask``: the words of a pair become one soft mask, by any guide of the registry.

Source: the published description of "Infrared and visible image fusion based on text-image
core-semantic alignment and interaction", Digital Signal Processing, 2025, in which GLIP draws boxes
and SAM outlines. Here Grounding DINO stands in for GLIP, which no package offers.
"""

import warnings
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from fusionkit.batch import Batch
from fusionkit.errors import BadRequest, MissingWeights
from fusionkit.guides import enlarge
from fusionkit.methods import create
from fusionkit.protocols import Guide
from fusionkit.registry import Registry
from fusionkit_coresemantic.masks import FEATHER, GROW, phrases, softened
from fusionkit_coresemantic.network import MASK


class NamedObjects:
    """One mask of everything that a prompt names.

    Each phrase of a prompt is asked of the guide by itself, over the pairs that name it; a mask is
    the largest answer of its phrases, cut at a threshold, dilated and feathered. A prompt without
    words has a mask of zeros and asks nothing. The guide is built when it is first asked.

    Args:
        registry: where the guide comes from.
        encoder: for a guide that is drawn by one.
        guide, guide_options: what finds things, and its options: ``grounding-dino-sam``,
            ``owlv2``, ``clipseg``, ``heatmap``, ``saliency``, ``folder-masks`` ... Of its maps
            ``mask`` counts, else the first.
        offline_guide: takes its place, with a warning, where its weights cannot be had: the
            encoder's heat map. With an encoder that reads no pictures, ``saliency`` of the
            infrared picture (brighter than its mean by two deviations), which reads no words. None
            makes missing weights an error.
        threshold: what is inside, of maps in [0, 1]; masks of zeros and ones do not care. The
            encoder's heat maps want .3, see the plugin's README.
        grow, feather: see :func:`~fusionkit_coresemantic.masks.softened`.

    Raises:
        BadRequest: when called, a batch without prompts.
    """

    maps = (MASK,)

    def __init__(
        self,
        *,
        registry: Registry,
        encoder: Any = None,
        guide: str = "grounding-dino-sam",
        guide_options: Mapping[str, Any] | None = None,
        offline_guide: str | None = "heatmap",
        threshold: float = 0.3,
        grow: int = GROW,
        feather: float = FEATHER,
    ) -> None:
        if grow < 0 or feather < 0 or not 0 <= threshold < 1:
            raise BadRequest(
                f"guide 'core-mask': grow={grow}, feather={feather} are no less than 0 and "
                f"threshold={threshold} lies in [0, 1)."
            )
        registry.entry("guide", guide)  # an unknown name stops here, not at the first pair
        self.registry, self.encoder = registry, encoder
        self.guide, self.guide_options = guide, dict(guide_options or {})
        self.offline_guide = offline_guide
        self.threshold, self.grow, self.feather = threshold, grow, feather
        self._built: Guide | None = None

    @torch.no_grad()
    def __call__(self, batch: Batch) -> dict[str, Tensor]:
        """``{"mask": (B, 1, H, W)}`` in [0, 1]."""
        if len(batch.prompts) != len(batch):
            raise BadRequest(
                "guide 'core-mask' looks for what the prompts name, and this batch has "
                f"{len(batch.prompts)} prompts for {len(batch)} pairs: give the text in words, or "
                "a mask of your own as guides['mask']."
            )
        rows: dict[str, list[int]] = {}
        for row, prompt in enumerate(batch.prompts):
            for phrase in phrases(prompt):
                rows.setdefault(phrase, []).append(row)
        found = batch.visible.new_zeros(len(batch), 1, *batch.visible.shape[-2:])
        for phrase, asked in rows.items():
            maps = self._find(batch, phrase, asked)
            found[asked] = torch.maximum(found[asked], maps.to(found))
        found = (found > self.threshold).to(found)
        return {MASK: softened(found, self.grow, self.feather)}

    def _find(self, batch: Batch, phrase: str, rows: list[int]) -> Tensor:
        self._built = self._built or self._build()
        asked = Batch(
            visible=batch.visible[rows],
            infrared=batch.infrared[rows],
            prompts=(phrase,) * len(rows),
            names=tuple(batch.names[row] for row in rows) if batch.names else (),
        )
        maps = self._built(asked)
        drawn = maps["mask"] if "mask" in maps else next(iter(maps.values()))
        return enlarge(drawn, tuple(batch.visible.shape[-2:]))

    def _build(self) -> Guide:
        try:
            return create(
                self.registry, "guide", self.guide, self.guide_options, encoder=self.encoder
            )
        except MissingWeights as error:
            if self.offline_guide is None:
                raise
            name, options, knows = self.offline_guide, {}, "which is coarse"
            if name == "heatmap" and not hasattr(self.encoder, "heatmap"):
                name, options = "saliency", {"sources": ("infrared",)}
                knows = "which reads no words"
            warnings.warn(
                f"{error} Until then named objects are where guide {name!r} sees them, {knows}.",
                stacklevel=2,
            )
            return create(self.registry, "guide", name, options, encoder=self.encoder)
