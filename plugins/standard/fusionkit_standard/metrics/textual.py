"""Scores of TextFusion that also compare the fused picture with what the text asked for.

Each is ``(1 - C) m(sources, fused) + C m(reference, fused)`` with a text-guided reference picture
and a confidence C in [0, 1] per picture.

Source: C. Cheng, T. Xu, X.-J. Wu, H. Li, X. Li, J. Kittler, "TextFusion: unveiling the power of
textual semantics for controllable image fusion", Information Fusion 117 (2025).
"""

import torch
from torch import Tensor

from fusionkit.color import luma
from fusionkit.errors import BadRequest
from fusionkit_standard.metrics.base import SmoothScore
from fusionkit_standard.metrics.edges import edge_transfer
from fusionkit_standard.metrics.structure import GAUSSIAN_REPEATED, structural_similarity
from fusionkit_standard.metrics.wavelet import wavelet_fidelity


def text_reference(ir: Tensor, vi: Tensor, region: Tensor) -> Tensor:
    """Infrared inside the region of the text, visible outside, stretched to 0..1.

    Args:
        ir, vi: ``(B, 1 or 3, H, W)`` in [0, 1].
        region: ``(B, 1, H, W)`` in [0, 1].

    Returns:
        ``(B, 1, H, W)``. The rule is read off the authors' published pictures.
    """
    joined = region * luma(ir) + (1 - region) * luma(vi)
    low, high = joined.amin((-3, -2, -1), True), joined.amax((-3, -2, -1), True)
    return (joined - low) / torch.where(high > low, high - low, 1.0)


def text_confidence(heat: Tensor, region: Tensor) -> Tensor:
    """Mean of a heat map ``(B, 1, H, W)`` in [0, 1] over a region -> ``(B,)``; 0 for an empty one.

    The paper's formula was not at hand: this one agrees with the published values where they can be
    checked.
    """
    inside, area = (heat * region).sum((-3, -2, -1)), region.sum((-3, -2, -1))
    return torch.where(area > 0, inside / torch.where(area > 0, area, 1.0), 0.0)


class TextualScore(SmoothScore):
    """A score of the sources joined with one of a text-guided reference.

    Called with ``reference=`` ``(B, 1 or 3, H, W)`` in [0, 1] (:func:`text_reference`) and
    ``confidence=`` one number or ``(B,)`` in [0, 1] (:func:`text_confidence`); 0 gives the
    traditional score.
    """

    needs = ("fused", "ir", "vi", "reference", "confidence")
    source = "Cheng et al., TextFusion, Information Fusion 117, 2025"

    def parts(
        self, fused: Tensor, ir: Tensor, vi: Tensor, reference: Tensor, weight: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """The score against the sources and that against the reference, ``(B,)`` each."""
        raise NotImplementedError

    def score(
        self,
        fused: Tensor,
        ir: Tensor,
        vi: Tensor,
        reference: Tensor,
        *,
        confidence: Tensor | float,
        weight: Tensor | None = None,
    ) -> Tensor:
        share = torch.as_tensor(confidence, dtype=fused.dtype, device=fused.device)
        if share.ndim > 1 or (share.ndim and len(share) != len(fused)):
            raise BadRequest(
                f"confidence has the shape {tuple(share.shape)}; one number or one per picture, "
                f"({len(fused)},), is expected."
            )
        if not ((share >= 0) & (share <= 1)).all():
            raise BadRequest("a confidence lies outside [0, 1].")
        traditional, textual = self.parts(fused, ir, vi, reference, weight)
        # An undefined part that has no share does not count.
        joined = (1 - share) * traditional + share * textual
        return torch.where(share == 0, traditional, torch.where(share == 1, textual, joined))


class TextualEdgeTransfer(TextualScore):
    """Qabf joined with the edges kept of the text-guided reference (Qabf+)."""

    name = "qabf_plus"
    range = (0.0, 1.0)
    variant = "8-bit grey, (1-C) qabf + C Q of the reference"

    def parts(
        self, fused: Tensor, ir: Tensor, vi: Tensor, reference: Tensor, weight: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        traditional = edge_transfer(fused, (ir, vi), weight)
        return traditional, edge_transfer(fused, (reference,), weight)


class TextualSimilarity(TextualScore):
    """SSIM joined with the similarity to the text-guided reference (SSIM+)."""

    name = "ssim_plus"
    range = (-1.0, 1.0)
    variant = "8-bit grey, (1-C) ssim_g11_repl_L255_mean + C SSIM with the reference"

    def parts(
        self, fused: Tensor, ir: Tensor, vi: Tensor, reference: Tensor, weight: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        pictures = (ir, vi, reference)
        a, b, r = structural_similarity(fused, pictures, GAUSSIAN_REPEATED, weight=weight)
        return (a + b) / 2, r


class TextualFidelity(TextualScore):
    """Wavelet VIF joined with the fidelity to the text-guided reference (VIF+)."""

    name = "vif_plus"
    range = (0.0, float("inf"))
    variant = "8-bit grey divided by 255, (1-C) vif_wavelet_unit + C VIF of the reference"
    min_size = 65

    def parts(
        self, fused: Tensor, ir: Tensor, vi: Tensor, reference: Tensor, weight: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        references = [picture / 255 for picture in (ir, vi, reference)]
        a, b, r = wavelet_fidelity(fused / 255, references, weight)
        return (a + b) / 2, r
