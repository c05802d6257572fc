"""From words to phrases and from what a guide finds to masks that a network is given.

Source: ours.
"""

import re

import torch
from torch import Tensor
from torch.nn.functional import conv2d, max_pool2d, pad

GROW = 2
"""Pixels by which a mask is dilated."""
FEATHER = 1.5
"""Deviation of the Gaussian that softens its border, pixels."""


def phrases(prompt: str) -> tuple[str, ...]:
    """What a prompt names: ``person, red car.`` -> ``("person", "red car")``.

    Phrases are parted by commas, full stops, semicolons and new lines.
    """
    parts = (" ".join(part.split()) for part in re.split(r"[.,;\n]", prompt))
    return tuple(dict.fromkeys(part for part in parts if part))


def softened(mask: Tensor, grow: int = GROW, feather: float = FEATHER) -> Tensor:
    """A mask ``(B, 1, H, W)`` dilated and feathered, in [0, 1]; one of zeros stays so.

    Args:
        grow: pixels of the dilation, by a square.
        feather: deviation of the Gaussian, pixels; 0 leaves borders sharp. Beyond the edges of the
            picture the mask goes on as it ends.
    """
    if grow:
        mask = max_pool2d(mask, 2 * grow + 1, stride=1, padding=grow)
    if feather:
        radius = int(3 * feather + 0.5)
        offsets = torch.arange(-radius, radius + 1, device=mask.device, dtype=mask.dtype)
        weights = torch.exp(-offsets.square() / (2 * feather**2))
        weights = weights / weights.sum()
        mask = pad(mask, (radius,) * 4, mode="replicate")
        mask = conv2d(conv2d(mask, weights.view(1, 1, -1, 1)), weights.view(1, 1, 1, -1))
    return mask.clamp(0, 1)
