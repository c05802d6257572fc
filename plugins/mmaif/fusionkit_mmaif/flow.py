r"""Flow matching: a straight way from noise to the fused latents, and how it is walked.

.. math:: Z_t = (1 - t)\,X_0 + t\,Z_{GT}, \qquad v = Z_{GT} - X_0

Source: Y. Lipman et al., "Flow Matching for Generative Modeling", ICLR 2023; X. Liu et al.,
"Rectified Flow", ICLR 2023; P. Esser et al., "Scaling Rectified Flow Transformers", ICML 2024, for
the logit-normal times; the objective of MMAIF's flow variant.
"""

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

Velocity = Callable[[Tensor, Tensor], Tensor]
"""``(z, t) -> v``: latents ``(B, z, h, w)`` and times ``(B,)``."""

CALLS = {"euler": 1, "heun": 2}
"""Passes through the network per step."""


def draw_times(
    count: int, kind: Literal["logit-normal", "uniform"], device: torch.device
) -> Tensor:
    """Times of training samples in (0, 1), ``(count,)``."""
    if kind == "uniform":
        return torch.rand(count, device=device)
    return torch.sigmoid(torch.randn(count, device=device))


def interpolant(start: Tensor, end: Tensor, times: Tensor) -> tuple[Tensor, Tensor]:
    """The point on the way at each time, and the velocity there, which is that of the whole way."""
    t = times.to(end.dtype)[:, None, None, None]
    return torch.lerp(start, end, t), end - start


def integrate(
    velocity: Velocity, start: Tensor, steps: int, method: Literal["euler", "heun"] = "euler"
) -> Tensor:
    """From time 0 to 1 in equal steps; Heun's steps look at both of their ends."""
    z = start
    for step in range(steps):
        here = torch.full((len(z),), step / steps, device=z.device)
        v = velocity(z, here)
        if method == "heun":
            ahead = velocity(z + v / steps, here + 1 / steps)
            v = (v + ahead) / 2
        z = z + v / steps
    return z
