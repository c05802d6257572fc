"""A lens that darkens towards the corners.

Source: write here whose model of the damage it is: authors, title, venue, equation; or "ours".
"""

from typing import Any

import torch
from torch import Tensor


class Component:
    r"""Vignetting: :math:`x\,(1 - 0.8\, s\, \rho^2)` at distance rho from the middle.

    rho is 1 in the corners, s the severity. Nothing is drawn at random.
    """

    name = "component-name"
    modality = "visible"
    prompts = ("remove the dark corners", "even out the brightness towards the corners")
    statements = ("the visible image is dark in the corners",)
    source = "ours"

    def __call__(
        self,
        image: Tensor,
        severity: float | Tensor,
        generator: torch.Generator | None = None,
        **context: Any,
    ) -> Tensor:
        """``(B, C, H, W)`` in [0, 1] -> the same; severity in [0, 1], a number or ``(B,)``."""
        strength = torch.as_tensor(severity, dtype=image.dtype, device=image.device)
        height, width = image.shape[-2:]
        y = torch.linspace(-1, 1, height, dtype=image.dtype, device=image.device)[:, None]
        x = torch.linspace(-1, 1, width, dtype=image.dtype, device=image.device)
        distance = (x.square() + y.square()) / 2
        return image * (1 - 0.8 * strength.reshape(-1, 1, 1, 1) * distance)
