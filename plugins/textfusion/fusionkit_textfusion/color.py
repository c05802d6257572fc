"""Colour as the released code keeps it: luma is fused, chroma goes round the network unchanged.

No offset of 128 on the chroma and no rounding in between, so that grey pictures stay exactly grey.
Values in [0, 1] instead of [0, 255], which changes nothing: every step is linear.
"""

import torch
from torch import Tensor


def split_luma(visible: Tensor) -> tuple[Tensor, Tensor]:
    """RGB ``(B, 3, H, W)`` in [0, 1] -> luma ``(B, 1, H, W)`` in [0, 1], chroma ``(B, 2, H, W)``.

    .. math:: Y = 0.299 R + 0.587 G + 0.114 B,\\quad C_b = -0.169 R - 0.331 G + 0.5 B,\\quad
              C_r = 0.5 R - 0.419 G - 0.081 B
    """
    red, green, blue = visible.split(1, 1)
    luma = (0.299 * red + 0.587 * green + 0.114 * blue).clamp(0, 1)
    cb = -0.169 * red - 0.331 * green + 0.5 * blue
    cr = 0.5 * red - 0.419 * green - 0.081 * blue
    return luma, torch.cat([cb, cr], 1)


def join_luma(luma: Tensor, chroma: Tensor) -> Tensor:
    """Fused luma and the visible picture's chroma -> RGB ``(B, 3, H, W)``, not clipped.

    .. math:: R = Y + 1.402 C_r,\\quad G = Y - 0.344136 C_b - 0.714136 C_r,\\quad B = Y + 1.772 C_b
    """
    cb, cr = chroma.split(1, 1)
    return torch.cat(
        [luma + 1.402 * cr, luma - 0.344136 * cb - 0.714136 * cr, luma + 1.772 * cb], 1
    )
