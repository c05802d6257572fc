"""Scores learned from people's opinions of photographs, without reference to the sources.

They look at the fused picture alone, in colour, and were learned on everyday photographs: a fused
picture that has lost one source entirely can score well. NIQE: A. Mittal, R. Soundararajan,
A. C. Bovik, IEEE Signal Processing Letters 20 (2013); BRISQUE: A. Mittal, A. K. Moorthy,
A. C. Bovik, IEEE TIP 21 (2012); MUSIQ: J. Ke et al., ICCV 2021; CLIP-IQA: J. Wang, K. C. K. Chan,
C. C. Loy, AAAI 2023. Computed by pyiqa, which is not installed with fusionkit and fetches the
weights of each on first use.
"""

from typing import Any, ClassVar

from torch import Tensor

from fusionkit.color import to_uint8
from fusionkit.errors import MissingWeights


class Opinion:
    """A learned score of the fused picture alone, computed by pyiqa.

    Raises:
        MissingWeights: Where pyiqa is not installed or its weights are neither on this machine nor
            to be had.
    """

    name: ClassVar[str]
    higher_is_better: ClassVar[bool]
    range: ClassVar[tuple[float, float]]
    unit = ""
    source: ClassVar[str]
    variant = "8-bit colour, by pyiqa; weights of its default model"
    needs = ("fused",)

    def __init__(self) -> None:
        try:
            import pyiqa

            self.model = pyiqa.create_metric(self.name)
        except ImportError as error:
            raise MissingWeights(
                f"the metric {self.name!r} is unavailable: it is computed by pyiqa, and "
                f"importing that failed ({error}). Try `pip install pyiqa setuptools`."
            ) from error
        except Exception as error:  # a failed download has no common class
            raise MissingWeights(
                f"the metric {self.name!r} is unavailable: pyiqa could not load its weights "
                f"({type(error).__name__}: {error}). They are fetched on first use, which needs a "
                "network."
            ) from error

    def __call__(
        self, fused: Tensor, ir: Tensor | None = None, vi: Tensor | None = None, **context: Any
    ) -> Tensor:
        """``(B, 1 or 3, H, W)`` in [0, 1] -> ``(B,)``."""
        saved = (to_uint8(fused).float() / 255).expand(-1, 3, -1, -1)
        self.model.to(saved.device)
        # Picture by picture: some of pyiqa's models return one number for a batch.
        values = [self.model(picture[None]).reshape(-1) for picture in saved]
        return fused.new_tensor([value.mean().item() for value in values]).double()


class Niqe(Opinion):
    """Distance of the picture's statistics from those of natural photographs. Lower is better."""

    name = "niqe"
    higher_is_better = False
    range = (0.0, float("inf"))
    source = "Mittal, Soundararajan, Bovik, IEEE SPL 20(3), 2013"


class Brisque(Opinion):
    """Distortion as people would rate it, from local statistics. Lower is better."""

    name = "brisque"
    higher_is_better = False
    range = (-float("inf"), float("inf"))
    source = "Mittal, Moorthy, Bovik, IEEE TIP 21(12), 2012"


class Musiq(Opinion):
    """Quality as people would rate it, by a transformer on several scales."""

    name = "musiq"
    higher_is_better = True
    range = (0.0, 100.0)
    source = "Ke, Wang, Wang, Milanfar, Yang, ICCV 2021"


class ClipIqa(Opinion):
    """Whether CLIP finds "Good photo." nearer than "Bad photo."."""

    name = "clipiqa"
    higher_is_better = True
    range = (0.0, 1.0)
    source = "Wang, Chan, Loy, AAAI 2023"
