"""How much of the range from black to white a picture uses.

Source: write here whose definition it is: authors, title, venue, equation; or "ours".
"""

from typing import Any

import torch
from torch import Tensor

from fusionkit.color import luma


class Component:
    r"""Range of grey levels without the extremes.

    .. math:: Q_{0.95}(Y_f) - Q_{0.05}(Y_f)

    with quantiles Q of the luma of the fused picture; 0 for a constant picture.
    """

    name = "component-name"
    higher_is_better = True
    range = (0.0, 1.0)
    unit = "grey levels in [0, 1]"
    source = "ours"
    variant = ""
    needs = ("fused",)

    def __call__(self, fused: Tensor, ir: Tensor, vi: Tensor, **context: Any) -> Tensor:
        """``(B, 1 or 3, H, W)`` in [0, 1] -> ``(B,)``."""
        levels = luma(fused).flatten(1).double()
        low, high = torch.quantile(levels, torch.tensor([0.05, 0.95], dtype=levels.dtype), dim=1)
        return high - low
