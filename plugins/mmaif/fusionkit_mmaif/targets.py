"""What a degraded pair is to become: the fusion of the clean pair."""

import os
from collections.abc import Callable

import torch
from torch import Tensor

from fusionkit.color import luma, recolor
from fusionkit.errors import BadRequest
from fusionkit.methods import load_method
from fusionkit.protocols import Pair
from fusionkit.registry import Registry

Provider = Callable[[Pair], Tensor]
"""``(pair) -> (3, H, W)`` in [0, 1]."""


def brighter(pair: Pair) -> Tensor:
    """The brighter luma at every pixel, with the colour of the visible picture. Our rule."""
    visible, infrared = pair.visible[None], pair.infrared[None]
    return recolor(torch.maximum(luma(visible), infrared), visible)[0]


def target_provider(
    name: str, checkpoint: str | os.PathLike[str] | None = None, registry: Registry | None = None
) -> Provider:
    """Makes the fused picture of a clean pair.

    Args:
        name: ``rule`` (:func:`brighter`), or a recipe: the paper fuses the clean pair with a
            published network (as far as we know SwinFusion for visible-infrared pairs).
        checkpoint: weights of that recipe.
        registry: where it comes from.
    """
    if name == "rule":
        if checkpoint is not None:
            raise BadRequest("mmaif: a target checkpoint belongs to a recipe; name it as target.")
        return brighter
    method = load_method(name, checkpoint, registry=registry, device="cpu", precision="float32")

    def fuse(pair: Pair) -> Tensor:
        return method.fuse(pair.infrared[None], pair.visible[None])[0]

    return fuse
