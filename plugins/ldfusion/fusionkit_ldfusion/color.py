"""Grey and colour. Colour is made as in the released code, with its rounded constants.

The host's :func:`fusionkit.color.recolor` uses the exact inverse; the two differ by up to 0.002.
"""

import torch
from torch import Tensor

from fusionkit.batch import Batch, Fused
from fusionkit.color import luma


def recolor(fused: Tensor, visible: Tensor) -> Tensor:
    """A fused grey picture ``(B, 1, H, W)`` with the colour of the visible one; not clipped.

    .. math:: C_r = 0.713 (R - Y) + 0.5, \\quad C_b = 0.564 (B - Y) + 0.5
    """
    y = luma(visible)
    red, _, blue = visible.split(1, 1)
    cr, cb = 0.713 * (red - y), 0.564 * (blue - y)
    return torch.cat([fused + 1.403 * cr, fused - 0.714 * cr - 0.344 * cb, fused + 1.773 * cb], 1)


def grey_pictures(batch: Batch, fused: Fused) -> tuple[Tensor, Tensor, Tensor]:
    """Fused, visible, infrared, ``(B, 1, H, W)`` float32 each; the sources as they are clean."""
    grey = fused.maps["luma"] if "luma" in fused.maps else luma(fused.image)
    visible = luma(batch.targets.get("visible", batch.visible))
    infrared = luma(batch.targets.get("infrared", batch.infrared))
    return grey.float(), *(x.to(grey.device, torch.float32) for x in (visible, infrared))
