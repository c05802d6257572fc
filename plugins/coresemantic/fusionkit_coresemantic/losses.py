r"""The objective: inside the named objects, outside them, edges, structure, and the words.

With f the fused luma, i the infrared picture, Y the visible luma, M the mask; every term is a mean
over the batch.

Source: ours. The published description of "Infrared and visible image fusion based on text-image
core-semantic alignment and interaction", Digital Signal Processing, 2025, says that the mask
constrains the loss, and no more.
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import conv2d, cosine_similarity, interpolate, pad

from fusionkit.batch import Batch, Fused
from fusionkit.color import luma
from fusionkit.errors import BadRequest
from fusionkit.guides import enlarge
from fusionkit_coresemantic.network import MASK

EPSILON = 1e-6
WINDOW, SIGMA = 11, 1.5


class CoreSemanticRegion:
    r"""Five terms over the named objects and the rest.

    * ``core``: :math:`\sum M |f - \max(i, Y)| / (\sum M + \epsilon)`
    * ``back``: :math:`\sum (1-M) |f - (w i + (1-w) Y)| / (\sum (1-M) + \epsilon)`
    * ``gradient``: mean of :math:`\big||S f| - \max(|S i|, |S Y|)\big|`, S by Sobel, with
      :math:`|S x| = |S_x x| + |S_y x|`
    * ``gradient_core``: the same inside M, as in ``core``
    * ``structure``: :math:`2 - \mathrm{SSIM}(f, i) - \mathrm{SSIM}(f, Y)`, windows of 11, deviation
      1.5

    Sums are over one pair, so a pair counts once however much of it is named. M is the guide
    ``mask``, else the target of that name.

    Args:
        infrared_share: w, the infrared share of what is not named.
        use_mask: False takes nothing as named, for the ablation.

    Raises:
        ValueError: no mask in the batch, or pictures below 11x11.
    """

    min_size = WINDOW

    def __init__(self, *, infrared_share: float = 0.3, use_mask: bool = True) -> None:
        if not 0 <= infrared_share <= 1:
            raise BadRequest(f"infrared_share={infrared_share}: a share in [0, 1].")
        self.infrared_share, self.use_mask = infrared_share, use_mask

    def __call__(self, batch: Batch, fused: Fused) -> dict[str, Tensor]:
        f, infrared, y = (
            x.float() for x in (luma(fused.image), batch.infrared, luma(batch.visible))
        )
        mask = mask_of(batch, tuple(f.shape[-2:])) if self.use_mask else torch.zeros_like(f)
        edges = (sobel(f) - torch.maximum(sobel(infrared), sobel(y))).abs()
        rest = self.infrared_share * infrared + (1 - self.infrared_share) * y
        return {
            "core": within((f - torch.maximum(infrared, y)).abs(), mask),
            "back": within((f - rest).abs(), 1 - mask),
            "gradient": edges.mean(),
            "gradient_core": within(edges, mask),
            "structure": (2 - ssim(f, infrared) - ssim(f, y)).mean(),
        }


class RegionAlignment:
    r"""``align``: the named objects of the fused picture look like what the words say.

    .. math:: 1 - \cos\!\big(\mathrm{CLIP}_{img}(F \odot (0.2 + 0.8 M)), \mathrm{CLIP}_{txt}(t)\big)

    over the pairs that name something and show it; zero where none does, and with an encoder that
    reads no pictures, which ``remark`` then says.

    Args:
        encoder: the run's joint encoder.
        size: side to which the masked picture is resized; None leaves it as it is.
    """

    def __init__(self, *, encoder: Any, size: int | None = 224) -> None:
        self.encoder, self.size = encoder, size
        self.reads = hasattr(encoder, "encode_image")
        self.remark = (
            ""
            if self.reads
            else "The encoder reads no pictures, so nothing aligned them with the words: the term "
            "'align' was zero."
        )
        self._said: dict[str, Tensor] = {}

    def __call__(self, batch: Batch, fused: Fused) -> dict[str, Tensor]:
        image = fused.image
        mask = mask_of(batch, tuple(image.shape[-2:]))
        shown = mask.amax((1, 2, 3)).tolist()
        rows = [k for k, p in enumerate(batch.prompts) if p.strip() and shown[k] > 0]
        if not rows or not self.reads:
            return {"align": (image * 0.0).sum()}
        seen = (image[rows] * (0.2 + 0.8 * mask[rows]).to(image)).clamp(0, 1)
        if self.size is not None and seen.shape[-2:] != (self.size, self.size):
            seen = interpolate(
                seen, (self.size, self.size), mode="bilinear", antialias=True, align_corners=False
            )
        found = self.encoder.encode_image(seen).pooled.float()
        said = torch.stack([self._encoded(batch.prompts[k]) for k in rows]).to(found)
        return {"align": (1 - cosine_similarity(found, said)).sum() / len(batch)}

    def _encoded(self, prompt: str) -> Tensor:
        if prompt not in self._said:
            with torch.no_grad():
                self._said[prompt] = self.encoder.encode_text([prompt]).pooled[0].float()
        return self._said[prompt]


def mask_of(batch: Batch, size: tuple[int, int]) -> Tensor:
    """The mask of a batch, ``(B, 1, H, W)`` float32 at a size."""
    mask = batch.guides.get(MASK, batch.targets.get(MASK))
    if mask is None:
        raise ValueError(
            "this loss needs the mask of what is named, batch.guides['mask'] or "
            "batch.targets['mask'], and the batch has neither: name guide 'core-mask' in the "
            "recipe."
        )
    return enlarge(mask.float(), size)


def within(error: Tensor, mask: Tensor) -> Tensor:
    """Mean over the batch of each pair's mean error inside its mask; an empty mask gives zero."""
    inside = (error * mask).sum((1, 2, 3)) / (mask.sum((1, 2, 3)) + EPSILON)
    return inside.mean()


def sobel(x: Tensor) -> Tensor:
    """Sum of the absolute Sobel responses of ``(B, 1, H, W)``; edges are repeated outwards."""
    x = pad(x, (1, 1, 1, 1), mode="replicate")
    smooth_down = x[..., :-2, :] + 2 * x[..., 1:-1, :] + x[..., 2:, :]
    smooth_across = x[..., :-2] + 2 * x[..., 1:-1] + x[..., 2:]
    across = smooth_down[..., 2:] - smooth_down[..., :-2]
    down = smooth_across[..., 2:, :] - smooth_across[..., :-2, :]
    return across.abs() + down.abs()


def ssim(x: Tensor, y: Tensor) -> Tensor:
    """Structural similarity of ``(B, 1, H, W)`` in [0, 1] over whole windows: ``(B,)``.

    Source: Z. Wang et al., "Image Quality Assessment", IEEE TIP 2004, eq. 13.
    """
    if min(x.shape[-2:]) < WINDOW:
        raise ValueError(
            f"structure is compared in windows of {WINDOW} pixels, larger than pictures of "
            f"{x.shape[-2]}x{x.shape[-1]}: use larger crops."
        )
    offsets = torch.arange(WINDOW, device=x.device, dtype=x.dtype) - WINDOW // 2
    weights = torch.exp(-offsets.square() / (2 * SIGMA**2))
    weights = weights / weights.sum()

    with torch.autocast(x.device.type, enabled=False):  # variances are small differences
        maps = torch.cat([x, y, x * x, y * y, x * y], 1).flatten(0, 1)[:, None]
        maps = conv2d(conv2d(maps, weights.view(1, 1, -1, 1)), weights.view(1, 1, 1, -1))
        mx, my, xx, yy, xy = maps[:, 0].unflatten(0, (len(x), 5)).unbind(1)
    c1, c2 = 0.01**2, 0.03**2
    alike = (2 * mx * my + c1) * (2 * (xy - mx * my) + c2)
    return (alike / ((mx * mx + my * my + c1) * (xx - mx * mx + yy - my * my + c2))).mean((1, 2))
