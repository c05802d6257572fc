"""Two objectives of RFC: what the region shall look like and what the rest, and alignment.

Source: "Robust Fusion Controller" (RFC), arXiv 2504.05795, and its released code (``loss.py``),
which is followed where the two differ.
"""

import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d, cosine_similarity

from fusionkit.batch import Batch, Fused
from fusionkit.color import luma

_ACROSS = ((-1.0, 0.0, 1.0), (-2.0, 0.0, 2.0), (-1.0, 0.0, 1.0))


def luma_chroma(image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Y, Cr, Cb as the release computes them, ``(B, 1, H, W)`` each; chroma centred on 0.5."""
    y = luma(image)
    return y, 0.713 * (image[:, :1] - y) + 0.5, 0.564 * (image[:, 2:] - y) + 0.5


def colour(y: Tensor, cr: Tensor, cb: Tensor) -> Tensor:
    """The release's way back to RGB, not clipped."""
    cr, cb = cr - 0.5, cb - 0.5
    return torch.cat([y + 1.403 * cr, y - 0.714 * cr - 0.344 * cb, y + 1.773 * cb], 1)


def gradient(plane: Tensor) -> Tensor:
    """|Sobel across| + |Sobel down|, weights 1 2 1, zeros around the picture."""
    across = plane.new_tensor(_ACROSS)
    kernels = torch.stack([across, across.T])[:, None]
    return conv2d(plane, kernels, padding=1).abs().sum(1, keepdim=True)


def balance(mask: Tensor) -> tuple[Tensor, Tensor]:
    """What region and rest count per pixel, ``(B, 1, 1, 1)`` each: T/(2r) and T/(T - r).

    r is the sum of the mask, T the number of pixels. No region: 0 and 1; all region: 1 and 0.
    """
    total = float(mask[0].numel())
    r = mask.sum((1, 2, 3), keepdim=True)
    region = torch.where(r > 0, total / (2 * r.clamp_min(1e-12)), 0.0)
    rest = torch.where(r < total, total / (total - r).clamp_min(1e-12), 0.0)
    return torch.where(r < total, region, 1.0), rest


class RegionReconstruction(nn.Module):
    r"""The objective of RFC, term by term; the recipe weights them.

    With the reference pair (clean in the region, as it came outside), mask M, its balance
    :math:`\lambda` and a (see :func:`balance`), planes Y, Cr, Cb, and S the gradient:

    .. math:: e = \max(Y_{vis}, Y_{ir}) - Y_f, \quad
              g = \max(S Y_{vis}, S Y_{ir}) - S Y_f, \quad
              c = C_{vis} - C_f

    ``region_intensity``, ``region_gradient``, ``region_cr``, ``region_cb`` are the means over all
    pixels of :math:`|\lambda\,\cdot\,M|` of these, ``rest_...`` those of :math:`|a\,\cdot\,(1-M)|`.
    The fused picture is taken as the network gives it in training, not limited above.

    ``align`` is one minus the cosine between the change that the fusion modules made and the
    control prior, both as channel means, over all pixels; 0 where a network leaves no such maps,
    because another scheme took the place of its own.

    Args:
        align_gradient: whether ``align`` trains the network, as the paper means it; the released
            code computes it without a gradient.

    Raises:
        ValueError: the batch has no ``visible``, ``infrared`` or ``mask`` among its targets.
    """

    def __init__(self, *, align_gradient: bool = True) -> None:
        super().__init__()
        self.align_gradient = align_gradient

    def forward(self, batch: Batch, fused: Fused) -> dict[str, Tensor]:
        missing = [n for n in ("visible", "infrared", "mask") if n not in batch.targets]
        if missing:
            raise ValueError(
                f"the loss 'rfc' compares with the targets {', '.join(missing)}, which the batch "
                "lacks: the task of recipe 'rfc' makes them."
            )
        with torch.autocast(fused.image.device.type, enabled=False):
            return self._terms(batch, fused)

    def _terms(self, batch: Batch, fused: Fused) -> dict[str, Tensor]:
        image = fused.image.float()
        visible, infrared, mask = (
            batch.targets[name].float() for name in ("visible", "infrared", "mask")
        )
        y, cr, cb = luma_chroma(visible)
        fused_y, fused_cr, fused_cb = luma_chroma(image)
        strongest = torch.maximum(gradient(y), gradient(infrared))
        differences = {
            "intensity": torch.maximum(y, infrared) - fused_y,
            "gradient": strongest - gradient(fused_y),
            "cr": cr - fused_cr,
            "cb": cb - fused_cb,
        }
        inside, outside = balance(mask)
        terms = {}
        for side, weight in (("region", inside * mask), ("rest", outside * (1 - mask))):
            for name, difference in differences.items():
                terms[f"{side}_{name}"] = (difference * weight).abs().mean()
        return terms | {"align": self._alignment(fused)}

    def _alignment(self, fused: Fused) -> Tensor:
        if "control" not in fused.maps:
            return fused.image.new_zeros(())
        with torch.set_grad_enabled(self.align_gradient and torch.is_grad_enabled()):
            return alignment(fused.maps["change"], fused.maps["control"])


def alignment(change: Tensor, control: Tensor) -> Tensor:
    """Mean over pairs of 1 - cos between two maps ``(B, 1, H, W)``; in [0, 2]."""
    return (1 - cosine_similarity(change.flatten(1), control.flatten(1), dim=1)).mean()
