"""Colour and rounding, once: everything else in the house calls these.

Pictures are float tensors ``(B, C, H, W)`` in [0, 1]. Papers differ in luma weights by the fifth
decimal and in how they round; a method that needs its paper's exact numbers says so in its plugin.
"""

import torch
from torch import Tensor

BT601 = (0.299, 0.587, 0.114)
"""Luma weights of ITU-R BT.601, used by every method here."""


def luma(image: Tensor) -> Tensor:
    """BT.601 luma ``(B, 1, H, W)`` of an RGB picture; one channel is returned as it is."""
    if image.shape[1] == 1:
        return image
    if image.shape[1] != 3:
        raise ValueError(f"a picture has 1 or 3 channels, not {image.shape[1]}.")
    weights = image.new_tensor(BT601).view(1, 3, 1, 1)
    return (image * weights).sum(1, keepdim=True)


def rgb_to_ycbcr(image: Tensor) -> Tensor:
    """Full-range BT.601 YCbCr ``(B, 3, H, W)``, chroma centred on 0.5."""
    red, green, blue = image.unbind(1)
    y = BT601[0] * red + BT601[1] * green + BT601[2] * blue
    cb = (blue - y) / 1.772 + 0.5
    cr = (red - y) / 1.402 + 0.5
    return torch.stack([y, cb, cr], 1)


def ycbcr_to_rgb(image: Tensor) -> Tensor:
    """Inverse of :func:`rgb_to_ycbcr`; not clipped."""
    y, cb, cr = image.unbind(1)
    red = y + 1.402 * (cr - 0.5)
    blue = y + 1.772 * (cb - 0.5)
    green = (y - BT601[0] * red - BT601[2] * blue) / BT601[1]
    return torch.stack([red, green, blue], 1)


def recolor(fused_luma: Tensor, visible: Tensor) -> Tensor:
    """A fused luma ``(B, 1, H, W)`` with the chroma of the visible picture, clipped to [0, 1]."""
    chroma = rgb_to_ycbcr(visible)[:, 1:]
    return ycbcr_to_rgb(torch.cat([fused_luma, chroma], 1)).clamp(0, 1)


def to_uint8(image: Tensor) -> Tensor:
    """Rounded to 8 bits, half up: what a saved picture holds."""
    # In bfloat16, 255.5 is 256, which wraps to black.
    return (image.float().clamp(0, 1) * 255 + 0.5).floor().to(torch.uint8)
