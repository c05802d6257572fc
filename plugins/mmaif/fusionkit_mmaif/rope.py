"""Rotary positions in two dimensions.

Source: J. Su et al., "RoFormer", 2021, eq. 34, once for rows and once for columns, as MMAIF has it
in every attention.
"""

import torch
from torch import Tensor

BASE = 10_000.0


def rotation(
    grid: tuple[int, int], head_dim: int, scale: float = 1.0, device: torch.device | None = None
) -> tuple[Tensor, Tensor]:
    """Cosines and sines of the angles of every place, row-major: ``(h w, 2, head_dim / 4)`` each.

    The first of the two turns by the row, the second by the column; the angle of pair i is
    ``scale * index * 10000 ** (-4 i / head_dim)``. A scale below 1 squeezes a larger grid into the
    range of positions that training had.
    """
    if head_dim % 4:
        raise ValueError(f"2-D rotary positions need heads of a multiple of 4, not {head_dim}.")
    rates = BASE ** (
        -torch.arange(head_dim // 4, device=device, dtype=torch.float32) * 4 / head_dim
    )
    rows, columns = (torch.arange(n, device=device, dtype=torch.float32) * scale for n in grid)
    places = torch.stack([rows[:, None].expand(grid), columns[None].expand(grid)], -1)  # h w 2
    angles = places.reshape(-1, 2, 1) * rates
    return angles.cos(), angles.sin()


def rotate(x: Tensor, turn: tuple[Tensor, Tensor]) -> Tensor:
    """``(..., N, d)`` turned pair by pair; pair i of each half of d is (i, i + d / 4)."""
    cos, sin = (t.to(x.dtype) for t in turn)
    first, second = x.unflatten(-1, (2, 2, -1)).unbind(-2)  # ... N 2 d/4
    turned = torch.stack([first * cos - second * sin, first * sin + second * cos], -2)
    return turned.flatten(-3)
