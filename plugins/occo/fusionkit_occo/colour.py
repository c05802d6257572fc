"""Colour as OCCO's released code handles it: the luma is fused, the chroma is the visible one's.

Its factors are rounded to three digits, so they differ from :mod:`fusionkit.color` in the fourth.
"""

import torch
from torch import Tensor

from fusionkit.color import BT601


def to_ycbcr(image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """RGB ``(B, 3, H, W)`` -> luma, blue and red chroma, each ``(B, 1, H, W)`` in [0, 1]."""
    red, green, blue = image.split(1, dim=1)
    y = BT601[0] * red + BT601[1] * green + BT601[2] * blue
    cb, cr = 0.564 * (blue - y) + 0.5, 0.713 * (red - y) + 0.5
    return y.clamp(0, 1), cb.clamp(0, 1), cr.clamp(0, 1)


def to_rgb(y: Tensor, cb: Tensor, cr: Tensor) -> Tensor:
    """Inverse of :func:`to_ycbcr`, ``(B, 3, H, W)``; not clamped."""
    cb, cr = cb - 0.5, cr - 0.5
    return torch.cat([y + 1.403 * cr, y - 0.714 * cr - 0.344 * cb, y + 1.773 * cb], 1)
