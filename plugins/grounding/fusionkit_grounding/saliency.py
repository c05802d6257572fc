"""``saliency``: what stands out, without weights and without words."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import max_pool2d, pad

from fusionkit.batch import Batch
from fusionkit_grounding.masks import MAPS, SOURCES, check_sources, named

BINOMIAL = (1 / 16, 4 / 16, 6 / 16, 4 / 16, 1 / 16)


class Saliency:
    r"""What is hot in the infrared picture and what stands out by colour in the visible one.

    * infrared: pixels above :math:`\mu + k\sigma` of their picture, opened by 3x3, so that single
      pixels do not count;
    * visible: frequency-tuned saliency :math:`\lVert \bar I - I * g \rVert` with the picture's mean
      colour and a 5x5 binomial filter, above twice its own mean, opened likewise.

    It knows no words: the prompt is not read. A stand-in for a detector, not a match for one.

    Source: R. Achanta et al., "Frequency-tuned Salient Region Detection", CVPR 2009, eq. 4 and 8,
    on RGB; the infrared rule is a common threshold.

    Args:
        sources: the pictures to look at.
        deviations: k.
    """

    name = "saliency"
    maps = MAPS

    def __init__(self, *, sources: Sequence[str] = SOURCES, deviations: float = 2.0) -> None:
        self.sources, self.deviations = check_sources(self.name, sources), deviations
        self.maps = ("mask", *(f"mask_{source}" for source in self.sources))

    @torch.no_grad()
    def __call__(self, batch: Batch) -> dict[str, Tensor]:
        """Masks ``(B, 1, H, W)``, 0 or 1."""
        rules = {"visible": self._colour, "infrared": self._hot}
        return named(
            {s: _opened(rules[s](getattr(batch, s).float())).float() for s in self.sources}
        )

    def _hot(self, picture: Tensor) -> Tensor:
        deviation, mean = torch.std_mean(picture, dim=(1, 2, 3), keepdim=True, correction=0)
        # A picture of one value has nothing that stands out, whatever rounding says.
        return picture > mean + (self.deviations * deviation).clamp(min=1e-3)

    @staticmethod
    def _colour(picture: Tensor) -> Tensor:
        mean = picture.mean((2, 3), keepdim=True)
        saliency = (mean - _blurred(picture)).norm(dim=1, keepdim=True)
        return saliency > (2 * saliency.mean((1, 2, 3), keepdim=True)).clamp(min=1e-3)


def _blurred(picture: Tensor) -> Tensor:
    channels = picture.shape[1]
    weights = picture.new_tensor(BINOMIAL)
    picture = pad(picture, (2, 2, 2, 2), mode="replicate")
    for kernel in (weights.view(1, 1, -1, 1), weights.view(1, 1, 1, -1)):
        kernel = kernel.expand(channels, -1, -1, -1)
        picture = torch.conv2d(picture, kernel, groups=channels)
    return picture


def _opened(mask: Tensor) -> Tensor:
    """Without what is thinner than three pixels."""
    eroded = -max_pool2d(-mask.float(), 3, stride=1, padding=1)
    return max_pool2d(eroded, 3, stride=1, padding=1) > 0.5
