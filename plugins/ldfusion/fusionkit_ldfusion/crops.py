"""Random windows and affine moves of LDFusion, and how much a crop holds.

The same family of moves serves the training samples and the crops of the patch loss: rotation and
horizontal shear of up to 5 degrees, a vertical shift of up to a tenth, enlargement of up to a half,
nearest neighbour, black where nothing is.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

ANGLE, SHEAR, SHIFT, ENLARGE = 5.0, 5.0, 0.1, 1.5


@dataclass(frozen=True, slots=True)
class Windows:
    """N square windows of one side, each with a move of its content about its centre."""

    side: int
    corners: Tensor
    """Top and left, ``(N, 2)``."""
    moves: Tensor
    """From a place in the result to the place it shows, ``(N, 2, 3)``, rows y and x, measured from
    the centre in pixels."""

    def __len__(self) -> int:
        return len(self.corners)

    def __getitem__(self, rows: slice) -> "Windows":
        return Windows(self.side, self.corners[rows], self.moves[rows])

    def cut(self, image: Tensor) -> Tensor:
        """``(B, C, H, W)`` -> ``(N, B, C, side, side)``, every window of every picture."""
        width = image.shape[-1]
        corners, moves = self.corners.to(image.device), self.moves.to(image.device)
        centre = (self.side - 1) / 2
        steps = torch.arange(self.side, device=image.device) - centre
        places = torch.stack(torch.meshgrid(steps, steps, indexing="ij")).flatten(1)  # (y, x), S S
        shown = moves[:, :, :2] @ places + moves[:, :, 2:]
        inside = (shown + centre).round().long()  # N (y, x) S*S
        real = ((inside >= 0) & (inside < self.side)).all(1)
        where = inside.clamp(0, self.side - 1) + corners[:, :, None]
        index = where[:, 0] * width + where[:, 1]
        found = image.flatten(2).index_select(2, index.flatten())
        found = found.unflatten(2, (len(self), -1)) * real.to(image.dtype)
        return found.permute(2, 0, 1, 3).unflatten(3, (self.side, self.side))


def draw_windows(
    count: int, size: tuple[int, int], side: int, generator: torch.Generator | None = None
) -> Windows:
    """Windows anywhere in pictures of a size, each with a random move."""
    free = torch.tensor([extent - side + 1 for extent in size])
    corners = (torch.rand(count, 2, generator=generator) * free).long()
    return Windows(side, corners, draw_moves(count, side, generator))


def draw_moves(count: int, side: int, generator: torch.Generator | None = None) -> Tensor:
    """Random moves of squares of a side, ``(count, 2, 3)`` as in :class:`Windows`."""
    angle, shear, shift, grow = torch.rand(4, count, generator=generator)
    angle, shear = (2 * angle - 1) * ANGLE, (2 * shear - 1) * SHEAR
    shift = ((2 * shift - 1) * SHIFT * side).round()
    return moves(angle, shear, shift, 1 + (ENLARGE - 1) * grow)


def moves(angle: Tensor, shear: Tensor, shift: Tensor, grow: Tensor) -> Tensor:
    """Turn (degrees, clockwise), horizontal shear (degrees), vertical shift (pixels), enlargement.

    The inverse of: shear, turn, enlarge about the centre, then shift; ``(N, 2, 3)``.
    """
    turn, lean = angle * math.pi / 180, torch.tan(shear * math.pi / 180)
    cos, sin = turn.cos(), turn.sin()
    # Rows y, x of the inverse of turn times shear; its determinant is one.
    y = torch.stack([cos, -sin], 1)
    x = torch.stack([sin + lean * cos, cos - lean * sin], 1)
    linear = torch.stack([y, x], 1) / grow[:, None, None]
    offset = -linear[:, :, 0] * shift[:, None]
    return torch.cat([linear, offset[:, :, None]], 2)


def entropy(patches: Tensor) -> Tensor:
    """Shannon entropy in bits of each patch, ``(N, C, H, W)`` -> ``(N,)``, no gradient.

    Of the histogram of 256 equal bins over [0, 1], all channels together; values outside do not
    count.
    """
    values = patches.detach().flatten(1)
    bins = (values * 256).floor().clamp(max=255).long()
    offset = 256 * torch.arange(len(values), device=values.device)[:, None]
    counted = (values >= 0) & (values <= 1)
    found = torch.bincount((bins + offset)[counted], minlength=256 * len(values))
    share = found.view(-1, 256).double()
    share = share / share.sum(1, keepdim=True).clamp(min=1)
    return torch.special.entr(share).sum(1).float() / math.log(2)
