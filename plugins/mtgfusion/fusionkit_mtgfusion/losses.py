"""The terms of the objective: how near the picture is to its sources, and to its texts."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fusionkit.batch import Batch, Fused
from fusionkit.color import luma
from fusionkit.errors import BadRequest


class TwoSource(nn.Module):
    r"""Mean over both sources of squared error, absolute error and structure.

    ``mse`` and ``l1`` are :math:`\tfrac12 (d(F, A) + d(F, B))` on luma. ``ssim`` likewise of
    1 - SSIM; in the released program it is a placeholder equal to L1, which ``ssim="l1"`` gives.

    Source: MTG-Fusion (IJCV 2025), released losses; SSIM of Z. Wang et al., IEEE TIP 2004, with a
    Gaussian window of 11 x 11 and deviation 1.5.
    """

    def __init__(self, *, ssim: str = "ssim") -> None:
        super().__init__()
        if ssim not in ("ssim", "l1"):
            raise BadRequest(f"ssim={ssim!r} is neither 'ssim' nor 'l1' (the released program's).")
        self.ssim = ssim

    def forward(self, batch: Batch, fused: Fused) -> dict[str, Tensor]:
        f = luma(fused.image).float()
        sources = [batch.infrared.float(), luma(batch.visible).float()]
        mse = sum((f - s).square().mean() for s in sources) / 2
        l1 = sum((f - s).abs().mean() for s in sources) / 2
        structure = l1
        if self.ssim == "ssim":
            structure = sum(1 - structural_similarity(f, s) for s in sources) / 2
        return {"mse": mse, "ssim": structure, "l1": l1}


class TextAgreement(nn.Module):
    r"""Cosine distance of the fused picture to the texts, in the encoder's joint space.

    ``text`` :math:`= \sum_r \mathrm{mean}(1 - \cos(t_F, t_r))` over the texts of the infrared and
    the visible picture and of the ideal fused one, where :math:`t_F` is what the joint encoder
    makes of the fused picture. Zero where the batch has none of these texts (first stage).

    Source: MTG-Fusion (IJCV 2025); in its release the way from picture to text is a stub.

    Args:
        encoder: a joint encoder, with gradients to the picture.
        roles: texts to compare with.
    """

    def __init__(self, *, encoder: Any, roles: Sequence[str] = ("ir", "vi", "fused")) -> None:
        super().__init__()
        if not hasattr(encoder, "encode_image"):
            raise BadRequest(
                "the text loss of mtgfusion compares a picture with texts, but this encoder reads "
                "no pictures; use a joint one (tiny-clip, openclip, blip), or leave the loss out."
            )
        self.encoder, self.roles = encoder, tuple(roles)

    def forward(self, batch: Batch, fused: Fused) -> dict[str, Tensor]:
        texts = [batch.texts[role].pooled for role in self.roles if role in batch.texts]
        if not texts:
            return {"text": fused.image.new_zeros(())}
        picture = self.encoder.encode_image(luma(fused.image).clamp(0, 1)).pooled
        return {"text": multi_text(picture, texts)}


def text_distance(first: Tensor, second: Tensor) -> Tensor:
    """Mean over the batch of ``1 - cos`` of pooled vectors ``(B, D)``; a scalar."""
    return (1 - F.cosine_similarity(first.float(), second.float(), dim=-1)).mean()


def multi_text(fused: Tensor, texts: Sequence[Tensor]) -> Tensor:
    """Sum of :func:`text_distance` from one to several texts, each ``(B, D)``."""
    return sum(text_distance(fused, text) for text in texts)


def structural_similarity(x: Tensor, y: Tensor) -> Tensor:
    """Mean of :func:`similarity_map`, a scalar."""
    return similarity_map(x, y).mean()


def similarity_map(x: Tensor, y: Tensor) -> Tensor:
    """SSIM at each pixel of two ``(B, 1, H, W)`` in [0, 1]; borders go on with their last pixel."""
    place = torch.arange(11, device=x.device, dtype=torch.float32) - 5
    window = torch.exp(-place.square() / (2 * 1.5**2))
    window = window / window.sum()

    def blur(image: Tensor) -> Tensor:
        image = F.pad(image, (5, 5, 5, 5), mode="replicate")
        return F.conv2d(F.conv2d(image, window.view(1, 1, 1, 11)), window.view(1, 1, 11, 1))

    with torch.autocast(x.device.type, enabled=False):
        maps = blur(torch.cat([x, y, x * x, y * y, x * y]))
        mean_x, mean_y, xx, yy, xy = maps.chunk(5)
        covariance = xy - mean_x * mean_y
        spread = xx + yy - mean_x.square() - mean_y.square()
        c1, c2 = 0.01**2, 0.03**2
        similarity = (2 * mean_x * mean_y + c1) * (2 * covariance + c2)
        return similarity / ((mean_x.square() + mean_y.square() + c1) * (spread + c2))
