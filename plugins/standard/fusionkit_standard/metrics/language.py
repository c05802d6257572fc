"""How well the fused picture fits a text, by an encoder that sees both in one space.

Source: J. Hessel, A. Holtzman, M. Forbes, R. Le Bras, Y. Choi, "CLIPScore: a reference-free
evaluation metric for image captioning", EMNLP 2021. Values depend on the encoder and its weights:
a table must name both.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity

from fusionkit.batch import TextFeatures
from fusionkit.errors import BadRequest
from fusionkit.protocols import JointEncoder


class TextAgreement:
    """Cosine of the fused picture and the text, as a percentage, cut at 0 (CLIP score).

    Called with ``text=``: a sentence, one per picture, or encoded text. Grey pictures are repeated
    to three channels.

    Args:
        encoder: A joint encoder; it decides what the numbers mean.
    """

    name = "clip_sim"
    higher_is_better = True
    range = (0.0, 100.0)
    unit = "%"
    source = "Hessel et al., CLIPScore, EMNLP 2021"
    variant = "100 max(0, cosine), of the encoder that is given"
    needs = ("fused", "text")
    differentiable = True

    def __init__(self, encoder: JointEncoder) -> None:
        if not isinstance(encoder, JointEncoder):
            raise BadRequest(
                f"{self.name} needs an encoder of text and pictures; "
                f"{type(encoder).__name__} is none."
            )
        self.encoder = encoder

    def agreement(self, image: Tensor, text: Tensor) -> Tensor:
        """Cosine ``(B,)`` of pictures with pooled text ``(1 or B, D)``."""
        three = image.expand(-1, 3, -1, -1)
        return cosine_similarity(self.encoder.encode_image(three).pooled, text)

    def pooled(self, text: str | Sequence[str] | TextFeatures, count: int) -> Tensor:
        """The text as ``(1 or count, D)``."""
        if not isinstance(text, TextFeatures):
            prompts = [text] if isinstance(text, str) else list(text)
            with torch.no_grad():
                text = self.encoder.encode_text(prompts)
        if len(text) not in (1, count):
            raise BadRequest(f"{len(text)} texts for {count} pictures: give one, or one each.")
        return text.pooled

    def __call__(
        self,
        fused: Tensor,
        ir: Tensor | None = None,
        vi: Tensor | None = None,
        *,
        text: str | Sequence[str] | TextFeatures,
        **context: object,
    ) -> Tensor:
        """``(B, 1 or 3, H, W)`` in [0, 1] and its text -> ``(B,)``."""
        cosine = self.agreement(fused, self.pooled(text, len(fused)))
        return 100 * cosine.double().clamp_min(0)


class TextGain(TextAgreement):
    """How much nearer to the text the fused picture is than the better of its sources.

    Above 0, fusion brought out what the text speaks of.
    """

    name = "clip_gain"
    range = (-200.0, 200.0)
    variant = "100 (cosine of fused - larger cosine of the sources), of the encoder that is given"
    needs = ("fused", "ir", "vi", "text")

    def __call__(
        self,
        fused: Tensor,
        ir: Tensor | None = None,
        vi: Tensor | None = None,
        *,
        text: str | Sequence[str] | TextFeatures,
        **context: object,
    ) -> Tensor:
        pooled = self.pooled(text, len(fused))
        found = [self.agreement(p, pooled).double() for p in (fused, ir, vi)]
        return 100 * (found[0] - torch.maximum(*found[1:]))
