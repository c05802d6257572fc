"""The terms of the default objective: how far the picture is from what was asked for.

Each needs ``batch.targets["fused"]``, the picture that the prompt asks for. Terms are unweighted.
"""

import torch
from torch import Tensor, nn

from fusionkit.batch import Batch, Fused


def _target(batch: Batch, term: str) -> Tensor:
    if "fused" not in batch.targets:
        raise ValueError(
            f"loss {term!r} compares with batch.targets['fused'], which this task does not make."
        )
    return batch.targets["fused"]


class PixelL1(nn.Module):
    r"""Mean absolute difference :math:`\overline{|F - T|}` over every pixel and channel.

    Source: standard; H. Zhao et al., "Loss Functions for Image Restoration with Neural Networks",
    IEEE TCI 2017, eq. 3.
    """

    def forward(self, batch: Batch, fused: Fused) -> dict[str, Tensor]:
        return {"pixel": (fused.image - _target(batch, "pixel")).abs().mean()}


class GradientL1(nn.Module):
    r"""Mean absolute difference of neighbouring-pixel differences, along rows and columns.

    .. math:: \overline{|\Delta_x F - \Delta_x T|} + \overline{|\Delta_y F - \Delta_y T|}

    Signed, so an edge of the wrong direction counts double. Source: gradient difference loss of
    M. Mathieu et al., ICLR 2016, eq. 6 with exponent 1, on signed differences.
    """

    def forward(self, batch: Batch, fused: Fused) -> dict[str, Tensor]:
        error = fused.image - _target(batch, "gradient")
        rows = (error[..., 1:, :] - error[..., :-1, :]).abs().mean()
        columns = (error[..., :, 1:] - error[..., :, :-1]).abs().mean()
        return {"gradient": rows + columns}


class RegionL1(nn.Module):
    r"""Absolute difference averaged over the named thing alone, and over the thing not named.

    .. math:: \overline{|F - T|}^{\,M} = \sum M |F - T| \,/\, \sum M

    A person covers one pixel in a hundred; a mean over the picture hardly sees it. Term ``region``
    needs ``batch.targets["mask"]``, ``(B, 1, H, W)``; with ``batch.targets["other"]``, the mask of
    what another prompt would have named, term ``contrast`` is the same over that thing, which
    must stay as it is. Pictures whose mask is empty do not count. Source: ours (the measured
    effect stands in the plugin's README).
    """

    def forward(self, batch: Batch, fused: Fused) -> dict[str, Tensor]:
        target = _target(batch, "region")
        if "mask" not in batch.targets:
            raise ValueError("loss 'region' needs batch.targets['mask'], which this task lacks.")
        error = (fused.image - target).abs().mean(1, keepdim=True)
        terms = {"region": _inside(error, batch.targets["mask"])}
        if "other" in batch.targets:
            terms["contrast"] = _inside(error, batch.targets["other"])
        return terms


def _inside(error: Tensor, mask: Tensor) -> Tensor:
    """Mean over the pictures that have a mask of the mean error inside it."""
    area = mask.sum((1, 2, 3))
    named = area > 0
    inside = (error * mask).sum((1, 2, 3)) / area.clamp(min=1)
    return torch.where(named, inside, torch.zeros_like(inside)).sum() / named.sum().clamp(min=1)
