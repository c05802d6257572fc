"""How the authors' test program treats pictures before and after the network."""

import numpy as np
import torch
from torch import Tensor


def stretch(image: Tensor) -> Tensor:
    """Clipped to [0, 1], then from smallest to largest value over pixels and channels together.

    A picture of one value becomes 0. ``(B, C, H, W)``, each picture for itself.
    """
    image = image.clamp(0, 1)
    low, high = image.amin((1, 2, 3), keepdim=True), image.amax((1, 2, 3), keepdim=True)
    return torch.where(high > low, (image - low) / (high - low).clamp_min(1e-12), 0.0)


def resize16(picture: np.ndarray) -> np.ndarray:
    """A picture at the largest multiples of 16 that are not above its size; 8 bits, bicubic.

    ``(H, W, 3)``. The authors resize both pictures so and do not resize the result back; the bench
    pads by reflection and cuts back instead.
    """
    from PIL import Image

    height, width = (side // 16 * 16 for side in picture.shape[:2])
    return np.asarray(Image.fromarray(picture).resize((width, height)))


def stretch_uint8(image: Tensor) -> Tensor:
    """What the authors' test program saves, 8 bits, ``(B, C, H, W)``; see :func:`stretch`."""
    return (stretch(image.float()) * 255).round().to(torch.uint8)
