"""OCCO's contrast: in each region, near to the picture that shows the object, far from the rest.

The first quarter of a batch is the anchor; what it is pushed away from is the other modality in all
four quarters, each inside its own region mask. Pictures are multiplied with masks, not cut.
"""

import os
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from fusionkit.batch import Batch, Fused
from fusionkit.errors import BadRequest, did_you_mean
from fusionkit_occo.contextual import SPATIAL, contextual_bilateral
from fusionkit_occo.pixel import lumas
from fusionkit_occo.regions import regions
from fusionkit_occo.vgg import Vgg19

MASKS = ("mask_visible", "mask_infrared")
SOURCES = ("visible", "infrared")
DEEP, SHALLOW = 1 / 4, 1 / 16
"""Share of relu4_4 beside relu5_4, and of relu1_1 in the background."""
LEAST = 1e-2
"""Floor of the sum of distances to the negatives. Where each place of a map finds its own match,
the distance is -log(1 + 1e-5), so without a floor a ratio may be of any size and sign."""


class ObjectContrast(nn.Module):
    r"""Object-aware and contextual contrastive terms.

    With P the picture to keep, N the one to leave, m a region, a = F m of the first quarter and CXB
    the contextual bilateral distance on VGG-19's relu5_4 and relu4_4:

    .. math:: R(m; P, N) = \frac{CXB_5(p, a)}{\sum_k CXB_5(a, n_k)}
              + \frac14 \frac{CXB_4(a, p)}{\sum_k CXB_4(a, n_k)}

    Terms, unweighted: ``contrast_visible`` = R(visible alone; V, I), ``contrast_infrared`` =
    R(infrared alone; I, V), ``contrast_shared_visible`` = R(shared; V, I),
    ``contrast_shared_infrared`` = R(shared; I, V), ``contrast_background``, the same ratio of
    squared distances on relu1_1 over sixteen. The paper's recipe weights them 10, 10, 5, 5, 10.

    Needs ``batch.guides["mask_visible"]`` and ``["mask_infrared"]``, and four pictures at least.

    Source: OCCO, IJCV 2025 (arXiv 2503.18635), released code; floors under the
    denominators are ours.

    Args:
        weights, offline: of :class:`~fusionkit_occo.vgg.Vgg19`.
        spatial: second affinity of the contextual bilateral distance, ``feature`` as released or
            ``grid``.
    """

    def __init__(
        self,
        *,
        weights: str | os.PathLike[str] = "imagenet",
        offline: str | None = None,
        spatial: str = "feature",
    ) -> None:
        super().__init__()
        if spatial not in SPATIAL:
            raise BadRequest(
                f"spatial is {' or '.join(SPATIAL)}, not {spatial!r}."
                f"{did_you_mean(spatial, SPATIAL)}"
            )
        self.spatial = spatial
        self.vgg = Vgg19(weights, offline=offline)

    def forward(self, batch: Batch, fused: Fused) -> dict[str, Tensor]:
        missing = [name for name in MASKS if name not in batch.guides]
        if missing:
            raise ValueError(
                f"loss 'occo-contrast' reads the guides {', '.join(MASKS)}, and this batch lacks "
                f"{', '.join(missing)}: use the task of recipe 'occo', or guides that make them."
            )
        if len(batch) < 4:
            raise ValueError(
                f"loss 'occo-contrast' cuts a batch into quarters, but this one has {len(batch)} "
                "pictures: use 4 at least."
            )
        quarter = len(batch) // 4
        used = slice(0, 4 * quarter)
        fused_luma, visible, infrared = (x[used] for x in lumas(batch, fused))
        anchor, sources = fused_luma[:quarter], {"visible": visible, "infrared": infrared}
        masks = [batch.guides[name][used].to(anchor) for name in MASKS]
        region = regions(*masks)
        (alone,) = self._ratios(anchor, region["visible"], sources, ["visible"])
        (hot,) = self._ratios(anchor, region["infrared"], sources, ["infrared"])
        shared = self._ratios(anchor, region["shared"], sources, ["visible", "infrared"])
        return {
            "contrast_visible": alone,
            "contrast_infrared": hot,
            "contrast_shared_visible": shared[0],
            "contrast_shared_infrared": shared[1],
            "contrast_background": self._background(anchor, region["background"], sources),
        }

    def _ratios(
        self, anchor: Tensor, mask: Tensor, sources: Mapping[str, Tensor], kept: Sequence[str]
    ) -> list[Tensor]:
        """R of one region for each source to be kept: one VGG pass with gradient, one without.

        The anchor is the same for each, and a positive of one is the first negative of the other.
        """
        quarter = len(anchor)
        # Of a source that is nowhere pushed away from, only the positive is needed.
        needed = {name: x if kept != [name] else x[:quarter] for name, x in sources.items()}
        near = self.vgg(anchor * mask[:quarter])
        with torch.no_grad():
            others = self.vgg(torch.cat([x * mask[: len(x)] for x in needed.values()]))
        sizes = [len(x) for x in needed.values()]
        with torch.autocast(anchor.device.type, enabled=False):
            layers = [
                (a.float(), dict(zip(needed, other.float().split(sizes), strict=True)))
                for a, other in zip(near, others, strict=True)
            ]
            return [self._ratio(layers, name) for name in kept]

    def _ratio(self, layers: Sequence[tuple[Tensor, Mapping[str, Tensor]]], kept: str) -> Tensor:
        """Both layers' ratios added up, shallow one first; each is the anchor and its sources."""
        (left,) = set(SOURCES) - {kept}
        terms = []
        for anchor, sources in layers:
            positive = sources[kept][: len(anchor)]
            negatives = sources[left].split(len(anchor))
            terms.append((anchor, positive, negatives))
        (a4, p4, n4), (a5, p5, n5) = terms
        # As released, the deep numerator takes its arguments in the other order.
        return ratio(self._distance(p5, a5), [self._distance(a5, n) for n in n5]) + DEEP * ratio(
            self._distance(a4, p4), [self._distance(a4, n) for n in n4]
        )

    def _distance(self, x: Tensor, y: Tensor) -> Tensor:
        return contextual_bilateral(x, y, spatial=self.spatial)

    def _background(self, anchor: Tensor, mask: Tensor, sources: Mapping[str, Tensor]) -> Tensor:
        quarter = len(anchor)
        with torch.autocast(anchor.device.type, enabled=False):

            def look(x: Tensor) -> Tensor:
                return self.vgg(x * mask[: len(x)], ["relu1_1"], collapsed=True)[0]

            found = look(anchor)
            with torch.no_grad():
                positive, negatives = look(sources["visible"][:quarter]), look(sources["infrared"])
            distances = [(found - n).square().mean() for n in negatives.split(quarter)]
            return SHALLOW * ratio((found - positive).square().mean(), distances, least=1e-8)


def ratio(near: Tensor, far: Sequence[Tensor], *, least: float = LEAST) -> Tensor:
    """A distance to what is wanted over the sum of those to what is not, neither below zero."""
    return near.clamp(min=0) / sum(far).clamp(min=least)
